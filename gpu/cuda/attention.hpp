// SPDX-License-Identifier: Apache-2.0
#pragma once

// Paged attention over the KV pool [block][layer][K|V][kv_head][slot][head_dim]. Three functions of the
// same value: `decode` reads the pool once per KV head at memory bandwidth, split over long contexts with the
// partial results merged by their log-sum-exp; `prefill` computes tiles of 128 queries on tensor cores; `rows`
// takes any type and head size, one warp a token and head, and is what the others are held to.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "gpu/cuda/element.hpp"

namespace spillway::gpu::cuda {

/// A share of one sequence's context, decoded by one block per KV head.
struct DecodeItem {
  std::int32_t row = 0;          // of q and out
  std::int32_t table = 0;        // the sequence's first entry in the block table
  std::int32_t begin = 0, end = 0;  // positions
  std::int32_t first_item = 0;   // of this sequence; its items follow each other
  std::int32_t item_count = 0;   // 1: no merge
  std::int32_t sparse = -1;      // of the step's sparsified sequences; its begin and end are slots
};

/// Up to kPrefillTile consecutive tokens of one sequence.
struct PrefillTile {
  std::int32_t row = 0;      // of q and out
  std::int32_t tokens = 0;
  std::int32_t position = 0;  // of the first token
  std::int32_t table = 0;
};
inline constexpr int kPrefillTile = 128;

struct AttentionParams {
  Element element{};
  const void* qkv = nullptr;     // [rows, (heads + 2 kv_heads) * head_dim], q rotated
  void* out = nullptr;           // [rows, heads * head_dim]
  const void* pool = nullptr;
  std::int64_t block_elements = 0, layer_offset = 0;
  std::int64_t pool_blocks = 0;  // 0: not told, and nothing that needs it is used
  int block_size = 0;            // a power of two
  const std::int32_t* block_table = nullptr;
  int heads = 0, kv_heads = 0, head_dim = 0;
  int window = 0;                // 0: none; else a token sees itself and window - 1 before it
  float scale = 0;               // of q.k

  // decode: items [max_items], of which the first *num_items count
  const DecodeItem* items = nullptr;
  const std::int32_t* num_items = nullptr;
  int max_items = 0;
  int even_blocks = 0;  // that a multiprocessor gets where all get as many, about; 0: not told
  float* partial_out = nullptr;  // [max_items, heads, head_dim]
  float* partial_lse = nullptr;  // [max_items, heads] natural log
  std::int32_t* arrived = nullptr;  // [max_items, kv_heads] zero; left zero

  // prefill
  const PrefillTile* tiles = nullptr;
  int num_tiles = 0;
  bool warpgroups = true;  // may use the kernel of compute capability 9.0a

  // rows: row i is at positions[i], its blocks from tables[i] on
  const std::int32_t* positions = nullptr;
  const std::int32_t* tables = nullptr;
  int rows = 0;

  float* lse = nullptr;  // prefill and rows: [rows, heads] of each query's logits, in log2; null: not wanted
};

/// 16-bit types; head_dim 64, 80, 96, 128 or 256; at most 8 queries a KV head.
[[nodiscard]] bool has_fast_decode(Element element, int head_dim, int heads, int kv_heads) noexcept;
/// Of the fast ones, those for which launch_grouped_decode_attention is there.
[[nodiscard]] constexpr bool has_grouped_decode(int head_dim, int heads, int kv_heads) noexcept {
  return heads > kv_heads && (head_dim == 64 || head_dim == 128);
}
/// 16-bit types; head_dim 64, 80, 96, 128 or 256.
[[nodiscard]] bool has_fast_prefill(Element element, int head_dim) noexcept;

void launch_decode_attention(const AttentionParams& p, cudaStream_t stream);
/// The part of it for 2 to 8 queries a KV head and head_dim 64 or 128, on tensor cores.
void launch_grouped_decode_attention(const AttentionParams& p, cudaStream_t stream);
void launch_prefill_attention(const AttentionParams& p, cudaStream_t stream);
void launch_row_attention(const AttentionParams& p, cudaStream_t stream);

}  // namespace spillway::gpu::cuda
