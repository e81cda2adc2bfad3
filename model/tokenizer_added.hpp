// SPDX-License-Identifier: Apache-2.0
#pragma once

// Added tokens: strings such as <|im_start|> that are one token wherever they stand in the text, found before
// the text is cut into pieces. The rules are those of Hugging Face tokenizers' AddedVocabulary.

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/spec.hpp"

namespace spillway::model {

struct AddedToken {
  TokenId id = 0;
  std::string content;       // not empty
  bool special = false;      // found only where the caller trusts the text
  bool single_word = false;  // only between characters that are no word characters
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
  bool normalized = false;   // looked for after normalization of the text
};

class AddedTokens {
 public:
  AddedTokens() = default;
  explicit AddedTokens(std::vector<AddedToken> tokens);

  /// Walks `text` from left to right; the longest of the tokens that start at a place wins.
  void split(std::string_view text, bool parse_special, const std::function<void(std::string_view)>& on_text,
             const std::function<void(TokenId)>& on_token) const;

  [[nodiscard]] std::optional<TokenId> find(std::string_view content) const noexcept;
  [[nodiscard]] bool empty() const noexcept { return tokens_.empty(); }

 private:
  [[nodiscard]] const AddedToken* longest_at(std::string_view text, std::size_t at) const noexcept;

  struct Range {
    std::uint32_t begin = 0, end = 0;
  };
  std::vector<AddedToken> tokens_;     // sorted by content
  std::array<Range, 256> by_first_{};  // tokens_ by first byte
};

}  // namespace spillway::model
