// SPDX-License-Identifier: Apache-2.0
#pragma once

// A model of OPT-125m's shape with random weights, so that the SpvLLM paper's set-up can be run without its
// weights. 12 layers of 12 heads of 64, 2050 positions; the vocabulary is 8192, which memory and attention do
// not see.

#include <cstdint>
#include <filesystem>

#include "runtime/result.hpp"

namespace spillway::bench {

/// Writes config.json and model.safetensors (bf16, 183 MB) into `directory`, unless they are there. Query and
/// key weights are larger than the others: attention is uneven, as in a trained model. Errors: kIo.
[[nodiscard]] Result<void> write_random_opt(const std::filesystem::path& directory, std::uint64_t seed);

}  // namespace spillway::bench
