// SPDX-License-Identifier: Apache-2.0
// A client's JSON, as every endpoint and the WebSocket read it: whatever is accepted is within its limits.

#include <cmath>
#include <string_view>

#include "net/api_request.hpp"
#include "runtime/check.hpp"
#include "tests/fuzz/targets.hpp"

namespace spillway::fuzz {
namespace {

using namespace spillway::net;

constexpr std::size_t kPromptBytesMax = 4096;

void check(const ApiError& error) {
  SPW_CHECK(error.status >= 400 && error.status < 500);
  SPW_CHECK(!error.message.empty() && !error.type.empty());
  SPW_CHECK(!error_body(error).empty() && !error_event(error, "lane").empty());
}

void check(const model::SamplingParams& params) {
  SPW_CHECK(std::isfinite(params.temperature) && params.temperature >= 0);
  SPW_CHECK(params.n >= 1 && params.n <= RequestRules{}.choices_max);
  SPW_CHECK(params.max_tokens >= 0 && params.logprobs <= RequestRules{}.top_logprobs_max);
  SPW_CHECK(params.stop.size() <= 64 && params.stop_token_ids.size() <= 1024);
}

void check(const TextRequest& request) {
  check(request.params);
  SPW_CHECK(!request.prompts.empty());
  for (const Prompt& prompt : request.prompts) {
    if (const auto* text = std::get_if<std::string>(&prompt)) SPW_CHECK(text->size() <= kPromptBytesMax);
  }
}

void check(const ResponseRequest& request) {
  check(request.params);
  for (const model::Message& message : request.input) SPW_CHECK(message.content.size() <= kPromptBytesMax);
}
void check(const TokenizeRequest&) {}
void check(const DetokenizeRequest& request) {
  for (const model::TokenId token : request.tokens) SPW_CHECK(token >= 0);
}

template <class Parsed>
void check_parsed(const Parsed& parsed) {
  std::visit([](const auto& one) { check(one); }, parsed);
}

}  // namespace

void api_request(Input input) {
  const std::string_view text(reinterpret_cast<const char*>(input.data()), input.size());
  const RequestRules rules{.prompt_bytes_max = kPromptBytesMax};
  check_parsed(parse_chat_request(text, rules));
  check_parsed(parse_completion_request(text, rules));
  check_parsed(parse_response_request(text, rules));
  check_parsed(parse_tokenize_request(text, rules));
  check_parsed(parse_detokenize_request(text));
  const ClientEvent event = parse_client_event(text);
  if (event.wrong) check(*event.wrong);
  SPW_CHECK(event.stream_id.empty() || is_stream_id(event.stream_id));
}

}  // namespace spillway::fuzz
