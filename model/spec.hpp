// SPDX-License-Identifier: Apache-2.0
#pragma once

// One decoder-only transformer, described by data. A model family is a way to fill this in, never a subclass.
// Everything here is validated by the loader: devices may rely on the stated relations.

#include <cstdint>
#include <string>
#include <vector>

#include "model/tensor.hpp"

namespace spillway::model {

using TokenId = std::int32_t;

enum class NormKind : std::uint8_t { kRms, kLayer };
enum class NormPlace : std::uint8_t { kPre, kPost };           // opt-350m is post-norm
enum class PositionKind : std::uint8_t { kRotary, kLearned };
enum class MlpKind : std::uint8_t { kGated, kPlain };          // down(act(gate x) * up x)  |  down(act(up x))
enum class Activation : std::uint8_t { kSilu, kRelu, kGelu, kGeluTanh };

/// Rotary embedding. Pair i of a head is rotated by position * inv_freq[i]. Long-context scaling (linear,
/// llama3, GGUF rope_freqs) is folded into inv_freq by the loader.
struct RopeSpec {
  std::vector<float> inv_freq;  // [rotary_dim / 2]
  std::int32_t rotary_dim = 0;  // even, <= head_dim; dimensions beyond it pass through
  bool interleaved = false;     // false: pair is (i, i + rotary_dim/2) (HF); true: (2i, 2i+1) (GGUF llama)
};

struct ModelSpec {
  std::string architecture;  // the file's own word: "llama", "mistral", "opt", ...
  std::string name;          // for people: general.name or the directory's name
  std::int32_t vocab_size = 0;
  std::int32_t hidden_size = 0;
  std::int32_t embedding_size = 0;     // = hidden_size unless project_in/project_out exist (opt-350m)
  std::int32_t intermediate_size = 0;
  std::int32_t num_layers = 0;
  std::int32_t num_heads = 0;
  std::int32_t num_kv_heads = 0;       // divides num_heads
  std::int32_t head_dim = 0;           // may differ from hidden_size / num_heads
  std::int32_t max_position = 0;       // trained context, tokens
  NormKind norm = NormKind::kRms;
  NormPlace norm_place = NormPlace::kPre;
  float norm_eps = 1e-5f;
  PositionKind position = PositionKind::kRotary;
  std::int32_t position_offset = 0;    // learned positions: row = position + offset (OPT: 2)
  RopeSpec rope;
  MlpKind mlp = MlpKind::kGated;
  Activation activation = Activation::kSilu;
  float attention_scale = 0;           // multiplies q.k; 1/sqrt(head_dim) by default
  std::int32_t sliding_window = 0;     // 0: none; else a token sees itself and window-1 before it
  bool tied_embeddings = false;        // lm_head is the token embedding

  [[nodiscard]] std::int64_t q_size() const noexcept { return std::int64_t{num_heads} * head_dim; }
  [[nodiscard]] std::int64_t kv_size() const noexcept { return std::int64_t{num_kv_heads} * head_dim; }
};

/// Tensors of one layer. An empty view means the model has none. Shapes: q [q_size, hidden], k and v
/// [kv_size, hidden], o [hidden, q_size], gate and up [intermediate, hidden], down [hidden, intermediate];
/// biases [rows of their matrix]; norms [hidden]; q_norm, k_norm [head_dim].
struct LayerWeights {
  TensorView attn_norm, attn_norm_bias;
  TensorView q, k, v, o, q_bias, k_bias, v_bias, o_bias;
  TensorView q_norm, k_norm;
  TensorView mlp_norm, mlp_norm_bias;
  TensorView gate, up, down, gate_bias, up_bias, down_bias;
};

/// token_embedding [vocab, embedding], position_embedding [positions, hidden], project_in [hidden, embedding],
/// project_out [embedding, hidden], final_norm [hidden] (empty where the model has none: opt-350m),
/// lm_head [vocab, embedding] (empty when tied).
struct Weights {
  TensorView token_embedding, position_embedding, project_in, project_out;
  std::vector<LayerWeights> layers;
  TensorView final_norm, final_norm_bias, lm_head, lm_head_bias;
};

}  // namespace spillway::model
