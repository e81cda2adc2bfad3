// SPDX-License-Identifier: Apache-2.0
#pragma once

// A rank that computes nothing: it keeps the plans it got, and answers each step with a token that depends on
// all of them. Steps end when it is polled, and one that is told to hangs, as a collective does whose other
// rank is gone, until it is failed.

#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "gpu/plan_wire.hpp"
#include "gpu/ranks/group_device.hpp"

namespace spillway::gpu::ranks {

/// What a rank was given, as bytes, by rank.
class Log {
 public:
  void add(std::uint32_t rank, std::span<const std::byte> plan) {
    const std::lock_guard lock(mutex_);
    if (plans_.size() <= rank) plans_.resize(rank + 1);
    plans_[rank].emplace_back(reinterpret_cast<const char*>(plan.data()), plan.size());
  }
  [[nodiscard]] std::vector<std::string> of(std::uint32_t rank) {
    const std::lock_guard lock(mutex_);
    return rank < plans_.size() ? plans_[rank] : std::vector<std::string>();
  }

 private:
  std::mutex mutex_;
  std::vector<std::vector<std::string>> plans_;
};

struct FakeOptions {
  Log* log = nullptr;
  std::uint64_t hang_at = 0;   // the step that never ends by itself; 0: none
  std::uint64_t fail_at = 0;   // the step that fails
  std::string start_fails;     // why it cannot start
  std::uint64_t blocks = 100;  // that it has room for
  std::uint32_t max_steps_in_flight = 2;
};

class FakeRank final : public RankDevice {
 public:
  FakeRank(std::uint32_t rank, FakeOptions options) : rank_(rank), options_(std::move(options)) {
    info_.name = "fake:" + std::to_string(rank);
    info_.num_blocks = static_cast<std::uint32_t>(options_.blocks);
    info_.kv_block_bytes = 16;
    info_.needs_polling = true;
  }
  const DeviceInfo& info() const noexcept override { return info_; }
  void set_sink(CompletionSink* sink) noexcept override { sink_ = sink; }
  Result<void> admits(const StepPlan& plan) const override {
    if (!lost_.empty()) return Error{Errc::kDeviceFailed, lost_};
    if (plan.sequences.empty()) return Error{Errc::kInvalidArgument, "no sequences"};
    if (steps_.size() >= options_.max_steps_in_flight) return Error{Errc::kQueueFull, "full"};
    return {};
  }
  Result<void> admits(const CopyPlan&) const override {
    if (!lost_.empty()) return Error{Errc::kDeviceFailed, lost_};
    return {};
  }
  void fail(const Error& why) override { lost_ = info_.name + " failed: " + why.message; }

  Result<Ticket> submit(StepPlan plan) override {
    if (Result<void> good = admits(plan); !good) return good.error();
    keep(plan);
    steps_.push_back(std::move(plan));
    return ++last_step_;
  }
  Result<Ticket> copy(CopyPlan plan) override {
    if (Result<void> good = admits(plan); !good) return good.error();
    keep(plan);
    return ++last_copy_;
  }
  bool poll() noexcept override {
    if (done_copy_ < last_copy_ && sink_ != nullptr) sink_->on_copy_complete(++done_copy_);
    if (!steps_.empty() && (steps_.front().step != options_.hang_at || !lost_.empty())) {
      if (steps_.front().step == options_.fail_at && lost_.empty())
        lost_ = info_.name + " failed: it was told to";
      results_.push_back(result_of(steps_.front()));
      steps_.pop_front();
      if (sink_ != nullptr) sink_->on_step_complete(++done_step_);
    }
    return !steps_.empty() || done_copy_ < last_copy_;
  }
  StepResult take(Ticket) override {
    StepResult result = std::move(results_.front());
    results_.pop_front();
    return result;
  }

 private:
  template <class Plan>
  void keep(const Plan& plan) {
    bytes_.clear();
    encode(plan, bytes_);
    for (const std::byte b : bytes_.bytes()) hash_ = hash_ * 31 + static_cast<std::uint8_t>(b);
    if (options_.log != nullptr) options_.log->add(rank_, bytes_.bytes());
  }
  StepResult result_of(const StepPlan& plan) const {
    StepResult result;
    result.step = plan.step;
    result.failed = !lost_.empty();
    result.message = lost_;
    if (!result.failed) result.tokens.push_back({0, static_cast<TokenId>(hash_ & 0xffff), 0, {}});
    return result;
  }

  const std::uint32_t rank_;
  const FakeOptions options_;
  DeviceInfo info_;
  CompletionSink* sink_ = nullptr;
  WireWriter bytes_;
  std::uint32_t hash_ = 0;
  std::string lost_;
  std::deque<StepPlan> steps_;
  std::deque<StepResult> results_;
  Ticket last_step_ = 0, done_step_ = 0, last_copy_ = 0, done_copy_ = 0;
};

inline Result<std::unique_ptr<Device>> make_fake_group(RankPeers& peers, const FakeOptions& options) {
  GroupArgs args;
  args.range = peers.range();
  args.peers = &peers;
  args.make_id = []() -> Result<GroupId> { return GroupId{'i', 'd'}; };
  args.make_rank = [&](std::uint32_t rank, RankGroup& group) -> Result<std::unique_ptr<RankDevice>> {
    if (!options.start_fails.empty()) return Error{Errc::kOutOfMemory, options.start_fails};
    if (group.id()[1] != 'd' || !group.meet()) return another_failed();
    FakeOptions own = options;
    own.blocks += rank;
    if (!group.smallest(own.blocks)) return another_failed();
    return std::unique_ptr<RankDevice>(std::make_unique<FakeRank>(rank, own));
  };
  return create_group_device(args);
}

/// A step of one sequence.
inline StepPlan fake_step(std::uint64_t number) {
  StepPlan plan;
  plan.step = number;
  plan.tokens = {static_cast<TokenId>(number)};
  plan.block_table = {BlockId{0}};
  SequenceStep s;
  s.token_count = s.block_count = 1;
  s.samples = true;
  plan.sequences.push_back(s);
  return plan;
}

/// Submits and waits.
class FakeDriver final : public CompletionSink {
 public:
  explicit FakeDriver(Device& device) : device_(device) { device.set_sink(this); }
  void on_step_complete(Ticket ticket) noexcept override { done_ = ticket; }
  void on_copy_complete(Ticket ticket) noexcept override { copied_ = ticket; }

  [[nodiscard]] Result<StepResult> step(StepPlan plan) {
    Result<Ticket> ticket = device_.submit(std::move(plan));
    if (!ticket) return ticket.error();
    while (done_ < *ticket) (void)device_.poll();
    return device_.take(*ticket);
  }
  [[nodiscard]] Result<void> copy(CopyPlan plan) {
    Result<Ticket> ticket = device_.copy(std::move(plan));
    if (!ticket) return ticket.error();
    while (copied_ < *ticket) (void)device_.poll();
    return {};
  }

 private:
  Device& device_;
  Ticket done_ = 0, copied_ = 0;
};

}  // namespace spillway::gpu::ranks
