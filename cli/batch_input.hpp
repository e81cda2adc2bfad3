// SPDX-License-Identifier: Apache-2.0
#pragma once

// The lines of a batch: JSONL, one request each. Everything that needs no model is checked here, before one
// loads.

#include <cstddef>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "cli/sampling_fields.hpp"
#include "model/chat_template.hpp"
#include "runtime/result.hpp"

namespace spillway::cli {

struct BatchLine {
  std::string place;  // "prompts.jsonl:7", for messages
  std::string id;     // as JSON: "7", "\"a\""; the request's index where the line gives none
  std::variant<std::string, std::vector<model::TokenId>, std::vector<model::Message>> prompt;
  SamplingFields sampling;
};

/// All lines of a file's text; blank ones are skipped, and do not count in the index. `name` stands for the
/// file in messages. An error is the first wrong line's ("NAME:LINE: FIELD ...") and says how many more there
/// are.
[[nodiscard]] Result<std::vector<BatchLine>> parse_batch(std::string_view text, std::string_view name);

}  // namespace spillway::cli
