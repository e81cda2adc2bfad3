// SPDX-License-Identifier: Apache-2.0
#pragma once

// TextAnswer: the JSON of /v1/chat/completions and /v1/completions, whole or chunk by chunk. Pure: fed with the
// engine's events, gives text.

#include <cstdint>
#include <string>
#include <vector>

#include "actors/messages.hpp"
#include "model/tokenizer.hpp"

namespace spillway::net {

enum class TextApi : std::uint8_t { kChat, kCompletion };

struct TextAnswerConfig {
  TextApi api = TextApi::kChat;
  std::string id, model;
  std::int64_t created_s = 0;
  bool logprobs = false;
  bool include_usage = false, continuous_usage = false;
  const model::Tokenizer* tokenizer = nullptr;
};

class TextAnswer {
 public:
  /// `echoes`: by choice, what the answer's text begins with (empty: nothing).
  TextAnswer(TextAnswerConfig config, std::size_t choices, std::vector<std::string> echoes = {});

  /// Counts a prompt as it is submitted, so that usage is right before the end too.
  void add_prompt_tokens(std::size_t tokens) { usage_.prompt_tokens += static_cast<std::uint32_t>(tokens); }
  /// Adds to a choice; when streaming, the chunk to send (empty: nothing).
  std::string on_delta(std::size_t choice, const actors::ChoiceDelta& delta, bool streaming);
  /// Ends a choice; when streaming, its last chunk.
  std::string on_finished(std::size_t choice, const actors::ChoiceFinished& finished, bool streaming);
  /// The chunk with `choices: []` that include_usage asks for.
  [[nodiscard]] std::string usage_chunk() const;
  [[nodiscard]] std::string whole() const;
  [[nodiscard]] const std::string& id() const noexcept { return config_.id; }
  [[nodiscard]] const actors::Usage& usage() const noexcept { return usage_; }

 private:
  struct Choice {
    std::string text;
    std::vector<actors::TokenInfo> tokens;  // kept only with logprobs
    std::size_t text_offset = 0;            // of the next token, characters of the answer in bytes
    std::uint32_t token_count = 0;
    std::string finish_reason;
    bool begun = false;
  };

  void begin_chunk(std::string& out, std::size_t choice) const;
  void end_chunk(std::string& out, std::string_view finish_reason);
  void append_head(std::string& out, bool chunk) const;
  void append_logprobs(std::string& out, std::span<const actors::TokenInfo> tokens, std::size_t offset) const;
  void append_usage(std::string& out, const actors::Usage& usage) const;

  TextAnswerConfig config_;
  std::vector<std::string> echoes_;
  std::vector<Choice> choices_;
  actors::Usage usage_;  // of all that have ended
};

/// "stop" or "length".
[[nodiscard]] std::string_view finish_reason_text(actors::FinishReason reason) noexcept;

}  // namespace spillway::net
