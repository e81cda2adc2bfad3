// SPDX-License-Identifier: Apache-2.0
#pragma once

// What one place (the command line, a line of a batch) says about sampling; empty where it is silent. Places
// are laid over each other: built-in values, then the model's generation_config.json, the command line, the
// line.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/loader.hpp"
#include "model/sampling_params.hpp"
#include "model/sparse_kv_fields.hpp"

namespace spillway::cli {

struct SamplingFields {
  std::optional<std::int32_t> max_tokens, top_k, n, logprobs;
  std::optional<float> temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<std::uint64_t> seed;
  std::optional<std::vector<std::string>> stop;
  std::optional<std::vector<model::TokenId>> stop_token_ids;
  std::optional<bool> ignore_eos;
  std::optional<model::SparseKvFields> sparse_kv;  // over the engine's own

  void apply_to(model::SamplingParams& params) const;
};

void apply(const model::GenerationDefaults& defaults, model::SamplingParams& params);

}  // namespace spillway::cli
