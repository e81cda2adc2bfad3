// SPDX-License-Identifier: Apache-2.0
// Four ranks on two nodes, each a host device with the whole model: what a leader gives out is what one
// device gives, and every rank drew the same.

#include <atomic>
#include <thread>

#include "gpu/plan_limits.hpp"
#include "gpu/ranks/group_device.hpp"
#include "gpu/ranks/joined_peers.hpp"
#include "gpu/ranks/lead_peers.hpp"
#include "tests/gpu/host_runner.hpp"
#include "tests/support/catch.hpp"

namespace spillway::gpu::ranks {
namespace {

using host::Answer;
using host::HostDevice;
using host::HostOptions;
using host::HostRunner;
using host::Request;

/// Tokens that each rank drew, in order.
struct Drawn {
  std::mutex mutex;
  std::vector<std::vector<TokenId>> of = std::vector<std::vector<TokenId>>(4);
};

class HostRank final : public RankDevice, private CompletionSink {
 public:
  HostRank(std::unique_ptr<Device> device, const DeviceOptions& options, std::vector<TokenId>& drawn, std::mutex& mutex)
      : options_(options), drawn_(drawn), mutex_(mutex), device_(std::move(device)) {
    device_->set_sink(this);
  }
  const DeviceInfo& info() const noexcept override { return device_->info(); }
  void set_sink(CompletionSink* sink) noexcept override { sink_ = sink; }
  Result<void> admits(const StepPlan& plan) const override {
    if (in_flight_.load() >= options_.max_steps_in_flight) return Error{Errc::kQueueFull, "full"};
    return validate_plan(plan, {.max_num_seqs = options_.max_num_seqs,
                                .max_num_batched_tokens = options_.max_num_batched_tokens,
                                .max_model_len = options_.max_model_len,
                                .num_blocks = info().num_blocks,
                                .block_size = options_.block_size,
                                .vocab_size = 128});
  }
  Result<void> admits(const CopyPlan&) const override { return {}; }
  void fail(const Error&) override {}
  Result<Ticket> submit(StepPlan plan) override {
    if (Result<void> good = admits(plan); !good) return good.error();
    in_flight_.fetch_add(1);
    return device_->submit(std::move(plan));
  }
  Result<Ticket> copy(CopyPlan plan) override { return device_->copy(std::move(plan)); }
  StepResult take(Ticket ticket) override {
    StepResult result = device_->take(ticket);
    const std::lock_guard lock(mutex_);
    for (const SampledToken& token : result.tokens) drawn_.push_back(token.token);
    return result;
  }

 private:
  void on_step_complete(Ticket ticket) noexcept override {
    in_flight_.fetch_sub(1);
    if (sink_ != nullptr) sink_->on_step_complete(ticket);
  }
  void on_copy_complete(Ticket ticket) noexcept override { sink_->on_copy_complete(ticket); }

  const DeviceOptions options_;
  std::vector<TokenId>& drawn_;
  std::mutex& mutex_;
  CompletionSink* sink_ = nullptr;
  std::atomic<std::uint32_t> in_flight_{0};
  std::unique_ptr<Device> device_;  // last: gone before its sink
};

const model::Model& small_model() {
  static const model::Model model =
      host::load_or_fail(std::string(SPW_SOURCE_ROOT) + "/tests/data/models/llama-gqa");
  return model;
}

HostOptions one_thread(HostRunner::LogitsHook on_logits = {}) {
  HostOptions options;
  options.threads = 1;
  options.on_logits = std::move(on_logits);
  return options;
}

Result<std::unique_ptr<Device>> make_node(RankPeers& peers, const DeviceOptions& options, Drawn& drawn,
                                          HostRunner::LogitsHook hook) {
  GroupArgs args;
  args.range = peers.range();
  args.peers = &peers;
  args.make_id = []() -> Result<GroupId> { return GroupId{}; };
  args.make_rank = [&](std::uint32_t rank, RankGroup& group) -> Result<std::unique_ptr<RankDevice>> {
    Result<std::unique_ptr<Device>> device =
        HostDevice::create(small_model().spec(), small_model().weights(), options,
                           one_thread(rank == 0 ? hook : HostRunner::LogitsHook()));
    if (!device) return device.error();
    if (!group.meet()) return another_failed();
    return std::unique_ptr<RankDevice>(
        std::make_unique<HostRank>(std::move(*device), options, drawn.of[rank], drawn.mutex));
  };
  return create_group_device(args);
}

}  // namespace

TEST_CASE("shared model: two nodes of two ranks answer as one device does, and all ranks draw the same") {
  std::vector<Request> requests(5);
  for (std::size_t r = 0; r < requests.size(); ++r) {
    for (int t = 0; t < 7 + 11 * static_cast<int>(r); ++t)
      requests[r].prompt.push_back((t * 13 + 5 * static_cast<int>(r)) % 128);
    requests[r].max_tokens = 12;
    requests[r].chunk = 16;
    requests[r].start_after = static_cast<std::uint32_t>(r);
    requests[r].params.temperature = r % 2 == 0 ? 0.0f : 0.9f;
    requests[r].params.seed = r;
    requests[r].params.repetition_penalty = r == 3 ? 1.2f : 1.0f;
    requests[r].params.logprobs = r == 1 ? 2 : -1;
  }
  HostRunner alone(small_model().spec(), small_model().weights(), host::small_device(), one_thread());
  const std::vector<Answer> expected = alone.run(requests);

  Drawn drawn;
  Welcome welcome;
  welcome.options = {.nodes = 2, .tensor_parallel_size = 4, .device = host::small_device()};
  welcome.model = fingerprint(small_model().spec(), small_model().tensors());
  Result<std::unique_ptr<LeadPeers>> lead = LeadPeers::listen({.port = 0});
  REQUIRE(lead.ok());
  Result<void> followed = Error{};
  std::thread follower([&, port = (*lead)->port()] {
    Result<std::unique_ptr<JoinedPeers>> peers = JoinedPeers::join({.port = port});
    if (!peers) return void(followed = peers.error());
    followed =
        check_same((*peers)->welcome().model, fingerprint(small_model().spec(), small_model().tensors()));
    if (!followed) return;
    Result<std::unique_ptr<Device>> device =
        make_node(**peers, (*peers)->welcome().options.device, drawn, {});
    followed = device ? (*peers)->follow(std::move(*device)) : device.error();
  });
  REQUIRE((*lead)->gather(welcome).ok());
  {
    HostRunner shared(host::small_device(), [&](HostRunner::LogitsHook hook) {
      return make_node(**lead, host::small_device(), drawn, std::move(hook));
    });
    const std::vector<Answer> answers = shared.run(requests);
    for (std::size_t r = 0; r < requests.size(); ++r) {
      CHECK(answers[r].tokens == expected[r].tokens);
      for (std::size_t t = 0; t < answers[r].sampled.size(); ++t)
        CHECK(answers[r].sampled[t].logprob == expected[r].sampled[t].logprob);
    }
  }
  follower.join();
  CHECK(followed.ok());
  CHECK(drawn.of[0].size() == 60);
  // A follower takes a step's result when the next plan comes, so its last ones may still be out.
  for (std::size_t rank = 1; rank < 4; ++rank) {
    CHECK(drawn.of[rank].size() >= 50);
    CHECK(drawn.of[rank].size() <= 60);
    CHECK(std::equal(drawn.of[rank].begin(), drawn.of[rank].end(), drawn.of[0].begin()));
  }
}

}  // namespace spillway::gpu::ranks
