// SPDX-License-Identifier: Apache-2.0
#pragma once

// Teacher forcing on the host device: sequences get a prompt and then, step by step, tokens that are given,
// whatever the model would say. So a sparsified sequence evicts as it does while it decodes, and its
// predictions stand beside those of an exact one at every place.

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "model/loader.hpp"
#include "model/sparse_kv.hpp"

namespace spillway::bench {

struct ForcedSequence {
  std::vector<model::TokenId> tokens;  // the prompt and what is forced after it
  std::uint32_t prompt_length = 0;     // of these; at least 1 and less than all
  model::SparseKvParams sparse;        // seed and budget as a request gives them
};

/// What was predicted for tokens[prompt_length + i].
struct Prediction {
  model::TokenId likeliest = 0;
  float logprob = 0;  // natural, of the token that was forced
};

/// Hears of tokens computed, of all there are, after every step.
using ForcedProgress = std::function<void(std::size_t done, std::size_t total)>;

/// Runs all sequences as one batch; one vector of predictions each. `kv_bytes`: of the KV pool. Errors: the
/// device's; kInvalidArgument where a budget does not fit, kOutOfMemory when the pool is too small.
[[nodiscard]] Result<std::vector<std::vector<Prediction>>> decode_forced(
    const model::Model& model, const std::vector<ForcedSequence>& sequences, std::uint32_t threads,
    std::size_t kv_bytes, const ForcedProgress& progress);

}  // namespace spillway::bench
