// SPDX-License-Identifier: Apache-2.0
#pragma once

// The shape of a 7B model, whose 13 GB of weights a GPU makes up itself (load format dummy).

#include <filesystem>

#include "runtime/result.hpp"

namespace spillway::bench {

/// Writes config.json into `directory`: Llama-7B with 16384 positions, more than any request of the length
/// tables takes. Errors: kIo.
[[nodiscard]] Result<void> write_llama_7b_shape(const std::filesystem::path& directory);

}  // namespace spillway::bench
