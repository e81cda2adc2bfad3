// SPDX-License-Identifier: Apache-2.0
#pragma once

// How a request wants its tokens chosen. Names and meanings follow vLLM's SamplingParams.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/sparse_kv.hpp"
#include "model/spec.hpp"
#include "runtime/result.hpp"

namespace spillway::model {

struct SamplingParams {
  std::int32_t max_tokens = 256;      // 0: prefill only, no token comes out
  float temperature = 1.0f;           // 0: greedy (argmax, ties to the lowest id)
  std::int32_t top_k = 0;             // 0 or -1: off
  float top_p = 1.0f;                 // (0, 1]
  float min_p = 0.0f;                 // [0, 1]: keep tokens with p >= min_p * p_max
  float repetition_penalty = 1.0f;    // > 0: over prompt and output; logit > 0 ? l / r : l * r
  float presence_penalty = 0.0f;      // [-2, 2], over the output
  float frequency_penalty = 0.0f;     // [-2, 2], over the output, per occurrence
  std::uint64_t seed = 0;             // token i of choice j is drawn from (seed, j, i) whatever the batch
  std::vector<std::string> stop;      // text that ends the answer; not part of it
  std::vector<TokenId> stop_token_ids;
  std::int32_t n = 1;                 // choices
  std::int32_t logprobs = -1;         // -1: none; K >= 0: the chosen token's and the K best
  bool ignore_eos = false;
  std::optional<SparseKvParams> sparse_kv;  // empty: as the engine was told, exact unless it was

  [[nodiscard]] bool greedy() const noexcept { return temperature == 0.0f; }
  [[nodiscard]] bool has_penalties() const noexcept {
    return repetition_penalty != 1.0f || presence_penalty != 0.0f || frequency_penalty != 0.0f;
  }
};

/// Refuses values outside the ranges above, naming the field, the value and the range.
[[nodiscard]] Result<void> validate(const SamplingParams& params);

}  // namespace spillway::model
