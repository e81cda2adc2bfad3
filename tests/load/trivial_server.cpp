// SPDX-License-Identifier: Apache-2.0
// The tests' responder as a program, to see what the load generator itself can do: trivial_server
// [MS_PER_TOKEN] prints its port and answers until its stdin ends.

#include <cstdio>
#include <cstdlib>

#include "tests/load/responder.hpp"

int main(int argc, char** argv) {
  spillway::tests::Responder::Options options;
  if (argc > 1) options.per_token = std::chrono::milliseconds(std::atoi(argv[1]));
  if (argc > 2) options.first_token = std::chrono::milliseconds(std::atoi(argv[2]));
  const spillway::tests::Responder responder(options);
  std::printf("%d\n", responder.port());
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
}
