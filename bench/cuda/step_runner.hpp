// SPDX-License-Identifier: Apache-2.0
#pragma once

// Steps on a device without an engine around it: sequences over blocks of their own, submitted and waited for
// by the thread that calls. A step that fails ends the program.

#include <cstdint>
#include <string>
#include <vector>

#include "gpu/device.hpp"

namespace spillway::bench {

inline constexpr std::uint32_t kBlock = 16;     // slots a block
inline constexpr std::uint32_t kFilled = 1024;  // context that is written once and then read

class StepRunner {
 public:
  /// `filled`: tokens that a sequence's blocks hold, as far as they are its own.
  StepRunner(gpu::Device& device, std::uint32_t vocab, std::uint32_t filled = kFilled);

  /// Adds tokens [first, first + tokens) of sequence `index`. Neighbours in it are far apart in the pool.
  void add(gpu::StepPlan& plan, std::uint32_t index, std::uint32_t first, std::uint32_t tokens, bool samples,
           bool from_row) const;

  gpu::Ticket submit(gpu::StepPlan plan);
  [[nodiscard]] bool is_done(gpu::Ticket ticket) const { return done_ >= ticket; }
  /// Device time in ms of a step that is done.
  double take(gpu::Ticket ticket);
  /// Waits for one step; device time in ms.
  double run(gpu::StepPlan plan);

  struct Times {
    double device_ms = 0, wall_ms = 0;
  };
  /// Runs `count` copies of a step, two in flight; device times, and the host's time for all of them.
  Times run(const gpu::StepPlan& plan, int count);

  gpu::Ticket copy(gpu::CopyPlan plan);
  [[nodiscard]] gpu::Ticket copied() const { return copied_; }
  [[nodiscard]] gpu::Device& device() const { return device_; }

 private:
  struct Sink final : gpu::CompletionSink {
    Sink(gpu::Ticket& done, gpu::Ticket& copied) : done(done), copied(copied) {}
    void on_step_complete(gpu::Ticket ticket) noexcept override { done = ticket; }
    void on_copy_complete(gpu::Ticket ticket) noexcept override { copied = ticket; }
    gpu::Ticket &done, &copied;
  };
  [[noreturn]] static void fail(const std::string& message);

  gpu::Device& device_;
  std::uint32_t vocab_, filled_;
  std::uint64_t step_ = 0;
  gpu::Ticket done_ = 0, copied_ = 0;
  Sink sink_{done_, copied_};
};

}  // namespace spillway::bench
