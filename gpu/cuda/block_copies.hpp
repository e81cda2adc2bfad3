// SPDX-License-Identifier: Apache-2.0
#pragma once

// BlockCopies: the copies of KV blocks within a device and between it and its pinned host pool, on two streams of
// their own, so that both directions run at once. Copies of one block keep their order whatever streams they are on.
// Owned by a CudaDevice; called from its thread.

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "gpu/cuda/check_cuda.hpp"
#include "gpu/step_plan.hpp"

namespace spillway::gpu::cuda {

/// What a block consists of: of each of these, a piece of every row.
struct BlockPart {
  char* device = nullptr;  // [rows][blocks]
  char* host = nullptr;    // the same, pinned
  std::size_t block_bytes = 0;  // in one row
  std::size_t rows = 1;
};

struct BlockPools {
  std::vector<BlockPart> parts;
  std::uint32_t device_blocks = 0, host_blocks = 0;
};

class BlockCopies {
 public:
  static constexpr std::size_t kCopiesMax = 64;  // under way at once

  /// `timed`: finished copies can be asked for their times.
  [[nodiscard]] static Result<std::unique_ptr<BlockCopies>> create(BlockPools pools, bool timed);
  ~BlockCopies();
  BlockCopies(const BlockCopies&) = delete;
  BlockCopies& operator=(const BlockCopies&) = delete;

  /// Errors: kInvalidArgument names a block out of range, kQueueFull.
  [[nodiscard]] Result<void> check(const CopyPlan& plan) const;
  /// Enqueues behind `after` (null: at once). Errors: those of check.
  [[nodiscard]] Result<Ticket> copy(const CopyPlan& plan, cudaEvent_t after);

  /// The stream waits for this copy and those before it.
  void hold(cudaStream_t stream, Ticket ticket) const;

  struct Events {
    cudaEvent_t begin = nullptr, end = nullptr;  // begin is null unless timed
  };
  [[nodiscard]] Events events(Ticket ticket) const { return slots_[ticket % kCopiesMax]; }
  [[nodiscard]] Ticket last() const noexcept { return last_; }
  [[nodiscard]] Ticket done() const noexcept { return done_; }
  /// The oldest one under way has ended.
  void finish_oldest() noexcept { ++done_; }

 private:
  explicit BlockCopies(BlockPools pools) : pools_(std::move(pools)) {}
  /// Notes the plan's blocks as stream `own`'s; the last copy of any of them on the other stream.
  [[nodiscard]] Ticket order(const CopyPlan& plan, std::size_t own, Ticket ticket);
  void enqueue(const CopyPlan& plan, cudaStream_t stream) const;

  BlockPools pools_;
  cudaStream_t streams_[2] = {};  // [0] to the device and within it, [1] to the host
  Events slots_[kCopiesMax];
  struct LastCopies {
    std::vector<Ticket> device, host;  // [blocks] the last copy that read or wrote it
  };
  LastCopies last_of_[2];  // by stream
  Ticket last_ = 0, done_ = 0;
};

}  // namespace spillway::gpu::cuda
