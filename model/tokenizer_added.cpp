// SPDX-License-Identifier: Apache-2.0
#include "model/tokenizer_added.hpp"

#include <algorithm>

#include "model/unicode.hpp"

namespace spillway::model {
namespace {

/// The first byte of the last character of `text`, which is valid UTF-8 and not empty.
std::size_t last_character(std::string_view text) noexcept {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

bool ends_with_word(std::string_view text) noexcept {
  return !text.empty() && is_word_character(utf8_step(text, last_character(text)).code);
}

bool starts_with_word(std::string_view text) noexcept {
  return !text.empty() && is_word_character(utf8_step(text, 0).code);
}

std::size_t trailing_space_begin(std::string_view text) noexcept {
  while (!text.empty()) {
    const std::size_t at = last_character(text);
    if (!is_white_space(utf8_step(text, at).code)) break;
    text = text.substr(0, at);
  }
  return text.size();
}

std::size_t leading_space_size(std::string_view text) noexcept {
  std::size_t at = 0;
  while (at < text.size()) {
    const Utf8Step step = utf8_step(text, at);
    if (!is_white_space(step.code)) break;
    at += step.size;
  }
  return at;
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::stable_sort(tokens_.begin(), tokens_.end(),
                   [](const AddedToken& a, const AddedToken& b) { return a.content < b.content; });
  const auto same = [](const AddedToken& a, const AddedToken& b) { return a.content == b.content; };
  tokens_.erase(std::unique(tokens_.begin(), tokens_.end(), same), tokens_.end());
  for (std::uint32_t i = 0; i < tokens_.size(); ++i) {
    Range& range = by_first_[static_cast<unsigned char>(tokens_[i].content[0])];
    if (range.end == 0) range.begin = i;
    range.end = i + 1;
  }
}

const AddedToken* AddedTokens::longest_at(std::string_view text, std::size_t at) const noexcept {
  Range range = by_first_[static_cast<unsigned char>(text[at])];
  const AddedToken* best = nullptr;
  // All tokens in `range` begin with the `depth` bytes at text[at]; the one that ends there is sorted first.
  for (std::size_t depth = 1; range.begin < range.end; ++depth) {
    if (tokens_[range.begin].content.size() == depth) best = &tokens_[range.begin++];
    if (at + depth >= text.size() || range.begin == range.end) break;
    const auto byte = static_cast<unsigned char>(text[at + depth]);
    const auto first = tokens_.begin() + range.begin, last = tokens_.begin() + range.end;
    const auto below = [&](const AddedToken& token, unsigned value) {
      return static_cast<unsigned char>(token.content[depth]) < value;
    };
    range.begin = static_cast<std::uint32_t>(std::lower_bound(first, last, byte, below) - tokens_.begin());
    range.end = static_cast<std::uint32_t>(std::lower_bound(first, last, byte + 1u, below) - tokens_.begin());
  }
  return best;
}

void AddedTokens::split(std::string_view text, bool parse_special,
                        const std::function<void(std::string_view)>& on_text,
                        const std::function<void(TokenId)>& on_token) const {
  std::size_t done = 0;  // text before this has been handed out
  for (std::size_t at = 0; at < text.size() && !tokens_.empty();) {
    const AddedToken* token = longest_at(text, at);
    if (token == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at, end = at + token->content.size();
    at = end;  // a match that is turned down below still hides what lies inside it
    if (token->special && !parse_special) continue;
    if (token->single_word && (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end))))
      continue;
    if (token->lstrip) begin = std::max(trailing_space_begin(text.substr(0, begin)), done);
    if (token->rstrip) end += leading_space_size(text.substr(end));
    if (done < begin) on_text(text.substr(done, begin - done));
    on_token(token->id);
    done = end;
  }
  if (done < text.size()) on_text(text.substr(done));
}

std::optional<TokenId> AddedTokens::find(std::string_view content) const noexcept {
  const auto at =
      std::lower_bound(tokens_.begin(), tokens_.end(), content,
                       [](const AddedToken& token, std::string_view c) { return token.content < c; });
  if (at == tokens_.end() || at->content != content) return std::nullopt;
  return at->id;
}

}  // namespace spillway::model
