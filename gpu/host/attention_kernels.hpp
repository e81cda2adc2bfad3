// SPDX-License-Identifier: Apache-2.0
#pragma once

// Paged attention and the KV write for one instruction set. Plain data in, plain data out; no threads here.
//
// The result of a query row is the same to the bit whatever else is in the batch: its keys are walked in
// fixed partitions of kPartitionSlots positions; inside one, scores sum over dimensions in order,
// probabilities are summed lane by lane in slot order, P.V adds slots in order; partitions merge in order by
// log-sum-exp. Tiles, chunks and threads only choose who does which part.

#include <cstddef>
#include <cstdint>

#include "gpu/device.hpp"
#include "gpu/host/kv_pool.hpp"
#include "gpu/sparse_policy.hpp"

namespace spillway::gpu::host {

inline constexpr std::uint32_t kPartitionSlots = 256;
/// log2(e): queries are scaled by attention_scale * kLog2E, so that probabilities are powers of two.
inline constexpr float kLog2E = 1.44269504088896341f;

/// Attention of `tokens` consecutive tokens of one sequence, for the query heads of one KV head, over the
/// partitions [partition_begin, partition_end).
struct AttentionTask {
  const KvLayout* layout = nullptr;
  const std::byte* k_pool = nullptr;  // pool + k_offset(layer, kv_head): chunk of block 0
  const std::byte* v_pool = nullptr;
  const BlockId* blocks = nullptr;  // the sequence's block table
  const float* q = nullptr;         // [tokens][group * head_dim], row stride q_stride; scaled and rotated
  std::size_t q_stride = 0;         // floats
  float* out = nullptr;             // [tokens][group * head_dim], row stride out_stride
  std::size_t out_stride = 0;
  std::uint32_t group = 1;  // query heads that share this KV head
  std::uint32_t first_position = 0;
  std::uint32_t tokens = 0;
  std::uint32_t window = 0;  // 0: none; else the last `window` positions, the row's own included
  std::uint32_t partition_begin = 0, partition_end = 0;
  const AttentionTask* next =
      nullptr;               // what this thread will probably attend to next: prefetched; may be null
  float* partial = nullptr;  // not null: [partition][tokens * group][padded_dim + 2] receives sum of
                             // p * v, maximum and sum of p of each partition; `out` is not written
};

/// Rows (tokens * group) one task may have, unless a single token's group is larger.
inline constexpr std::uint32_t kTaskRows = 96;
/// Rows that go through one partition together.
inline constexpr std::uint32_t kBlockRows = 12;
/// The same for prompt_kernels.hpp, and how many such blocks of rows are under way there.
inline constexpr std::uint32_t kPromptBlockRows = 32, kPromptBlocks = 3;
/// Floats from one row of their scores to the next: rows a power of two apart would meet in few cache sets.
inline constexpr std::uint32_t kPromptScoreStride = kPartitionSlots + 16;
/// Rows one task of those kernels may have.
inline constexpr std::uint32_t kPromptTaskRows = 768;

/// One thread's working memory, as the kernels see it. AttentionScratch owns it.
struct ScratchView {
  float* keys = nullptr;      // one partition in fp32: [kPartitionSlots / 16][head_dim][16]
  float* values = nullptr;    // [kPartitionSlots][padded_dim]
  float* packed_q = nullptr;  // [rows / kBlockRows][head_dim][rows of the block]
  float* scores = nullptr;    // [kBlockRows][kPartitionSlots]; prompts: [kPromptBlocks * kPromptBlockRows] rows
                              // of kPromptScoreStride
  float* part = nullptr;      // [2 * kPromptBlockRows][padded_dim]: one partition's sums of p * v
  float* sums = nullptr;      // [rows][padded_dim + 2]: the running sum of p * v, maximum, sum of p
};

/// Attention of one token of a sparsified sequence, for the query heads of one KV head, over the live slots
/// of its span (gpu/sparse_step.hpp).
struct SlotTask {
  const KvLayout* layout = nullptr;
  const std::byte* k_pool = nullptr;  // as AttentionTask
  const std::byte* v_pool = nullptr;
  std::byte* positions_pool = nullptr;  // pool + position_offset(layer, kv_head)
  const BlockId* blocks = nullptr;
  const float* q = nullptr;  // [group * head_dim], rotated and scaled
  float* out = nullptr;      // [group * head_dim]
  std::uint32_t group = 1;
  std::uint32_t span = 0;                                // slots
  std::uint32_t partition_begin = 0, partition_end = 0;  // of the span
  float first_position = 0;       // attended to: tokens of this position and later ones
  const float* sink_q = nullptr;  // not null: the query as tokens at positions below `sinks` see it; they are
                                  // in the first partition
  float sinks = 0;
  float* packed_sink_q = nullptr;  // working memory with sink_q: [group * head_dim]
  ScoreUpdate update = ScoreUpdate::kNone;
  float* weights = nullptr;    // working memory: [partitions of the span][group][kPartitionSlots] and
                               // [partitions][group]; unused without an update
  float* positions = nullptr;  // [whole partitions of the span] receives the positions, holes behind the span
  float* scores = nullptr;     // likewise the scores as they are now; not written without an update
  const SlotTask* next = nullptr;  // what this thread will probably attend to next: prefetched; may be null
  float* partial =
      nullptr;  // not null: [partitions of the span][group][padded_dim + 2] receives what AttentionTask's
                // does; `out`, `scores` and the slots' scores are left to finish_slots
};

/// The attention that some of a prompt's tokens pay, added to the scores of its slots, row by row in order.
/// Slot = position.
struct PromptScoreTask {
  AttentionTask rows;  // the tokens that count; out, partial and next are unused
  std::byte* positions_pool = nullptr;
  ScoreUpdate update = ScoreUpdate::kAdd;
  float* weights = nullptr;  // working memory: [kBlockRows][whole partitions up to the last row's position]
};

struct AttentionKernels {
  void (*attend)(const AttentionTask&, const ScratchView&);
  void (*attend_slots)(const SlotTask&, const ScratchView&);
  /// What is left to do when attend_slots has done all partitions of a task with `partial`.
  void (*finish_slots)(const SlotTask&, const ScratchView&);
  void (*score_prompt)(const PromptScoreTask&, const ScratchView&);
  /// The index of the lowest key among positions in [first, end), of equal ones the lowest position; n if
  /// there is none. n is a multiple of 16.
  std::uint32_t (*lowest)(const float* positions, const float* keys, std::uint32_t n, float first, float end);
  /// Merges partials[partition_end - partition_begin] of a task in order and writes `out`.
  void (*merge)(const AttentionTask&, const float* partials, const ScratchView&);
  /// Stores one token's key and value of one KV head into its slot.
  void (*write_kv)(const KvLayout&, std::byte* k_chunk, std::byte* v_chunk, std::uint32_t slot,
                   const float* k, const float* v);
  /// out[i] = 2^x[i] and e^x[i], for the tests of the polynomials. n is a multiple of 16.
  void (*exp2)(const float* x, float* out, std::size_t n);
  void (*exp)(const float* x, float* out, std::size_t n);
};

/// The kernels of one instruction set; null where this build has none.
[[nodiscard]] const AttentionKernels* attention_kernels_avx512() noexcept;
[[nodiscard]] const AttentionKernels* attention_kernels_avx2() noexcept;
[[nodiscard]] const AttentionKernels* attention_kernels_generic() noexcept;

}  // namespace spillway::gpu::host
