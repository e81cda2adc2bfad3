// SPDX-License-Identifier: Apache-2.0
#pragma once

// Models by the name of their shape: whoever measures one has random weights made of it.

#include <filesystem>
#include <string>
#include <string_view>

#include "model/spec.hpp"
#include "model/tensor.hpp"
#include "runtime/result.hpp"

namespace spillway::bench {

/// llama-7b, mistral-7b, llama-3-8b, smollm2 or opt-1.3b, each with 16384 positions. Errors:
/// kInvalidArgument, which names the choices.
[[nodiscard]] Result<model::ModelSpec> find_shape(std::string_view name);
/// The same; an unknown name ends the program with status 2.
[[nodiscard]] model::ModelSpec shape_of(std::string_view name);
/// All names, in a sentence.
[[nodiscard]] std::string shape_names();

/// Writes `directory`/config.json, of which load format dummy makes a model of that shape. For a Llama's:
/// norm kRms, rotary positions of base 10000. Errors: kUnsupported for others, kIo.
[[nodiscard]] Result<void> write_config(const model::ModelSpec& spec, const std::filesystem::path& directory);

/// bf16, q8_0, q4_0, q4_1, q5_0 or q5_1; an unknown name ends the program with status 2.
[[nodiscard]] model::DType weights_of(std::string_view name);

/// Elements of the matrices that every token is multiplied with; of the vocabulary's apart.
[[nodiscard]] double layer_elements(const model::ModelSpec& spec);
[[nodiscard]] double vocabulary_elements(const model::ModelSpec& spec);

}  // namespace spillway::bench
