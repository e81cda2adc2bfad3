// SPDX-License-Identifier: Apache-2.0
#pragma once

// Cuts a template into text, output tags {{ }} and statement tags {% %}, with Jinja2's rules for white space
// around tags under trim_blocks and lstrip_blocks, which Hugging Face sets for chat templates.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/result.hpp"

namespace spillway::model::jinja {

enum class TokenKind : std::uint8_t {
  kText,         // outside of tags; `text` is what remains of it
  kOutputBegin,  // {{
  kOutputEnd,    // }}
  kBlockBegin,   // {%
  kBlockEnd,     // %}
  kName,
  kString,  // `text` is unescaped
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::uint32_t offset = 0;  // in the source
  std::string text;
};

/// "NAME:LINE:COLUMN: what", for the place `offset` of `source`.
[[nodiscard]] Error template_error(std::string_view name, std::string_view source, std::size_t offset,
                                   std::string_view what, Errc code);

/// The source with its line ends as "\n" and without the last one, as Jinja2 reads it.
[[nodiscard]] std::string normalize_source(std::string_view source);

/// The last token is kEnd. `source` is normalized.
[[nodiscard]] Result<std::vector<Token>> tokenize(std::string_view source, std::string_view name);

}  // namespace spillway::model::jinja
