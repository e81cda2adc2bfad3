// SPDX-License-Identifier: Apache-2.0
// Ends that come from outside: Ctrl-C, a closed pipe, a full disk.

#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <csignal>

#include "tests/e2e/program.hpp"
#include "tests/support/catch.hpp"

namespace {

using namespace spillway::e2e;
namespace json = boost::json;

/// Long enough that no machine ends it before the test has done its part.
std::vector<std::string> endless() {
  return {"generate",     tiny_model("llama-gqa", 200'000).string(),
          "--prompt",     "hello",
          "--ignore-eos", "--max-tokens",
          "190000"};
}

}  // namespace

TEST_CASE("spillway generate: Ctrl-C ends a stream cleanly, with exit code 130") {
  Running running(endless());
  const std::string begun = running.read_until("\n");
  REQUIRE(!begun.empty());
  running.signal(SIGINT);
  const Ran ran = running.finish();
  CHECK(ran.code == 130);
  CHECK(ran.err.empty());
  CHECK(ran.out.ends_with('\n'));
}

TEST_CASE("spillway generate: SIGTERM ends a stream cleanly, with exit code 143") {
  Running running(endless());
  REQUIRE(!running.read_until("\n").empty());
  running.signal(SIGTERM);
  const Ran ran = running.finish();
  CHECK(ran.code == 143);
  CHECK(ran.err.empty());
}

TEST_CASE("spillway generate: after Ctrl-C a batch still answers every line, with what there is") {
  std::string lines = "{\"prompt\": \"short\", \"max_tokens\": 2}\n";
  for (int i = 0; i < 99; ++i) lines += "{\"prompt\": \"long\"}\n";
  Running running({"generate", tiny_model("llama-gqa", 200'000).string(), "--prompts", "-", "--json",
                   "--ignore-eos", "--max-tokens", "100000", "--max-num-seqs", "8"},
                  lines);
  REQUIRE(!running.read_until("\n").empty());  // the first answer is out while the others run
  running.signal(SIGINT);
  const Ran ran = running.finish();
  CHECK(ran.code == 130);
  const std::vector<std::string> out = lines_of(ran.out);
  REQUIRE(out.size() == 100);
  CHECK(json::parse(out[0]).at("finish_reason") == "length");
  for (std::size_t i = 0; i < out.size(); ++i) {
    const json::value line = json::parse(out[i]);
    CHECK(line.at("id") == i);
    if (i != 0) CHECK((line.as_object().contains("error") || line.at("finish_reason") == "cancelled"));
  }
}

TEST_CASE("spillway generate: a reader that closes the pipe ends it quietly") {
  Running running(endless());
  REQUIRE(!running.read_until("\n").empty());
  running.close_stdout();
  const Ran ran = running.finish();
  CHECK(ran.code == 0);
  CHECK(ran.err.empty());
}

TEST_CASE("spillway: a full disk behind stdout is a failure, said in one line") {
  for (const char* command :
       {"generate \"$0\" --prompt hello --max-tokens 4 --ignore-eos --json", "inspect \"$0\"", "--help"}) {
    const Ran ran =
        run_program({"/bin/sh", "-c", std::string("exec \"$SPILLWAY\" ") + command + " >/dev/full",
                     tiny_model().string()});
    INFO(command << ": " << ran.err);
    CHECK(ran.code == 1);
    CHECK(ran.err == "spillway: stdout: No space left on device\n");
  }
}

TEST_CASE("spillway: a closed stdout is a failure and no file takes its place") {
  const Ran ran =
      run_program({"/bin/sh", "-c", "exec \"$SPILLWAY\" inspect \"$0\" >&-", tiny_model().string()});
  CHECK(ran.code == 1);
  CHECK(lines_of(ran.err).size() == 1);
}
