// SPDX-License-Identifier: Apache-2.0
// A node of fake ranks as a process, to be killed:
//   fake_node follow PORT             joins as node 1; prints why it ended
//   fake_node lead                    prints its port, runs steps for ever

#include <cstdio>
#include <cstdlib>
#include <string>

#include "gpu/ranks/joined_peers.hpp"
#include "gpu/ranks/lead_peers.hpp"
#include "tests/gpu/ranks/fake_rank.hpp"

namespace spillway::gpu::ranks {
namespace {

int end_with(const Error& why) { return std::printf("%s\n", why.message.c_str()), 1; }

int follow(std::uint16_t port) {
  Result<std::unique_ptr<JoinedPeers>> peers =
      JoinedPeers::join({.port = port, .timeout = std::chrono::seconds(20)});
  if (!peers) return end_with(peers.error());
  Result<std::unique_ptr<Device>> device = make_fake_group(**peers, {});
  if (!device) return end_with(device.error());
  std::printf("follows\n");
  std::fflush(stdout);
  if (Result<void> done = (*peers)->follow(std::move(*device)); !done) return end_with(done.error());
  return std::printf("ended\n"), 0;
}

int lead() {
  LeadOptions options;
  options.port = 0;
  options.timeout = std::chrono::seconds(20);
  Result<std::unique_ptr<LeadPeers>> peers = LeadPeers::listen(options);
  if (!peers) return end_with(peers.error());
  std::printf("%d\n", (*peers)->port());
  std::fflush(stdout);
  if (Result<void> all = (*peers)->gather({}); !all) return end_with(all.error());
  Result<std::unique_ptr<Device>> device = make_fake_group(**peers, {});
  if (!device) return end_with(device.error());
  FakeDriver driver(**device);
  for (std::uint64_t number = 1;; ++number)
    if (const Result<StepResult> result = driver.step(fake_step(number)); !result)
      return end_with(result.error());
}

}  // namespace
}  // namespace spillway::gpu::ranks

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "follow")
    return spillway::gpu::ranks::follow(static_cast<std::uint16_t>(std::atoi(argv[2])));
  return argc == 2 ? spillway::gpu::ranks::lead() : 2;
}
