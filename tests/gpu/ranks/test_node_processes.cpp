// SPDX-License-Identifier: Apache-2.0
// Nodes as processes, one of which is killed.

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <optional>
#include <string>
#include <thread>

#include "gpu/ranks/joined_peers.hpp"
#include "gpu/ranks/lead_peers.hpp"
#include "tests/gpu/ranks/fake_rank.hpp"
#include "tests/support/catch.hpp"

namespace spillway::gpu::ranks {
namespace {

using namespace std::chrono_literals;
using Catch::Matchers::Contains;

/// fake_node, with what it prints.
class Node {
 public:
  explicit Node(const std::string& mode, const std::string& port = "") {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(ends[1], 1);
      ::execl(SPW_FAKE_NODE, "fake_node", mode.c_str(), port.empty() ? nullptr : port.c_str(), nullptr);
      ::_exit(127);
    }
    ::close(ends[1]);
    out_ = ::fdopen(ends[0], "r");
  }
  ~Node() {
    if (pid_ > 0) kill(SIGKILL);
    std::fclose(out_);
  }
  [[nodiscard]] std::string line() {
    char text[512] = {};
    if (std::fgets(text, sizeof text, out_) == nullptr) return {};
    std::string line(text);
    while (!line.empty() && line.back() == '\n') line.pop_back();
    return line;
  }
  void kill(int signal) {
    ::kill(pid_, signal);
    if (signal == SIGKILL) (void)wait();
  }
  int wait() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  pid_t pid_ = -1;
  FILE* out_ = nullptr;
};

std::unique_ptr<LeadPeers> listen() {
  LeadOptions options;
  options.port = 0;
  options.timeout = 20s;
  Result<std::unique_ptr<LeadPeers>> peers = LeadPeers::listen(options);
  REQUIRE(peers.ok());
  return std::move(*peers);
}

/// The leader here, node 1 as a process, and a few steps done.
struct LedHere {
  explicit LedHere(FakeOptions fake) {
    REQUIRE(peers->gather({}).ok());
    Result<std::unique_ptr<Device>> made = make_fake_group(*peers, fake);
    REQUIRE(made.ok());
    device = std::move(*made);
    driver.emplace(*device);
    CHECK(node.line() == "follows");
    for (std::uint64_t i = 1; i <= 3; ++i) REQUIRE_FALSE(driver->step(fake_step(i))->failed);
  }
  std::unique_ptr<LeadPeers> peers = listen();
  Node node{"follow", std::to_string(peers->port())};
  std::unique_ptr<Device> device;
  std::optional<FakeDriver> driver;
};

}  // namespace

TEST_CASE("node processes: a follower is told of the end, and ends") {
  LedHere led({});
  led.device.reset();
  CHECK(led.node.line() == "ended");
  CHECK(led.node.wait() == 0);
}

TEST_CASE("node processes: a follower that is killed in mid-step fails it by name, and this process lives") {
  LedHere led({.hang_at = 4});  // as a collective would, with the other rank gone
  std::thread killer([&] {
    std::this_thread::sleep_for(200ms);
    led.node.kill(SIGKILL);
  });
  const Result<StepResult> result = led.driver->step(fake_step(4));
  killer.join();
  REQUIRE(result.ok());
  CHECK(result->failed);
  CHECK_THAT(result->message, Contains("fake:0 failed: node 1 (127.0.0.1:") && Contains("is gone: "));
  const Result<StepResult> later = led.driver->step(fake_step(5));
  REQUIRE_FALSE(later.ok());
  CHECK(later.error().code == Errc::kDeviceFailed);
  CHECK_THAT(later.error().message, Contains("is gone: "));
}

TEST_CASE("node processes: a follower that is killed while nothing runs fails the next step") {
  LedHere led({});
  led.node.kill(SIGKILL);
  const auto until = std::chrono::steady_clock::now() + 20s;
  while (led.peers->lost() == nullptr && std::chrono::steady_clock::now() < until)
    std::this_thread::sleep_for(10ms);
  const Result<StepResult> result = led.driver->step(fake_step(4));
  REQUIRE_FALSE(result.ok());
  CHECK_THAT(result.error().message, Contains("node 1 (127.0.0.1:") && Contains("is gone: "));
}

TEST_CASE("node processes: a follower that stands still is lost after a while") {
  LedHere led({.hang_at = 4});
  led.node.kill(SIGSTOP);
  const Result<StepResult> result = led.driver->step(fake_step(4));
  REQUIRE(result.ok());
  CHECK(result->failed);
  CHECK_THAT(result->message, Contains("node 1 (127.0.0.1:") && Contains("nothing was heard of it for 10 s"));
}

TEST_CASE("node processes: a follower whose leader is killed ends with a sentence") {
  Node leader("lead");
  const std::string port = leader.line();
  Result<std::unique_ptr<JoinedPeers>> peers =
      JoinedPeers::join({.port = static_cast<std::uint16_t>(std::stoi(port)), .timeout = 20s});
  REQUIRE(peers.ok());
  Result<std::unique_ptr<Device>> device =
      make_fake_group(**peers, {.hang_at = 5});  // a rank that waits for the leader's
  REQUIRE(device.ok());
  std::thread killer([&] {
    std::this_thread::sleep_for(200ms);
    leader.kill(SIGKILL);
  });
  const Result<void> ended = (*peers)->follow(std::move(*device));
  killer.join();
  REQUIRE_FALSE(ended.ok());
  CHECK_THAT(ended.error().message, Contains("the leader at 127.0.0.1:" + port + " is gone: "));
}

TEST_CASE("node processes: both ends say so when a node of the start is killed") {
  std::unique_ptr<LeadPeers> lead = listen();
  {
    Node node("follow", std::to_string(lead->port()));
    REQUIRE(lead->gather({}).ok());
  }  // killed while its ranks wait for the leader's
  const Result<std::unique_ptr<Device>> device = make_fake_group(*lead, {});
  REQUIRE_FALSE(device.ok());
  CHECK_THAT(device.error().message, Contains("node 1 (127.0.0.1:") && Contains("is gone: "));
}

}  // namespace spillway::gpu::ranks
