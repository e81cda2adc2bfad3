// SPDX-License-Identifier: Apache-2.0
#pragma once

// HostModel: a model's weights as the host device computes with them. Made once at load; immutable
// afterwards. Keeps nothing of the file: views may be released after packing.

#include <functional>
#include <memory>
#include <vector>

#include "gpu/host/matmul.hpp"
#include "gpu/host/packed_matrix.hpp"
#include "model/spec.hpp"

namespace spillway::gpu::host {

/// Empty weight: there is no norm here.
struct HostNorm {
  std::vector<float> weight, bias;
};

struct HostLayer {
  HostNorm attn_norm, mlp_norm;
  std::vector<float> q_norm, k_norm;  // [head_dim] or empty
  PackedProduct qkv;                  // rows: q, k, v
  PackedProduct o;
  PackedProduct up;  // rows: gate, up when gated; else up
  PackedProduct down;
};

struct HostModel {
  model::ModelSpec spec;
  std::unique_ptr<WeightArena> arena;
  std::vector<HostLayer> layers;
  PackedProduct project_in, project_out;  // empty where the model has none
  PackedProduct lm_head;
  PackedProduct token_embedding;     // empty when tied: rows of lm_head are the embeddings
  PackedProduct position_embedding;  // empty unless positions are learned
  HostNorm final_norm;

  [[nodiscard]] const PackedProduct& embedding() const noexcept {
    return token_embedding.empty() ? lm_head : token_embedding;
  }

  /// Errors: kBadFile names the tensor whose shape, size or type does not fit; kOutOfMemory.
  [[nodiscard]] static Result<HostModel> pack(const model::ModelSpec& spec, const model::Weights& weights,
                                              ThreadTeam& team,
                                              const std::function<void(const model::TensorView&)>& on_packed);
};

}  // namespace spillway::gpu::host
