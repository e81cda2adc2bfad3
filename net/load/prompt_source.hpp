// SPDX-License-Identifier: Apache-2.0
#pragma once

// PromptSource: prompts of a wanted length out of nothing, different for each draw, so that no prefix cache
// helps unless a trace says so.

#include <string>
#include <vector>

#include "net/load/workload.hpp"
#include "runtime/random.hpp"

namespace spillway::model {
class Tokenizer;
}

namespace spillway::net::load {

class PromptSource {
 public:
  /// Token ids, uniform in [low, high).
  [[nodiscard]] static PromptSource of_ids(model::TokenId low, model::TokenId high);
  /// Text of common English words, each one token (with the space before it) in the usual byte-level
  /// vocabularies. The length is right to within the tokens of the first word and of what a chat template
  /// adds.
  [[nodiscard]] static PromptSource of_common_words();
  /// Text of words that are one token each in this vocabulary: the length is exact.
  [[nodiscard]] static PromptSource of_vocabulary(const model::Tokenizer& tokenizer);

  /// The empty prompt of this source's kind.
  [[nodiscard]] Prompt empty() const;
  void append(Prompt& prompt, std::size_t tokens, runtime::Random& random) const;
  [[nodiscard]] Prompt draw(std::size_t tokens, runtime::Random& random) const {
    Prompt prompt = empty();
    append(prompt, tokens, random);
    return prompt;
  }

 private:
  model::TokenId low_ = 0, high_ = 0;
  std::vector<std::string> words_;  // with a space before each; empty: ids
};

}  // namespace spillway::net::load
