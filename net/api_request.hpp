// SPDX-License-Identifier: Apache-2.0
#pragma once

// What clients ask for, read from their JSON and checked as far as that goes without an engine. Pure functions.

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "model/chat_template.hpp"
#include "model/sampling_params.hpp"
#include "net/api_error.hpp"

namespace spillway::net {

/// What requests are held to, and where silent ones start from.
struct RequestRules {
  model::SamplingParams defaults;  // the model's generation_config, the engine's sparsification
  std::size_t prompt_bytes_max = std::size_t{1} << 20;
  std::int32_t choices_max = 128;  // prompts x n
  std::int32_t top_logprobs_max = 20;
};

using Prompt = std::variant<std::string, std::vector<model::TokenId>, std::vector<model::Message>>;

/// A body of POST /v1/chat/completions or /v1/completions.
struct TextRequest {
  std::string model;
  std::vector<Prompt> prompts;  // chat: one, of messages
  model::SamplingParams params;
  bool seed_given = false;
  bool max_tokens_given = false;  // else: as many as fit (chat) or 16 (completions)
  bool add_special_tokens = true;
  bool stream = false, include_usage = false, continuous_usage = false;
  bool echo = false;
};

/// A body of POST /v1/responses, or a response.create.
struct ResponseRequest {
  std::string model;
  std::string stream_id;  // WebSocket: the lane; empty: the default one
  std::vector<model::Message> input;
  std::optional<std::string> instructions;
  std::string previous_response_id;
  std::string metadata = "{}";  // JSON
  model::SamplingParams params;
  bool seed_given = false;
  bool max_tokens_given = false;
  bool store = true, stream = false, generate = true;
};

[[nodiscard]] std::variant<TextRequest, ApiError> parse_chat_request(std::string_view body, const RequestRules& rules);
[[nodiscard]] std::variant<TextRequest, ApiError> parse_completion_request(std::string_view body,
                                                                           const RequestRules& rules);
[[nodiscard]] std::variant<ResponseRequest, ApiError> parse_response_request(std::string_view body,
                                                                             const RequestRules& rules);

/// POST /tokenize: a prompt, or messages.
struct TokenizeRequest {
  std::string model;
  Prompt prompt;
  bool add_special_tokens = true;
};
[[nodiscard]] std::variant<TokenizeRequest, ApiError> parse_tokenize_request(std::string_view body,
                                                                             const RequestRules& rules);
struct DetokenizeRequest {
  std::string model;
  std::vector<model::TokenId> tokens;
};
[[nodiscard]] std::variant<DetokenizeRequest, ApiError> parse_detokenize_request(std::string_view body);

/// A frame from a WebSocket client: which event it is, and where it belongs.
struct ClientEvent {
  std::string type;
  std::string stream_id;
  std::string response_id;            // of response.cancel
  std::optional<ApiError> wrong;      // the frame itself: no JSON, no type, a bad stream_id
};
[[nodiscard]] ClientEvent parse_client_event(std::string_view text);

/// 1 to 256 of [A-Za-z0-9_.-].
[[nodiscard]] bool is_stream_id(std::string_view text) noexcept;

}  // namespace spillway::net
