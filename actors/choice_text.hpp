// SPDX-License-Identifier: Apache-2.0
#pragma once

// ChoiceText: the text of one choice as its tokens come in. Pure; owned by the router.

#include <optional>
#include <string>
#include <vector>

#include "model/detokenizer.hpp"
#include "model/tokenizer.hpp"

namespace spillway::actors {

class ChoiceText {
 public:
  /// Without a tokenizer there is no text, and stop strings never match.
  ChoiceText(const model::Tokenizer* tokenizer, const std::vector<std::string>& stops) : stops_(stops) {
    if (tokenizer != nullptr) detokenizer_.emplace(*tokenizer);
  }

  /// The text that `token` completes and that cannot be part of a stop string any more. Nothing after a stop.
  [[nodiscard]] std::string push(model::TokenId token) {
    if (!detokenizer_ || stops_.stopped()) return {};
    return stops_.feed(detokenizer_->push(token)).text;
  }

  /// What was held back, when the answer ends without a stop string.
  [[nodiscard]] std::string finish() {
    if (!detokenizer_ || stops_.stopped()) return {};
    std::string text = stops_.feed(detokenizer_->finish()).text;
    if (!stops_.stopped()) text += stops_.finish();
    return text;
  }

  [[nodiscard]] bool stopped() const noexcept { return stops_.stopped(); }

 private:
  std::optional<model::IncrementalDetokenizer> detokenizer_;
  model::StopMatcher stops_;
};

}  // namespace spillway::actors
