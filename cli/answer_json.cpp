// SPDX-License-Identifier: Apache-2.0
#include "cli/answer_json.hpp"

#include <boost/json/serialize.hpp>
#include <charconv>
#include <cmath>

namespace spillway::cli {
namespace {

void append(std::string& out, std::span<const model::TokenId> ids) {
  out += '[';
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (i != 0) out += ',';
    out += std::to_string(ids[i]);
  }
  out += ']';
}

/// The shortest text that reads back as the same float. JSON has no infinities: a probability of 0 is the
/// -9999 that vLLM and the OpenAI API use.
void append(std::string& out, float value) {
  if (!std::isfinite(value)) value = value > 0 ? 9999.0f : -9999.0f;
  char digits[32];
  out.append(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
}

void append(std::string& out, std::span<const TokenInfo> tokens) {
  out += '[';
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (i != 0) out += ',';
    out += R"({"token_id":)" + std::to_string(tokens[i].token) + R"(,"logprob":)";
    append(out, tokens[i].logprob);
    out += R"(,"top":[)";
    for (std::size_t k = 0; k < tokens[i].top.size(); ++k) {
      if (k != 0) out += ',';
      out += R"({"token_id":)" + std::to_string(tokens[i].top[k].token) + R"(,"logprob":)";
      append(out, tokens[i].top[k].logprob);
      out += '}';
    }
    out += "]}";
  }
  out += ']';
}

std::string beginning(std::string_view id, std::size_t index) {
  return R"({"id":)" + std::string(id) + R"(,"index":)" + std::to_string(index);
}

std::string_view to_string(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";  // by Ctrl-C: the text is what there was
  }
  return "stop";
}

}  // namespace

std::string choice_json(std::string_view id, std::size_t index, std::span<const model::TokenId> prompt,
                        const ChoiceAnswer& choice, bool with_logprobs) {
  if (choice.error) return error_json(id, index, *choice.error);
  std::string out = beginning(id, index) + R"(,"prompt_token_ids":)";
  append(out, prompt);
  out += R"(,"text":)" + quoted_json(choice.text) + R"(,"token_ids":[)";
  for (std::size_t i = 0; i < choice.tokens.size(); ++i) {
    if (i != 0) out += ',';
    out += std::to_string(choice.tokens[i].token);
  }
  out += R"(],"finish_reason":")" + std::string(to_string(choice.reason)) + R"(","logprobs":)";
  if (with_logprobs) {
    append(out, choice.tokens);
  } else {
    out += "null";
  }
  out += R"(,"usage":{"prompt_tokens":)" + std::to_string(choice.usage.prompt_tokens) +
         R"(,"completion_tokens":)" + std::to_string(choice.usage.completion_tokens) +
         R"(,"cached_tokens":)" + std::to_string(choice.usage.cached_tokens);
  if (choice.usage.sparsified) {
    out += R"(,"sparse_kv_cache":{"evicted_tokens":)" + std::to_string(choice.usage.evicted_tokens) +
           R"(,"exact":)" + (choice.usage.evicted_tokens == 0 ? "true" : "false") + "}";
  }
  out += "}}";
  return out;
}

std::string error_json(std::string_view id, std::size_t index, const Error& error) {
  return beginning(id, index) + R"(,"error":{"message":)" + quoted_json(error.message) + "}}";
}

std::string token_ids_json(std::span<const model::TokenId> ids) {
  std::string out = R"({"token_ids":)";
  append(out, ids);
  return out + "}";
}

std::string quoted_json(std::string_view text) {
  return boost::json::serialize(boost::json::string_view(text));
}

}  // namespace spillway::cli
