// SPDX-License-Identifier: Apache-2.0
#pragma once

// The slots of sparsified sequences (gpu/sparse_step.hpp) and the kernels that write, judge, evict and pack
// them.
//
// Beside its keys and values a block has, for each layer and KV head (a unit), float position[block_size] and
// float score[block_size], in an array of their own, so that keys and values lie as on any other device.
// Nowhere else is anything kept of a slot, but a row's last victims as a guess at its holes. Within a step:
// place, then in each layer attention and scores, then pool, evict, report and pack. What a step with one
// token evicts a head at a time goes at the end of its attention kernel, everything else behind the last
// layer, in kernels that only such steps launch.
//
// Sums run in a fixed order and nothing is added atomically: a step gives the same scores every time. What
// else is in the batch, and how a prompt is cut, shows in the last bits of what is added, as in all of a
// step's products (decision 032). A slot that a failed step left in disorder stays inside its sequence's
// span.

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "gpu/cuda/attention.hpp"

namespace spillway::gpu::cuda {

/// What a step does to one sparsified sequence, as kernels read it.
struct SparseSequence {
  std::int32_t table = 0;       // first entry in the block table
  std::int32_t copy_table = 0;  // packing by copy: of the blocks to copy to
  std::int32_t row = 0;         // of q, of its first token
  std::int32_t tokens = 0;      // 1: may be anywhere; more: a chunk of the prompt, slot = position
  std::int32_t position = 0;    // of its first token
  std::int32_t span = 0;        // slots
  std::int32_t scratch = 0;     // its first slot in arrays over all slots of a step; a multiple of 4
  std::int32_t reuse = 0;
  std::int32_t one_hole = 0;   // reuse: there is no other
  std::int32_t state_row = 0;  // of `victims`
  std::int32_t update = 0;     // ScoreUpdate, of every query that counts
  std::int32_t first_scored =
      0;                         // token of a prompt's chunk from which on queries count; `tokens`: none does
  std::int32_t method = 0;       // SparseMethod
  std::int32_t granularity = 0;  // SparseGranularity
  std::int32_t evict = 0;        // tokens a head
  std::int32_t evicts_early = 0;                 // one token a head, chosen at the end of attention
  std::int32_t live = 0;                         // after that
  std::int32_t pools = 0;                        // snapkv, at the prompt's end
  std::int32_t copies = 0;                       // packing is by copy
  std::int32_t frees = 0;                        // empty blocks are reported
  float first_evictable = 0, end_evictable = 0;  // positions
  std::uint64_t seed = 0;
};

/// Queries a KV head of a model whose sequences may be sparsified.
inline constexpr int kMostQueries = 128;

/// Where a step's one token goes in one unit.
struct SparsePlace {
  std::int32_t in_pool = 0;  // block * block_size + slot
  std::int32_t slot = 0;     // of the sequence
};

struct SparseSlots {
  char* pool = nullptr;
  std::int64_t block_bytes = 0;           // keys and values, from one block to the next
  char* metadata = nullptr;               // [layers][blocks][position | score][kv_heads][block_size]
  std::int64_t metadata_bytes = 0;        // from one block's share of a layer to the next
  std::int64_t metadata_layer_bytes = 0;  // from one layer to the next
  int layers = 0, heads = 0, kv_heads = 0, block_size = 0;
  const std::int32_t* block_table = nullptr;
  const SparseSequence* sequences = nullptr;  // [max_sequences], of which the first *count count
  const std::int32_t* count = nullptr;
  int max_sequences = 0;
  SparsePlace* places = nullptr;  // [layers, max_sequences, kv_heads]
  std::int32_t* victims =
      nullptr;  // [rows, layers, kv_heads] the slot that a row's last single eviction freed
  float* logits =
      nullptr;            // of a sequence from scratch * heads: [heads, span up to a multiple of 4], in log2
  float* sums = nullptr;  // of a sequence from scratch * layers: [layers, the same]
  std::uint8_t* emptied = nullptr;  // [table entries] 1: the block ran empty in this step
  int launched = 0;                 // sequences that launches cover: *count, or more in a graph
};

/// Positions and scores of the step's tokens, in all layers. `chunk_max`: tokens of the longest chunk of a
/// prompt, which decides over how much the work spreads. Not overlapped: what comes behind may read them at
/// once.
void launch_sparse_place(const SparseSlots& p, int chunk_max, cudaStream_t stream);

/// Decode attention of a step with sparsified sequences, exact ones beside them. Items of the former are over
/// slots and name their sequence; scores and early evictions are done when it ends.
struct SparseAttentionParams : AttentionParams {
  SparseSlots slots;
  int layer = 0;
};
void launch_sparse_decode_attention(const SparseAttentionParams& p, cudaStream_t stream);
/// The part of it that launch_grouped_decode_attention is of launch_decode_attention.
void launch_sparse_grouped_decode_attention(const SparseAttentionParams& p, cudaStream_t stream);
/// The same for any type and head size, of sparsified sequences with one token only: slow.
void launch_sparse_row_attention(const SparseAttentionParams& p, cudaStream_t stream);

/// Scores of a prompt's chunks: each query that counts gives its probabilities, by p.lse [rows, heads], to
/// the keys it saw. `scored`: which of the sequences have such queries, each of more than one token;
/// `span_max`: of those.
void launch_sparse_scores(const SparseAttentionParams& p, std::span<const std::int32_t> scored, int span_max,
                          cudaStream_t stream);

/// SnapKV's pooling where a sequence asks for it.
void launch_sparse_pool(const SparseSlots& p, cudaStream_t stream);
/// What was not evicted early: granularity layer or token, several tokens, a prompt's end.
void launch_sparse_evict(const SparseSlots& p, int span_max, cudaStream_t stream);
/// Fills `emptied` for the sequences that ask for it. Blocks that are reported are not reported again.
void launch_sparse_emptied(const SparseSlots& p, int blocks_max, cudaStream_t stream);
/// Packs sequence `index`. `element_bytes * head_dim` is a key's size.
void launch_sparse_pack(const SparseSlots& p, int index, int key_bytes, cudaStream_t stream);

}  // namespace spillway::gpu::cuda
