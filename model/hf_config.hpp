// SPDX-License-Identifier: Apache-2.0
#pragma once

// Hugging Face config.json -> ModelSpec, over the spellings of ten years: dtype and torch_dtype, rope_theta,
// rope_scaling and rope_parameters, head counts that may be missing. Field meanings follow transformers'
// configuration classes; whatever changes the computation and is not known here is refused, never ignored.

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "model/families.hpp"
#include "model/loader.hpp"
#include "model/rope.hpp"

namespace spillway::model {

class JsonField;

/// Finds the family and fills in the spec; its relations are checked. Errors name the field.
[[nodiscard]] Result<Description> describe_hf(const JsonField& config, const HfFamily** family = nullptr);

[[nodiscard]] Result<Description> describe_hf_llama(const HfFamily& family, const JsonField& config);
[[nodiscard]] Result<Description> describe_hf_opt(const HfFamily& family, const JsonField& config);

/// eos_token_id: a number, a list or nothing. Ids outside the vocabulary are left out: they cannot be
/// sampled.
[[nodiscard]] Result<std::vector<TokenId>> read_token_ids(const JsonField& field, std::int32_t vocab_size);

/// The sampling fields of generation_config.json.
[[nodiscard]] Result<GenerationDefaults> read_generation_defaults(const JsonField& config);

}  // namespace spillway::model
