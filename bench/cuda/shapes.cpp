// SPDX-License-Identifier: Apache-2.0
#include "bench/cuda/shapes.hpp"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace spillway::bench {

model::ModelSpec shape_of(std::string_view name) {
  model::ModelSpec spec;
  spec.architecture = "llama";
  spec.name = name;
  spec.vocab_size = 32000;
  spec.hidden_size = 4096;
  spec.intermediate_size = 11008;
  spec.num_layers = 32;
  spec.num_heads = spec.num_kv_heads = 32;
  spec.head_dim = 128;
  spec.max_position = 16384;
  if (name == "llama-3-8b") {
    spec.vocab_size = 128256;
    spec.intermediate_size = 14336;
    spec.num_kv_heads = 8;
  } else if (name == "smollm2") {
    spec.vocab_size = 49152;
    spec.hidden_size = 576;
    spec.intermediate_size = 1536;
    spec.num_layers = 30;
    spec.num_heads = 9;
    spec.num_kv_heads = 3;
    spec.head_dim = 64;
  } else if (name == "opt-1.3b") {
    spec.vocab_size = 50272;
    spec.hidden_size = 2048;
    spec.intermediate_size = 8192;
    spec.num_layers = 24;
    spec.head_dim = 64;
    spec.norm = model::NormKind::kLayer;
    spec.position = model::PositionKind::kLearned;
    spec.position_offset = 2;
    spec.mlp = model::MlpKind::kPlain;
    spec.activation = model::Activation::kRelu;
    spec.tied_embeddings = true;
  } else if (name != "llama-7b") {
    std::fprintf(stderr, "unknown shape\n");
    std::exit(2);
  }
  spec.embedding_size = spec.hidden_size;
  spec.attention_scale = 1.0f / std::sqrt(static_cast<float>(spec.head_dim));
  if (spec.position == model::PositionKind::kRotary) {
    spec.rope.rotary_dim = spec.head_dim;
    for (int i = 0; i < spec.head_dim / 2; ++i)
      spec.rope.inv_freq.push_back(
          std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(spec.head_dim)));
  }
  return spec;
}

model::DType weights_of(std::string_view name) {
  for (const auto& [known, type] : {std::pair{"bf16", model::DType::kBF16},
                                    {"q8_0", model::DType::kQ8_0},
                                    {"q4_0", model::DType::kQ4_0},
                                    {"q4_1", model::DType::kQ4_1},
                                    {"q5_0", model::DType::kQ5_0},
                                    {"q5_1", model::DType::kQ5_1}})
    if (name == known) return type;
  std::fprintf(stderr, "unknown type of weights\n");
  std::exit(2);
}

double layer_elements(const model::ModelSpec& spec) {
  const double hidden = spec.hidden_size, q = static_cast<double>(spec.q_size()),
               kv = static_cast<double>(spec.kv_size());
  const double mlp = (spec.mlp == model::MlpKind::kGated ? 3.0 : 2.0) * hidden * spec.intermediate_size;
  return spec.num_layers * (hidden * (q + 2 * kv) + q * hidden + mlp);
}
double vocabulary_elements(const model::ModelSpec& spec) {
  return double(spec.hidden_size) * spec.vocab_size;
}

}  // namespace spillway::bench
