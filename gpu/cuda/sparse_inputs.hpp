// SPDX-License-Identifier: Apache-2.0
#pragma once

// The sparsified sequences of a plan, laid out for the kernels, and what of their work a step needs.

#include <cstdint>
#include <string>
#include <vector>

#include "gpu/cuda/sparse_slots.hpp"
#include "gpu/step_plan.hpp"

namespace spillway::gpu::cuda {

/// Which kernels the sparsified sequences of a step need; empty for a step without any.
struct SparseShape {
  std::uint32_t sequences = 0;    // launched over, with padding
  std::uint32_t slots = 0;        // of all their spans, each up to a multiple of 4
  std::int32_t longest_chunk = 0;  // tokens; 0 where all have one
  std::int32_t scored_span = 0;   // the longest of the prompts' chunks with queries that count
  std::int32_t evicted_span = 0;  // of those that evict behind the last layer
  std::int32_t freed_blocks = 0;  // full ones of those that report them
  bool rows = false;              // some have one token
  bool pools = false;
  std::vector<std::int32_t> scored;  // indices of those chunks
  std::vector<std::int32_t> packed;  // of those that pack
};

/// As SparseSequence says, with its tables at these entries; counts it in `shape`.
[[nodiscard]] SparseSequence sparse_sequence(const SequenceStep& s, const SparseStep& step,
                                             std::int32_t table, std::int32_t copy_table,
                                             std::uint32_t block_size, SparseShape& shape);

/// What a CUDA device does not do of the plan's sparse steps, or has no room for; empty: nothing.
[[nodiscard]] std::string unsupported_sparse(const StepPlan& plan, std::uint64_t slots_max);

}  // namespace spillway::gpu::cuda
