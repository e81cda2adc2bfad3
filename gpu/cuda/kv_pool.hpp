// SPDX-License-Identifier: Apache-2.0
#pragma once

// KvPool: the KV blocks of a device and of its pinned host pool, sized and allocated once, when everything else has its
// memory. Keys and values lie in one array, block by block; where sequences may be sparsified, positions and scores of
// slots beside it (sparse_memory.hpp).

#include <memory>
#include <string>
#include <vector>

#include "gpu/cuda/block_copies.hpp"
#include "gpu/cuda/forward.hpp"
#include "gpu/ranks/rank_group.hpp"
#include "gpu/cuda/sparse_memory.hpp"
#include "gpu/device.hpp"
#include "model/spec.hpp"

namespace spillway::gpu::cuda {

class KvPool {
 public:
  struct Wanted {
    const DeviceOptions& options;
    double gpu_memory_utilization = 0;  // share of the GPU's memory, where the options give no size
    Element element{};
    const StepLimits& limits;
    ranks::RankGroup* group = nullptr;  // ranks whose pools have as many blocks
    std::string used;            // what else takes memory, for the message
  };
  /// `spec` is this rank's. Errors: kOutOfMemory says what is taken and what to change; kCancelled: another rank failed.
  [[nodiscard]] static Result<std::unique_ptr<KvPool>> create(const model::ModelSpec& spec, const Wanted& wanted);

  [[nodiscard]] const PoolView& view() const noexcept { return view_; }
  /// Null where no sequence may be sparsified.
  [[nodiscard]] const SparseMemory* sparse() const noexcept { return sparse_.get(); }
  /// What copies of blocks take.
  [[nodiscard]] BlockPools blocks() const { return {parts_, num_blocks_, num_host_blocks_}; }
  /// Of one block, in all its parts.
  [[nodiscard]] std::size_t block_bytes() const noexcept { return block_bytes_; }
  [[nodiscard]] std::uint32_t num_blocks() const noexcept { return num_blocks_; }
  [[nodiscard]] std::uint32_t num_host_blocks() const noexcept { return num_host_blocks_; }

 private:
  KvPool() = default;
  Result<void> allocate(const model::ModelSpec& spec, const Wanted& wanted, std::size_t kv_bytes, std::size_t metadata_bytes);

  PoolView view_;
  Memory pool_, host_pool_;
  std::unique_ptr<SparseMemory> sparse_;
  std::vector<BlockPart> parts_;
  std::size_t block_bytes_ = 0;
  std::uint32_t num_blocks_ = 0, num_host_blocks_ = 0;
};

}  // namespace spillway::gpu::cuda
