// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "model/loader.hpp"
#include "model/tokenizer.hpp"
#include "net/load/datasets.hpp"

namespace spillway::cli {

/// The tokenizer of a model, without the model's weights in memory.
[[nodiscard]] Result<model::Tokenizer> load_tokenizer_of(const std::filesystem::path& model);

/// Counts by that tokenizer, which must outlive the function.
[[nodiscard]] net::load::CountTokens counter_of(const model::Tokenizer& tokenizer);

}  // namespace spillway::cli
