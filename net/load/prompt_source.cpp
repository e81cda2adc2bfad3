// SPDX-License-Identifier: Apache-2.0
#include "net/load/prompt_source.hpp"

#include <algorithm>
#include <string_view>

#include "model/tokenizer.hpp"

namespace spillway::net::load {
namespace {

constexpr std::string_view kWords =
    "the of and to in is was for that on with as by at from this have not but had his they are which one you "
    "were "
    "her all there would their we him been has when who will more no if out so said what up its about into "
    "than them "
    "can only other new some could time these two may then do first any my now such like our over man me "
    "even most "
    "made after also did many before must through back years where much your way well down should because "
    "each just "
    "those people how too little state good very make world still own see men work long get here between "
    "both life "
    "being under never day same another know while last might us great old year off come since against go "
    "came right "
    "used take three small house use again found without place around home part water left school end every "
    "side";

bool is_plain_word(std::string_view piece) {
  return piece.size() >= 3 && piece.front() == ' ' &&
         std::all_of(piece.begin() + 1, piece.end(), [](char c) { return c >= 'a' && c <= 'z'; });
}

}  // namespace

PromptSource PromptSource::of_ids(model::TokenId low, model::TokenId high) {
  SPW_CHECK(low >= 0 && low < high);
  PromptSource source;
  source.low_ = low;
  source.high_ = high;
  return source;
}

PromptSource PromptSource::of_common_words() {
  PromptSource source;
  for (std::size_t at = 0; at < kWords.size();) {
    const std::size_t end = std::min(kWords.find(' ', at), kWords.size());
    source.words_.push_back(" " + std::string(kWords.substr(at, end - at)));
    at = end + 1;
  }
  return source;
}

PromptSource PromptSource::of_vocabulary(const model::Tokenizer& tokenizer) {
  PromptSource source;
  for (model::TokenId id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string_view piece = tokenizer.token_bytes(id);
    // A word that stands for itself among others: pre-tokenizers cut at the spaces.
    if (!is_plain_word(piece) || tokenizer.is_special(id)) continue;
    if (tokenizer.encode(std::string(piece), {.add_special_tokens = false}) == std::vector{id})
      source.words_.emplace_back(piece);
  }
  return source.words_.empty() ? of_common_words() : source;
}

Prompt PromptSource::empty() const {
  return words_.empty() ? Prompt(std::vector<model::TokenId>()) : Prompt(std::string());
}

void PromptSource::append(Prompt& prompt, std::size_t tokens, runtime::Random& random) const {
  if (auto* ids = std::get_if<std::vector<model::TokenId>>(&prompt)) {
    ids->reserve(ids->size() + tokens);
    const auto range = static_cast<std::uint64_t>(high_ - low_);
    for (std::size_t i = 0; i < tokens; ++i)
      ids->push_back(low_ + static_cast<model::TokenId>(random.below(range)));
    return;
  }
  auto& text = std::get<std::string>(prompt);
  for (std::size_t i = 0; i < tokens; ++i) text += words_[random.below(words_.size())];
}

}  // namespace spillway::net::load
