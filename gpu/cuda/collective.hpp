// SPDX-License-Identifier: Apache-2.0
#pragma once

// Collective: sums and gathers over the ranks of a tensor-parallel model, by NCCL, which is loaded at run time: without it the
// program starts and serves from one GPU. All ranks call the same operations in the same order; errors stick and are
// taken by status().

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>

#include "gpu/cuda/element.hpp"
#include "gpu/ranks/rank_group.hpp"
#include "runtime/result.hpp"

namespace spillway::gpu::cuda {

using ranks::GroupId;

class Collective {
 public:
  /// Errors: kUnsupported when NCCL is missing, kDeviceFailed.
  [[nodiscard]] static Result<GroupId> make_id();
  /// Of the current device; returns once all `size` ranks have joined.
  [[nodiscard]] static Result<std::unique_ptr<Collective>> join(const GroupId& id, int rank, int size);
  ~Collective();
  Collective(const Collective&) = delete;
  Collective& operator=(const Collective&) = delete;

  /// data [count] = the sum over all ranks, the same bits on each.
  void all_reduce(void* data, std::size_t count, Element element, cudaStream_t stream);
  /// to [ranks, count] = every rank's from [count], fp32.
  void all_gather(const float* from, float* to, std::size_t count, cudaStream_t stream);

  /// Ends what hangs because another rank is gone, and returns at once. From any thread. Graphs that hold operations of this
  /// group go before it does.
  void abort() noexcept;
  [[nodiscard]] Result<void> status() const;

 private:
  struct State;
  explicit Collective(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace spillway::gpu::cuda
