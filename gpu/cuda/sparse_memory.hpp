// SPDX-License-Identifier: Apache-2.0
#pragma once

// SparseMemory: what a device opened for sparsified sequences keeps beside its pool, and the launches around
// a step's layers. Allocated once: positions and scores of every block's slots, and some bytes a slot of the
// pool for a layer's logits, less than a percent of it.

#include <memory>

#include "gpu/cuda/check_cuda.hpp"
#include "gpu/cuda/step_inputs.hpp"
#include "model/spec.hpp"

namespace spillway::gpu::cuda {

class SparseMemory {
 public:
  /// Positions and scores of a block.
  [[nodiscard]] static std::size_t metadata_bytes(const model::ModelSpec& spec, std::uint32_t block_size);
  /// Bytes of scratch a block of the pool.
  [[nodiscard]] static std::size_t scratch_bytes(const model::ModelSpec& spec, std::uint32_t block_size);

  struct Pool {
    void* data = nullptr;
    std::size_t block_bytes = 0;
    std::uint32_t num_blocks = 0, block_size = 0, max_rows = 0;
  };
  /// Errors: kOutOfMemory.
  [[nodiscard]] static Result<std::unique_ptr<SparseMemory>> create(const model::ModelSpec& spec,
                                                                    const Pool& pool,
                                                                    const StepLimits& limits);

  /// The slots of a step whose inputs are at `in`, on the device.
  [[nodiscard]] SparseSlots slots(const StepInputs& in, const SparseShape& shape) const;
  /// [layers][num_blocks], metadata_bytes() a block in all; copies of blocks take it along. By layers, as the
  /// layers of one kernel are: a page of memory then has many blocks' share, which TLBs like.
  [[nodiscard]] char* metadata() const noexcept { return metadata_.as<char>(); }
  /// [rows, heads]
  [[nodiscard]] float* lse() const noexcept { return lse_.as<float>(); }
  /// Slots of all sparsified sequences of a step.
  [[nodiscard]] std::uint64_t slots_max() const noexcept { return slots_max_; }

  /// In front of the step's first kernel.
  void begin(const StepInputs& in, const SparseShape& shape, cudaStream_t stream) const;
  /// Behind its last layer: pools, evicts, reports and packs where a sequence asks for it.
  void finish(const StepInputs& in, const SparseShape& shape, int key_bytes, cudaStream_t stream) const;
  /// [table entries] after finish(): 1 where the block ran empty, of sequences that asked.
  [[nodiscard]] const std::uint8_t* emptied() const noexcept { return emptied_.as<std::uint8_t>(); }

 private:
  SparseMemory() = default;
  SparseSlots slots_;
  std::uint64_t slots_max_ = 0;
  Memory metadata_, places_, victims_, logits_, sums_, emptied_, lse_;
};

}  // namespace spillway::gpu::cuda
