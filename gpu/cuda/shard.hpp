// SPDX-License-Identifier: Apache-2.0
#pragma once

// Shard: one rank's part of a tensor-parallel model (Shoeybi et al. 2019, section 3). Rows of q, k, v, gate, up and of the
// vocabulary, and columns of o and down, are split; embeddings, norms and what stands between them are everybody's. So a layer
// needs two sums over the ranks, the step one gathering of logits, from which every rank draws the same tokens.

#include <algorithm>
#include <string>

#include "model/spec.hpp"
#include "runtime/result.hpp"

namespace spillway::gpu::cuda {

struct Shard {
  int rank = 0, size = 1;

  /// Of n things in even parts.
  [[nodiscard]] int part(int n) const noexcept { return n / size; }
  /// Key and value heads of this rank; fewer than ranks are kept by several.
  [[nodiscard]] int kv_heads(const model::ModelSpec& spec) const noexcept { return std::max(1, spec.num_kv_heads / size); }
  [[nodiscard]] int first_kv_head(const model::ModelSpec& spec) const noexcept {
    return rank * part(spec.num_heads) / (spec.num_heads / spec.num_kv_heads);
  }
  /// Rows of the vocabulary's matrix, the last rank's filled up.
  [[nodiscard]] int vocabulary_rows(const model::ModelSpec& spec) const noexcept {
    return (spec.vocab_size + size - 1) / size;
  }
};

/// Errors: kInvalidArgument says what the number of ranks does not divide.
[[nodiscard]] inline Result<void> check_shards(const model::ModelSpec& spec, int size) {
  const auto refuse = [size](const std::string& what) {
    return Error{Errc::kInvalidArgument, "--tensor-parallel-size " + std::to_string(size) + " " + what};
  };
  if (size < 1 || spec.num_heads % size != 0)
    return refuse("must divide the model's " + std::to_string(spec.num_heads) + " heads");
  if (spec.num_kv_heads % size != 0 && size % spec.num_kv_heads != 0)
    return refuse("must divide the model's " + std::to_string(spec.num_kv_heads) + " heads of keys and values, or be a multiple");
  if (spec.intermediate_size % size != 0)
    return refuse("must divide the MLP's width of " + std::to_string(spec.intermediate_size));
  return {};
}

/// The spec as one rank computes it; the vocabulary stays whole.
[[nodiscard]] inline model::ModelSpec shard_of(model::ModelSpec spec, const Shard& shard) {
  const int kv_heads = shard.kv_heads(spec);
  spec.num_heads = shard.part(spec.num_heads);
  spec.num_kv_heads = kv_heads;
  spec.intermediate_size = shard.part(spec.intermediate_size);
  return spec;
}

}  // namespace spillway::gpu::cuda
