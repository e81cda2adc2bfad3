// SPDX-License-Identifier: Apache-2.0
#pragma once

// GGUF metadata -> ModelSpec. Keys as in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

#include "model/families.hpp"

namespace spillway::model {

/// Finds the family and fills in the spec; its relations are checked. Errors name the key.
[[nodiscard]] Result<Description> describe_gguf(const GgufFile& file, const GgufFamily** family = nullptr);

[[nodiscard]] Result<Description> describe_gguf_llama(const GgufFamily& family, const GgufFile& file);

}  // namespace spillway::model
