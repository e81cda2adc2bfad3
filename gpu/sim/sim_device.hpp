// SPDX-License-Identifier: Apache-2.0
#pragma once

// SimDevice: a device that takes time but computes no numbers. Under the deterministic executor it runs the
// real scheduler, block manager and decoders through schedules and faults that no hardware would show on
// demand.
//
// It does keep a KV memory: each slot holds a value that depends on its token, its position and the slot
// before it, and a sampled token depends on every slot the sequence attends to. So a block that was shared
// wrongly, given to two sequences, reused too early or copied too late changes the answer, and
// reference_answer() says what the answer should have been. Sparsified sequences have slots of their own kind
// (sim_slots.hpp), judged in the same way.

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "gpu/device.hpp"
#include "gpu/sim/sim_slots.hpp"

namespace spillway::gpu {

/// Linear model of a step's time, ns. Measure it on the device that is to be simulated.
struct TimingProfile {
  std::int64_t step_ns = 1'000'000;  // weights, launch
  std::int64_t prefill_token_ns = 20'000;
  std::int64_t decode_sequence_ns = 50'000;
  std::int64_t attended_token_ns = 50;  // KV read by decode attention
  std::int64_t copy_block_ns = 10'000;
};

/// Chance of each fault, 0 to 1.
struct SimFaults {
  double step_fails = 0;
  double copy_fails = 0;
};

/// Where the device's time and luck come from: a deterministic executor, or a test.
struct SimEnvironment {
  std::function<std::int64_t()> now_ns;
  std::function<void(std::int64_t at_ns, std::function<void()>)> call_at;
  std::function<std::uint64_t()> random;
};

class SimDevice final : public Device {
 public:
  SimDevice(DeviceOptions options, std::size_t kv_bytes_per_token, std::int32_t vocab_size,
            TimingProfile profile, SimFaults faults, SimEnvironment environment);

  [[nodiscard]] const DeviceInfo& info() const noexcept override { return info_; }
  void set_sink(CompletionSink* sink) noexcept override { sink_ = sink; }
  [[nodiscard]] Result<Ticket> submit(StepPlan plan) override;
  [[nodiscard]] StepResult take(Ticket ticket) override;
  [[nodiscard]] Result<Ticket> copy(CopyPlan plan) override;

  [[nodiscard]] std::uint64_t steps_run() const noexcept { return steps_done_; }

 private:
  struct Row {
    model::SamplingParams params;
    std::uint32_t choice = 0;
    TokenId last = -1;
    std::uint64_t chain = 0;  // of a sparsified sequence: the value of its last token
  };

  [[nodiscard]] std::string wrong_with(const StepPlan& plan) const;
  [[nodiscard]] std::int64_t duration_ns(const StepPlan& plan) const;
  [[nodiscard]] StepResult execute(const StepPlan& plan);
  [[nodiscard]] bool chance(double probability);
  [[nodiscard]] Row& row_of(const SequenceStep& sequence) {
    return rows_[static_cast<std::uint32_t>(sequence.row)];
  }
  [[nodiscard]] TokenId token_of(const StepPlan& plan, const SequenceStep& sequence, std::uint32_t i);
  std::uint64_t run_exact(const StepPlan& plan, const SequenceStep& sequence);
  std::vector<std::uint64_t> write_sparse(const StepPlan& plan, const SequenceStep& sequence);
  std::uint64_t finish_sparse(const StepPlan& plan, std::uint32_t index,
                              std::span<const std::uint64_t> values, StepResult& result);
  std::uint64_t& slot(const StepPlan& plan, const SequenceStep& sequence, std::uint32_t position);

  DeviceOptions options_;
  DeviceInfo info_;
  std::int32_t vocab_size_;
  TimingProfile profile_;
  SimFaults faults_;
  SimEnvironment environment_;
  CompletionSink* sink_ = nullptr;

  std::vector<std::uint64_t> memory_;  // [block][slot]
  SimSlots slots_;
  std::vector<Row> rows_;
  std::deque<StepPlan> steps_;  // submitted, not done
  std::map<Ticket, StepResult> results_;
  std::map<Ticket, std::int64_t> copy_end_ns_;
  std::map<Ticket, std::int64_t> step_end_ns_;
  Ticket last_step_ = 0, last_copy_ = 0;
  std::uint64_t steps_done_ = 0;
  std::int64_t compute_free_ns_ = 0, copy_free_ns_ = 0;
};

/// The tokens that a SimDevice samples for a prompt when nothing goes wrong: `count` of them, or up to and
/// with the first of `stop`.
[[nodiscard]] std::vector<TokenId> reference_answer(std::span<const TokenId> prompt,
                                                    const model::SamplingParams& params, std::uint32_t choice,
                                                    std::int32_t vocab_size, std::uint32_t count,
                                                    std::span<const TokenId> stop);

}  // namespace spillway::gpu
