// SPDX-License-Identifier: Apache-2.0
#include "net/text_answer.hpp"

#include "net/json_text.hpp"
#include "net/token_json.hpp"

namespace spillway::net {

std::string_view finish_reason_text(actors::FinishReason reason) noexcept {
  return reason == actors::FinishReason::kLength ? "length" : "stop";
}

TextAnswer::TextAnswer(TextAnswerConfig config, std::size_t choices, std::vector<std::string> echoes)
    : config_(std::move(config)), echoes_(std::move(echoes)), choices_(choices) {
  echoes_.resize(choices);
}

void TextAnswer::append_head(std::string& out, bool chunk) const {
  out += R"({"id":)";
  append_quoted(out, config_.id);
  out += config_.api == TextApi::kCompletion ? R"(,"object":"text_completion")"
         : chunk                             ? R"(,"object":"chat.completion.chunk")"
                                             : R"(,"object":"chat.completion")";
  out += R"(,"created":)";
  append_number(out, config_.created_s);
  out += R"(,"model":)";
  append_quoted(out, config_.model);
}

void TextAnswer::append_usage(std::string& out, const actors::Usage& usage) const {
  out += R"({"prompt_tokens":)" + std::to_string(usage.prompt_tokens) + R"(,"completion_tokens":)" +
         std::to_string(usage.completion_tokens) + R"(,"total_tokens":)" +
         std::to_string(usage.prompt_tokens + usage.completion_tokens) +
         R"(,"prompt_tokens_details":{"cached_tokens":)" + std::to_string(usage.cached_tokens) + "}";
  append_sparse_usage(out, usage);
  out += '}';
}

void TextAnswer::append_logprobs(std::string& out, std::span<const actors::TokenInfo> tokens,
                                 std::size_t offset) const {
  if (!config_.logprobs) {
    out += "null";
    return;
  }
  if (config_.api == TextApi::kChat) {
    out += R"({"content":[)";
    append_logprob_entries(out, config_.tokenizer, tokens);
    out += R"(],"refusal":null})";
    return;
  }
  std::string names, values, tops, offsets;
  for (const actors::TokenInfo& token : tokens) {
    const char* comma = names.empty() ? "" : ",";
    const std::string text = token_text(config_.tokenizer, token.token);
    names += comma;
    append_quoted(names, text);
    values += comma;
    append_number(values, token.logprob);
    offsets += comma;
    append_number(offsets, static_cast<std::int64_t>(offset));
    offset += text.size();
    tops += comma;
    tops += '{';
    for (std::size_t k = 0; k < token.top.size(); ++k) {
      if (k != 0) tops += ',';
      append_quoted(tops, token_text(config_.tokenizer, token.top[k].token));
      tops += ':';
      append_number(tops, token.top[k].logprob);
    }
    tops += '}';
  }
  out += R"({"tokens":[)" + names + R"(],"token_logprobs":[)" + values + R"(],"top_logprobs":[)" + tops +
         R"(],"text_offset":[)" + offsets + "]}";
}

void TextAnswer::begin_chunk(std::string& out, std::size_t choice) const {
  append_head(out, true);
  out += R"(,"choices":[{"index":)" + std::to_string(choice);
}

void TextAnswer::end_chunk(std::string& out, std::string_view finish_reason) {
  out += R"(,"finish_reason":)";
  append_quoted_or_null(out, finish_reason);
  out += "}]";
  if (config_.continuous_usage) {
    actors::Usage so_far{.prompt_tokens = usage_.prompt_tokens, .cached_tokens = usage_.cached_tokens};
    for (const Choice& choice : choices_) so_far.completion_tokens += choice.token_count;
    out += R"(,"usage":)";
    append_usage(out, so_far);
  } else if (config_.include_usage) {
    out += R"(,"usage":null)";
  }
  out += '}';
}

std::string TextAnswer::on_delta(std::size_t index, const actors::ChoiceDelta& delta, bool streaming) {
  Choice& choice = choices_[index];
  choice.token_count += static_cast<std::uint32_t>(delta.tokens.size());
  std::string text = choice.begun ? std::string() : echoes_[index];
  const bool first = !std::exchange(choice.begun, true);
  if (first) choice.text_offset = text.size();
  text += delta.text;
  if (!streaming) {
    choice.text += text;
    if (config_.logprobs) choice.tokens.insert(choice.tokens.end(), delta.tokens.begin(), delta.tokens.end());
    return {};
  }
  // A token inside a character has no text yet; without log probabilities there is nothing to say of it.
  if (!first && text.empty() && !config_.logprobs && !config_.continuous_usage) return {};
  std::string out;
  begin_chunk(out, index);
  if (config_.api == TextApi::kChat) {
    out += first ? R"(,"delta":{"role":"assistant","content":)" : R"(,"delta":{"content":)";
    append_quoted(out, text);
    out += '}';
  } else {
    out += R"(,"text":)";
    append_quoted(out, text);
  }
  out += R"(,"logprobs":)";
  append_logprobs(out, delta.tokens, choice.text_offset);
  for (const actors::TokenInfo& token : delta.tokens) {
    if (config_.logprobs) choice.text_offset += token_text(config_.tokenizer, token.token).size();
  }
  end_chunk(out, {});
  return out;
}

std::string TextAnswer::on_finished(std::size_t index, const actors::ChoiceFinished& finished, bool streaming) {
  Choice& choice = choices_[index];
  choice.finish_reason = finish_reason_text(finished.reason);
  if (finished.choice == 0) usage_.cached_tokens += finished.usage.cached_tokens;  // the choices of a prompt share it
  usage_.completion_tokens += finished.usage.completion_tokens;
  usage_.sparsified |= finished.usage.sparsified;
  usage_.evicted_tokens += finished.usage.evicted_tokens;
  const bool first = !std::exchange(choice.begun, true);
  const std::string text = first ? echoes_[index] : std::string();
  if (!streaming) {
    choice.text += text;
    return {};
  }
  std::string out;
  begin_chunk(out, index);
  if (config_.api == TextApi::kChat) {
    out += first ? R"(,"delta":{"role":"assistant","content":""})" : R"(,"delta":{})";
  } else {
    out += R"(,"text":)";
    append_quoted(out, text);
  }
  out += R"(,"logprobs":null)";
  end_chunk(out, choice.finish_reason);
  return out;
}

std::string TextAnswer::usage_chunk() const {
  std::string out;
  append_head(out, true);
  out += R"(,"choices":[],"usage":)";
  append_usage(out, usage_);
  return out + "}";
}

std::string TextAnswer::whole() const {
  std::string out;
  append_head(out, false);
  out += R"(,"choices":[)";
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    const Choice& choice = choices_[i];
    out += i == 0 ? "" : ",";
    out += R"({"index":)" + std::to_string(i);
    if (config_.api == TextApi::kChat) {
      out += R"(,"message":{"role":"assistant","content":)";
      append_quoted(out, choice.text);
      out += R"(,"refusal":null})";
    } else {
      out += R"(,"text":)";
      append_quoted(out, choice.text);
    }
    out += R"(,"logprobs":)";
    append_logprobs(out, choice.tokens, echoes_[i].size());
    out += R"(,"finish_reason":)";
    append_quoted_or_null(out, choice.finish_reason);
    out += '}';
  }
  out += R"(],"usage":)";
  append_usage(out, usage_);
  return out + "}";
}

}  // namespace spillway::net
