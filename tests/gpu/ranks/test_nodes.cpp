// SPDX-License-Identifier: Apache-2.0
// Two and three nodes as threads of this process, over loopback, with ranks that compute nothing.

#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include <unistd.h>

#include "gpu/ranks/joined_peers.hpp"
#include "gpu/ranks/lead_peers.hpp"
#include "tests/gpu/ranks/fake_rank.hpp"
#include "tests/gpu/ranks/random_plans.hpp"
#include "tests/support/catch.hpp"

namespace spillway::gpu::ranks {
namespace {

using namespace std::chrono_literals;
using Catch::Matchers::Contains;

const std::string kKey = "0123456789abcdef";

Welcome welcome(std::uint32_t nodes = 2, std::uint32_t ranks = 2) {
  Welcome w;
  w.options.nodes = nodes;
  w.options.tensor_parallel_size = ranks;
  w.options.device.block_size = 32;
  w.options.device.kv_dtype = KvDType::kBF16;
  w.model.config[3] = 7;
  return w;
}

/// Notes of a leader, and where it listens.
struct Lead {
  explicit Lead(const std::string& key = kKey, std::chrono::milliseconds timeout = 20s) {
    LeadOptions options;
    options.port = 0;
    options.key = key;
    options.timeout = timeout;
    options.on_note = [this](const std::string& text) { notes += text + "\n"; };
    Result<std::unique_ptr<LeadPeers>> listening = LeadPeers::listen(options);
    REQUIRE(listening.ok());
    peers = std::move(*listening);
  }
  [[nodiscard]] JoinOptions joining(std::uint32_t node = 1, const std::string& key = kKey) const {
    return {.port = peers->port(), .node = node, .key = key, .timeout = 20s};
  }
  std::string notes;
  std::unique_ptr<LeadPeers> peers;
};

/// A follower on a thread: joins, makes its ranks, follows. What it ended with.
class FollowerThread {
 public:
  FollowerThread(JoinOptions options, FakeOptions fake)
      : thread_(
            [this, options = std::move(options), fake = std::move(fake)] { ended_ = run(options, fake); }) {}
  ~FollowerThread() {
    if (thread_.joinable()) thread_.join();
  }
  /// "" or the error.
  std::string end() {
    thread_.join();
    return ended_.ok() ? std::string() : ended_.error().message;
  }

