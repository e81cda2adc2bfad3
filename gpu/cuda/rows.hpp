// SPDX-License-Identifier: Apache-2.0
#pragma once

// Work on single rows between the matrix products: embedding, norms with the residual sum, rotary embedding
// with the write into the KV pool, activations. A row's result depends on that row only. Launchers enqueue on
// the stream and report nothing: the caller looks at cudaGetLastError.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "gpu/cuda/element.hpp"
#include "gpu/cuda/quantized.hpp"
#include "gpu/cuda/sparse_slots.hpp"
#include "model/spec.hpp"

namespace spillway::gpu::cuda {

/// x[row] = table[token] (+ positions[position + offset]); token = last_tokens[from_row] when from_row >= 0.
/// With project: out[row] = table[token] in the element type, and x is left alone.
struct EmbedParams {
  Element element{};
  const void* table = nullptr;             // [vocab, cols]
  bool packed = false;                     // the table is quantized: `panels` instead
  PackedMatrix panels;
  const void* position_table = nullptr;    // [positions, cols]; null: none
  int position_offset = 0;
  const std::int32_t* tokens = nullptr;    // [rows]
  const std::int32_t* from_row = nullptr;  // [rows]; -1: the token is given
  const std::int32_t* positions = nullptr;   // [rows]
  const std::int32_t* last_tokens = nullptr;  // [max rows]
  float* x = nullptr;                      // [rows, cols]
  void* out = nullptr;                     // [rows, cols]; null: write x
  int rows = 0, cols = 0;
};
void launch_embed(const EmbedParams& p, cudaStream_t stream);

/// v = x + y (or y alone: replace_x, plus the position's embedding). pre: x = v, out = norm(v). post: x = out =
/// norm(v). A null weight means no norm: out = v. Row i reads x and y at row_map[i] and writes out[i]; a map
/// entry of -1 skips. With a map, x is only read.
struct NormParams {
  Element element{};
  model::NormKind kind = model::NormKind::kRms;
  bool post = false;
  bool replace_x = false;
  float eps = 0;
  float* x = nullptr;             // [rows, cols]
  const void* y = nullptr;        // [rows, cols]; null: nothing to add
  const void* position_table = nullptr;  // with replace_x
  const std::int32_t* positions = nullptr;
  int position_offset = 0;
  const float* weight = nullptr;  // [cols]
  const float* bias = nullptr;    // [cols] or null
  void* out = nullptr;            // [rows, cols]
  const std::int32_t* row_map = nullptr;  // [rows] or null
  int rows = 0, cols = 0;
};
void launch_norm(const NormParams& p, cudaStream_t stream);

/// to[i] = from[row_map[i]], rows of row_bytes (an even number); a map entry of -1 leaves to[i] alone.
struct GatherParams {
  const void* from = nullptr;  // [.., row_bytes]
  void* to = nullptr;          // [rows, row_bytes], elsewhere
  const std::int32_t* row_map = nullptr;  // [rows]
  int rows = 0, row_bytes = 0;
};
void launch_gather(const GatherParams& p, cudaStream_t stream);

/// Normalises (where the model does) and rotates the heads of q and k in place, and writes k and v to the
/// token's slot. A slot of -1 writes nothing.
struct RotaryParams {
  Element element{};
  void* qkv = nullptr;                     // [rows, (heads + 2 kv_heads) * head_dim]
  const std::int32_t* positions = nullptr;  // [rows]
  const std::int32_t* slots = nullptr;     // [rows] block * block_size + slot; -2 - i: each KV head its own, places[i]
  const SparsePlace* places = nullptr;     // [sparsified sequences, kv_heads]
  const float* inv_freq = nullptr;         // [half]; null: no rotation
  int half = 0;
  bool interleaved = false;
  const float* q_norm = nullptr;           // [head_dim] or null
  const float* k_norm = nullptr;
  float eps = 0;
  void* pool = nullptr;                    // [block][layer][K|V][kv_head][slot][head_dim]
  std::int64_t block_elements = 0, layer_offset = 0;
  int block_size = 0;
  int rows = 0, heads = 0, kv_heads = 0, head_dim = 0;
};
void launch_rotary(const RotaryParams& p, cudaStream_t stream);

/// out = act(gate) * up where up [rows, 2 * cols] holds gate then up; or act(up) where up is [rows, cols].
struct ActivationParams {
  Element element{};
  model::Activation activation{};
  bool gated = false;
  const void* up = nullptr;
  void* out = nullptr;  // [rows, cols]
  int rows = 0, cols = 0;
};
void launch_activation(const ActivationParams& p, cudaStream_t stream);

/// to [rows, vocab] of from [ranks, rows, part]: rank r has columns [r * part, (r + 1) * part) of the vocabulary.
struct JoinLogitsParams {
  const float* from = nullptr;
  float* to = nullptr;
  int rows = 0, part = 0, vocab = 0;
};
void launch_join_logits(const JoinLogitsParams& p, cudaStream_t stream);

/// logits[row] += bias
void launch_add_bias(float* logits, const float* bias, int rows, int cols, cudaStream_t stream);

}  // namespace spillway::gpu::cuda
