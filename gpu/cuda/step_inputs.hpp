// SPDX-License-Identifier: Apache-2.0
#pragma once

// StepInputs: what a step's kernels read that changes from step to step, as arrays at fixed places, so that a
// captured graph finds them. The host fills a pinned copy, one for each step in flight; what is used of it goes to the
// device while earlier steps run, and from there into place on the compute stream.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "gpu/cuda/attention.hpp"
#include "gpu/cuda/pinned_copy.hpp"
#include "gpu/cuda/sampling.hpp"
#include "gpu/cuda/sparse_inputs.hpp"
#include "gpu/step_plan.hpp"

namespace spillway::gpu::cuda {

struct StepLimits {
  std::uint32_t max_tokens = 0;    // rows, padding included
  std::uint32_t max_seqs = 0;      // as padded for graphs
  std::uint32_t max_items = 0;
  std::uint32_t max_tiles = 0;
  std::uint32_t table_entries = 0;
  std::uint32_t max_sparse = 0;    // sequences that may be sparsified; 0: no step has any
};

struct StepInputs {
  std::int32_t* num_items = nullptr;      // [1]
  SampleParams* samples = nullptr;        // [max_seqs]
  std::int32_t* sample_rows = nullptr;    // [max_seqs] rows of x that are sampled; -1: none
  DecodeItem* items = nullptr;            // [max_items]
  PrefillTile* tiles = nullptr;           // [max_tiles]
  std::int32_t* tokens = nullptr;         // [max_tokens]
  std::int32_t* from_row = nullptr;       // [max_tokens] -1: `tokens` holds it
  std::int32_t* positions = nullptr;      // [max_tokens]
  std::int32_t* slots = nullptr;          // [max_tokens] -1: write no KV
  std::int32_t* tables = nullptr;         // [max_tokens] for row attention; -1: another kernel does it
  std::int32_t* block_table = nullptr;    // [table_entries]
  std::int32_t* num_sparse = nullptr;     // [1]
  SparseSequence* sparse = nullptr;       // [max_sparse]
  std::size_t head_bytes = 0;             // of everything before the block table
  std::size_t sparse_bytes = 0;           // from num_sparse on

  /// The arrays inside `base`, which holds bytes_needed(limits) or is null.
  static StepInputs at(void* base, const StepLimits& limits);
  [[nodiscard]] static std::size_t bytes_needed(const StepLimits& limits);
};

/// How large the step is, as launches see it.
struct StepShape {
  std::uint32_t rows = 0;          // tokens, with padding
  std::uint32_t samples = 0;       // rows of logits, with padding
  std::uint32_t decode_items = 0;  // blocks to launch a KV head; 0: none
  std::uint32_t items = 0;         // of them, those that have something to do
  std::uint32_t likely_items = 0;  // the same, or before that is known, what it will be about
  std::uint32_t tiles = 0;
  bool row_attention = false;
  std::uint32_t table_entries = 0;
  SparseShape sparse;
};

/// What brings a step's inputs from one place to another: of each array what the step uses.
inline constexpr std::size_t kInputArrays = 12;
[[nodiscard]] std::array<PinnedCopy, kInputArrays> copies_of(const StepInputs& from, const StepInputs& to,
                                                             const StepShape& shape);

struct StepGeometry {
  std::uint32_t block_size = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t window = 0;
  bool fast_decode = false, fast_prefill = false;
  bool grouped_decode = false;  // by launch_grouped_decode_attention
  std::uint32_t multiprocessors = 1;
};

/// Parameters of a running row, as its RowInit gave them.
struct RowParams {
  model::SamplingParams params;
  std::uint32_t choice = 0;
};

/// Blocks a KV head that `sequences` decoding sequences may be split into.
[[nodiscard]] std::uint32_t decode_items_for(std::uint32_t sequences, const StepGeometry& geometry);

/// How many of them will have something to do, about, where all have as many tokens.
[[nodiscard]] std::uint32_t likely_items(std::uint32_t sequences, const StepGeometry& geometry);

/// Lays the plan out in `in`, which is host memory. A plan of decoding sequences only is padded to `bucket` rows
/// where that is not 0. The plan is valid; sampled receives the index of each sequence that draws.
[[nodiscard]] StepShape fill_inputs(const StepPlan& plan, std::span<const RowParams> rows,
                                    const StepGeometry& geometry, std::uint32_t bucket, StepInputs& in,
                                    std::vector<std::uint32_t>& sampled);

}  // namespace spillway::gpu::cuda
