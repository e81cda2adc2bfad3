// SPDX-License-Identifier: Apache-2.0
#pragma once

// Models by the name of their shape: random weights are made of these on the device. An unknown name ends the
// program with status 2.

#include <string_view>

#include "model/spec.hpp"
#include "model/tensor.hpp"

namespace spillway::bench {

/// llama-7b, llama-3-8b, smollm2 or opt-1.3b.
[[nodiscard]] model::ModelSpec shape_of(std::string_view name);
/// bf16, q8_0, q4_0, q4_1, q5_0 or q5_1.
[[nodiscard]] model::DType weights_of(std::string_view name);

/// Elements of the matrices that every token is multiplied with; of the vocabulary's apart.
[[nodiscard]] double layer_elements(const model::ModelSpec& spec);
[[nodiscard]] double vocabulary_elements(const model::ModelSpec& spec);

}  // namespace spillway::bench
