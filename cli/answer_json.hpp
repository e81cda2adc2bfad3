// SPDX-License-Identifier: Apache-2.0
#pragma once

// Output lines of `generate --json`: one object a choice, or one a refused request.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "cli/job.hpp"

namespace spillway::cli {

/// {"id","index","prompt_token_ids","text","token_ids","finish_reason","logprobs","usage"} or, for a choice
/// that failed, {"id","index","error":{"message"}}. `id` is JSON. No newline.
[[nodiscard]] std::string choice_json(std::string_view id, std::size_t index,
                                      std::span<const model::TokenId> prompt, const ChoiceAnswer& choice,
                                      bool with_logprobs);

/// {"id","index","error":{"message"}}
[[nodiscard]] std::string error_json(std::string_view id, std::size_t index, const Error& error);

/// {"token_ids":[...]}
[[nodiscard]] std::string token_ids_json(std::span<const model::TokenId> ids);

/// The string in quotes, escaped. `text` is UTF-8.
[[nodiscard]] std::string quoted_json(std::string_view text);

}  // namespace spillway::cli