 private:
  static Result<void> run(const JoinOptions& options, const FakeOptions& fake) {
    Result<std::unique_ptr<JoinedPeers>> peers = JoinedPeers::join(options);
    if (!peers) return peers.error();
    Result<std::unique_ptr<Device>> device = make_fake_group(**peers, fake);
    if (!device) return device.error();
    return (*peers)->follow(std::move(*device));
  }
  Result<void> ended_;
  std::thread thread_;
};

}  // namespace

TEST_CASE("nodes: all ranks get the same plans in the same order, and the leader's results count") {
  Log log;
  Lead lead;
  FollowerThread one(lead.joining(1), {.log = &log}), two(lead.joining(2), {.log = &log});
  REQUIRE(lead.peers->gather(welcome(3, 6)).ok());
  {
    Result<std::unique_ptr<Device>> device = make_fake_group(*lead.peers, {.log = &log});
    REQUIRE(device.ok());
    CHECK((*device)->info().name == "6 x fake:0");
    CHECK((*device)->info().num_blocks == 100);  // the smallest of 100 to 105
    CHECK((*device)->info().kv_block_bytes == 6 * 16);
    FakeDriver driver(**device);
    RandomPlans plans(3);
    for (std::uint64_t i = 1; i <= 300; ++i) {
      StepPlan plan = plans.step();
      plan.step = i;
      plan.sequences.emplace_back();
      const Result<StepResult> result = driver.step(plan);
      REQUIRE(result.ok());
      REQUIRE_FALSE(result->failed);
      CHECK(result->step == i);
      if (i % 3 == 0) REQUIRE(driver.copy(plans.copy()).ok());
    }
  }
  CHECK(one.end().empty());
  CHECK(two.end().empty());
  CHECK(log.of(0).size() == 400);
  for (std::uint32_t rank = 1; rank < 6; ++rank) CHECK(log.of(rank) == log.of(0));
}

TEST_CASE("nodes: what must agree arrives as the leader has it") {
  Lead lead;
  std::optional<Welcome> heard;
  std::thread follower([&] {
    Result<std::unique_ptr<JoinedPeers>> peers = JoinedPeers::join(lead.joining());
    if (peers.ok()) heard = (*peers)->welcome();
  });
  Welcome said = welcome(2, 4);
  said.options.device = {KvDType::kQ8_0, 8, 1, 2, 3, 4, 5, 6, true};
  said.options.gpu_memory_utilization = 0.25;
  said.options.dummy_weights = said.options.dequantize = true;
  said.options.dummy_dtype = model::DType::kQ4_1;
  said.options.graphs = false;
  said.model.weights[31] = 9;
  CHECK(lead.peers->gather(said).ok());
  follower.join();
  REQUIRE(heard.has_value());
  const auto all = [](const SharedOptions& o) {
    const DeviceOptions& d = o.device;
    return std::tie(o.nodes, o.tensor_parallel_size, o.gpu_memory_utilization, o.dummy_weights, o.dummy_dtype,
                    o.dequantize, o.graphs, d.kv_dtype, d.block_size, d.kv_cache_memory_bytes,
                    d.host_pool_bytes, d.max_num_seqs, d.max_num_batched_tokens, d.max_model_len,
                    d.max_steps_in_flight, d.sparse_kv);
  };
  CHECK(all(heard->options) == all(said.options));
  CHECK(heard->model == said.model);
}

TEST_CASE("nodes: a plan that the leader refuses goes to nobody") {
  Log log;
  Lead lead;
  FollowerThread one(lead.joining(), {.log = &log});
  REQUIRE(lead.peers->gather(welcome()).ok());
  {
    Result<std::unique_ptr<Device>> device = make_fake_group(*lead.peers, {.log = &log});
    REQUIRE(device.ok());
    FakeDriver driver(**device);
    CHECK(driver.step({}).error().message == "no sequences");
    CHECK(driver.step(fake_step(1)).ok());
  }
  CHECK(one.end().empty());
  CHECK(log.of(1).size() == 1);
}

TEST_CASE("nodes: a follower that is there before the leader waits for it") {
  std::uint16_t port = 0;
  {
    Lead before;
    port = before.peers->port();
  }
  FollowerThread early({.port = port, .key = kKey, .timeout = 20s}, {});
  std::this_thread::sleep_for(300ms);
  LeadOptions options;
  options.port = port;
  options.key = kKey;
  Result<std::unique_ptr<LeadPeers>> lead = LeadPeers::listen(options);
  REQUIRE(lead.ok());
  REQUIRE((*lead)->gather(welcome()).ok());
  Result<std::unique_ptr<Device>> device = make_fake_group(**lead, {});
  REQUIRE(device.ok());
  device->reset();
  CHECK(early.end().empty());
}

TEST_CASE("nodes: who does not come is named, and those who came hear of it") {
  Lead lead(kKey, 500ms);
  FollowerThread two(lead.joining(2), {});
  const Result<void> gathered = lead.peers->gather(welcome(4, 4));
  REQUIRE_FALSE(gathered.ok());
  CHECK(gathered.error().code == Errc::kDeadlineExceeded);
  CHECK_THAT(gathered.error().message,
             Contains("node 1, node 3 of 4 did not come to 127.0.0.1:") && Contains("within 500 ms"));
  CHECK_THAT(two.end(), Contains("node 1, node 3 of 4 did not come"));
  CHECK_THAT(lead.notes, Contains("waiting for node 1, node 2, node 3 at") && Contains("node 2 (127.0.0.1:"));
}

TEST_CASE("nodes: without a leader a follower says where there is none") {
  std::uint16_t port = 0;
  {
    Lead before;
    port = before.peers->port();
  }
  FollowerThread alone({.port = port, .key = kKey, .timeout = 300ms}, {});
  CHECK(alone.end() == "there is no leader at 127.0.0.1:" + std::to_string(port) + ": Connection refused");
}

TEST_CASE("nodes: another key is refused on either side, and the start goes on without who has it") {
  Lead lead;
  const std::string other = "fedcba9876543210";
  FollowerThread wrong(lead.joining(1, other), {});
  bool joined = false;
  std::thread right_one([&] {
    std::this_thread::sleep_for(300ms);
    joined = JoinedPeers::join(lead.joining()).ok();
  });
  CHECK(lead.peers->gather(welcome()).ok());
  right_one.join();
  CHECK(joined);
  CHECK_THAT(wrong.end(), Contains("its key is not the one here (--master-key-file)"));
  CHECK_THAT(lead.notes, Contains("refused 127.0.0.1:") && Contains("its key is not the leader's"));
}

TEST_CASE("nodes: who skips the proof is refused") {
  Lead lead(kKey, 1s);
  std::vector<Message> answers;
  std::thread stranger([&] {
    Result<std::unique_ptr<Link>> link = Link::connect("127.0.0.1", lead.peers->port(), Clock::now() + 5s);
    if (!link.ok()) return;
    const auto answer = [&] {
      const Result<Frame> frame = (*link)->receive_by(Clock::now() + 5s);
      if (frame.ok()) answers.push_back(static_cast<Message>(frame->kind));
    };
    // The hello is of a follower; its proof is made up.
    WireWriter hello;
    hello(std::array<char, 8>{'S', 'P', 'W', 'R', 'A', 'N', 'K', 'S'}, kWireVersion,
          std::string(SPILLWAY_VERSION), std::uint32_t{1}, Digest{});
    (void)send_message(**link, Message::kHello, hello.bytes());
    answer();
    const Digest made_up{};
    (void)send_message(**link, Message::kProof, std::as_bytes(std::span(made_up)));
    answer();
  });
  const Result<void> gathered = lead.peers->gather(welcome());
  stranger.join();
  CHECK((answers == std::vector{Message::kChallenge, Message::kGiveUp}));
  REQUIRE_FALSE(gathered.ok());
  CHECK_THAT(gathered.error().message,
             Contains("refused was 127.0.0.1:") && Contains("its key is not the leader's"));
}

TEST_CASE("nodes: strangers that speak otherwise, too much or not at all do not end the start") {
  Lead lead;
  std::vector<std::unique_ptr<Link>> strangers;
  std::mt19937 random(5);
  for (int i = 0; i < 20; ++i) {
    Result<std::unique_ptr<Link>> link = Link::connect("127.0.0.1", lead.peers->port(), Clock::now() + 5s);
    REQUIRE(link.ok());
    std::vector<std::byte> noise(random() % 2000);
    for (std::byte& b : noise) b = static_cast<std::byte>(random());
    (void)(*link)->send(static_cast<std::uint8_t>(random() % 14), noise);
    if (i != 7) strangers.push_back(std::move(*link));
  }
  FollowerThread right(lead.joining(), {});
  CHECK(lead.peers->gather(welcome()).ok());
  Result<std::unique_ptr<Device>> device = make_fake_group(*lead.peers, {});
  CHECK(device.ok());
  device->reset();
  CHECK(right.end().empty());
}

TEST_CASE("nodes: node numbers that are taken or do not exist are refused by name") {
  Lead lead(kKey, 2s);
  Result<std::unique_ptr<JoinedPeers>> first = Error{}, again = Error{}, beyond = Error{};
  std::thread joins([&] {
    first = JoinedPeers::join(lead.joining(1));
    again = JoinedPeers::join(lead.joining(1));
    beyond = JoinedPeers::join(lead.joining(3));
  });
  CHECK_FALSE(lead.peers->gather(welcome(3, 3)).ok());
  joins.join();
  CHECK(first.ok());
  REQUIRE_FALSE(again.ok());
  CHECK_THAT(again.error().message, Contains("node 1 has come already, from 127.0.0.1:"));
  REQUIRE_FALSE(beyond.ok());
  CHECK_THAT(beyond.error().message, Contains("its --node-rank is 3; with --nnodes 3 there are 1 to 2"));
}

TEST_CASE("nodes: an address that other hosts reach needs a key") {
  LeadOptions options;
  options.host = "0.0.0.0";
  options.port = 0;
  const Result<std::unique_ptr<LeadPeers>> open = LeadPeers::listen(options);
  REQUIRE_FALSE(open.ok());
  CHECK_THAT(open.error().message, Contains("--master-addr 0.0.0.0") && Contains("--master-key-file"));
  options.key = kKey;
  CHECK(LeadPeers::listen(options).ok());
}

TEST_CASE("nodes: one that cannot start takes the others along, and all say why") {
  const bool leader_fails = GENERATE(true, false);
  Lead lead;
  FollowerThread one(lead.joining(1), {.start_fails = leader_fails ? "" : "no room here"});
  FollowerThread two(lead.joining(2), {});
  REQUIRE(lead.peers->gather(welcome(3, 6)).ok());
  const Result<std::unique_ptr<Device>> device =
      make_fake_group(*lead.peers, {.start_fails = leader_fails ? "no room here" : ""});
  REQUIRE_FALSE(device.ok());
  CHECK_THAT(device.error().message, Contains("no room here"));
  if (!leader_fails) CHECK_THAT(device.error().message, Contains("node 1 (127.0.0.1:"));
  CHECK_THAT(one.end(), Contains("no room here"));
  CHECK_THAT(two.end(), Contains("no room here"));
}

TEST_CASE("nodes: a rank that fails ends all nodes with its words") {
  const std::uint32_t failing = GENERATE(0u, 1u, 2u);
  Lead lead;
  const auto fake = [&](std::uint32_t node) {
    return FakeOptions{.hang_at = node == failing ? 0u : 5u, .fail_at = node == failing ? 5u : 0u};
  };
  FollowerThread one(lead.joining(1), fake(1)), two(lead.joining(2), fake(2));
  REQUIRE(lead.peers->gather(welcome(3, 6)).ok());
  Result<std::unique_ptr<Device>> device = make_fake_group(*lead.peers, fake(0));
  REQUIRE(device.ok());
  FakeDriver driver(**device);
  for (std::uint64_t i = 1; i <= 4; ++i) REQUIRE_FALSE(driver.step(fake_step(i))->failed);
  const Result<StepResult> failed = driver.step(fake_step(5));
  REQUIRE(failed.ok());
  CHECK(failed->failed);
  CHECK_THAT(failed->message, Contains("failed: it was told to"));
  if (failing != 0)
    CHECK_THAT(failed->message, Contains("fake:0 failed: node " + std::to_string(failing) + " (127.0.0.1:"));
  const Result<StepResult> later = driver.step(fake_step(6));
  REQUIRE_FALSE(later.ok());
  CHECK(later.error().code == Errc::kDeviceFailed);
  CHECK_THAT(one.end(), Contains("failed: it was told to"));
  CHECK_THAT(two.end(), Contains("failed: it was told to"));
}

TEST_CASE("nodes: ranks that are full and wait for one that is gone let go of it") {
  Lead lead;
  FollowerThread one(lead.joining(1), {.hang_at = 1, .max_steps_in_flight = 1});
  REQUIRE(lead.peers->gather(welcome(2, 6)).ok());
  Result<std::unique_ptr<Device>> device =
      make_fake_group(*lead.peers, {.hang_at = 3});
  REQUIRE(device.ok());
  FakeDriver driver(**device);
  for (std::uint64_t i = 1; i <= 2; ++i) REQUIRE_FALSE(driver.step(fake_step(i))->failed);
  std::this_thread::sleep_for(50ms);  // the other node's ranks are at step 1, and the plans behind it wait
  lead.peers->give_up({Errc::kDeviceFailed, "enough"});
  CHECK_THAT(one.end(), Contains("enough"));
}

TEST_CASE("nodes: the model's fingerprint tells config, tensors and weights apart, and not the name") {
  model::ModelSpec spec;
  spec.architecture = "llama";
  spec.hidden_size = 64;
  std::vector<std::byte> data(20000, std::byte{1});
  model::TensorView tensor{"q", model::DType::kF32, {50, 100}, data};
  const auto print = [&] { return fingerprint(spec, std::vector<const model::TensorView*>{&tensor}); };
  const Fingerprint first = print();
  spec.name = "another directory";
  CHECK(check_same(first, print()).ok());
  const auto differs = [&](const std::string& what) {
    const Result<void> same = check_same(first, print());
    REQUIRE_FALSE(same.ok());
    CHECK_THAT(same.error().message, Contains(what));
  };
  spec.rope.inv_freq = {1.0f};
  differs("its configuration");
  spec.rope.inv_freq.clear();
  tensor.shape = {100, 50};
  differs("its tensors' names, types or shapes differ");
  tensor.shape = {50, 100};
  tensor.name = "k";
  differs("its tensors'");
  tensor.name = "q";
  for (const std::size_t at : {0, 10000, 19999}) {
    data[at] = std::byte{2};
    differs("its weights differ");
    data[at] = std::byte{1};
  }
  CHECK(check_same(first, print()).ok());
  tensor.data = {};  // shorter than a page
  differs("its tensors'");
}

TEST_CASE("nodes: keys come from a file's first line and are not too short") {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("spillway-key-" + std::to_string(::getpid()));
  const auto key = [&](const std::string& text) {
    std::ofstream(path) << text;
    return read_key(path);
  };
  CHECK(*key("0123456789abcdef\r\nmore\n") == kKey);
  CHECK_THAT(key("short\n").error().message, Contains("has 5 bytes; use at least 16"));
  std::filesystem::remove(path);
  CHECK(read_key(path).error().code == Errc::kNotFound);
}

}  // namespace spillway::gpu::ranks
