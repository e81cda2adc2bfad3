// SPDX-License-Identifier: Apache-2.0
#include "net/load/api_dialect.hpp"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <charconv>

namespace spillway::net::load {
namespace {

namespace json = boost::json;

constexpr std::size_t kErrorTextMax = 200;

void append_prompt(std::string& body, const Prompt& prompt) {
  if (const auto* text = std::get_if<std::string>(&prompt)) {
    body += json::serialize(json::string_view(*text));
    return;
  }
  char digits[16];
  body += '[';
  bool first = true;
  for (const model::TokenId id : std::get<std::vector<model::TokenId>>(prompt)) {
    if (!first) body += ',';
    first = false;
    body.append(digits, std::to_chars(digits, digits + sizeof digits, id).ptr);
  }
  body += ']';
}

Error malformed(std::string_view what) {
  return {Errc::kInvalidArgument, "malformed event: " + std::string(what)};
}

std::string shortened(std::string_view text) {
  std::string result(text.substr(0, kErrorTextMax));
  if (text.size() > kErrorTextMax) result += "...";
  std::replace_if(
      result.begin(), result.end(), [](unsigned char c) { return c < 32; }, ' ');
  return result;
}

const json::value* member(const json::object& object, std::string_view name) {
  const json::value* value = object.if_contains(name);
  return value == nullptr || value->is_null() ? nullptr : value;
}

const json::object* object_in(const json::object& object, std::string_view name) {
  const json::value* value = member(object, name);
  return value == nullptr ? nullptr : value->if_object();
}

std::string_view text_in(const json::object& object, std::string_view name) {
  const json::value* value = member(object, name);
  return value != nullptr && value->is_string() ? std::string_view(value->get_string()) : std::string_view();
}

std::optional<std::uint32_t> count_in(const json::object& object, std::string_view name) {
  const json::value* value = member(object, name);
  if (value == nullptr || !value->is_int64() || value->get_int64() < 0 || value->get_int64() > 0xffffffffLL)
    return {};
  return static_cast<std::uint32_t>(value->get_int64());
}

/// "error" as a string, or as an object with a message.
std::string error_message(const json::value& error) {
  if (error.is_string()) return shortened(error.get_string());
  if (const json::object* object = error.if_object()) {
    if (const std::string_view message = text_in(*object, "message"); !message.empty())
      return shortened(message);
  }
  return shortened(json::serialize(error));
}

void take_usage(const json::object& usage, std::string_view input, std::string_view output, Timeline& line) {
  if (const auto count = count_in(usage, input)) line.prompt_tokens = *count;
  if (const auto count = count_in(usage, output)) {
    line.output_tokens = *count;
    line.counted_by_server = true;
  }
}

}  // namespace

Result<Dialect> dialect_of(std::string_view backend) {
  if (backend == "openai" || backend == "vllm") return Dialect::kCompletions;
  if (backend == "openai-chat") return Dialect::kChat;
  if (backend == "openai-responses") return Dialect::kResponses;
  if (backend == "openai-responses-ws") return Dialect::kResponsesSocket;
  return Error{Errc::kInvalidArgument, "'" + std::string(backend) +
                                           "' is not one of openai, vllm, openai-chat, openai-responses, "
                                           "openai-responses-ws"};
}

std::string_view default_endpoint(Dialect dialect) noexcept {
  switch (dialect) {
    case Dialect::kCompletions:
      return "/v1/completions";
    case Dialect::kChat:
      return "/v1/chat/completions";
    case Dialect::kResponses:
    case Dialect::kResponsesSocket:
      break;
  }
  return "/v1/responses";
}

Result<std::string> request_body(Dialect dialect, const LoadRequest& request, const BodyOptions& options) {
  if (dialect != Dialect::kCompletions && !std::holds_alternative<std::string>(request.prompt))
    return Error{Errc::kUnsupported, "token-id prompts need the completions API (--backend openai)"};
  std::string body =
      dialect == Dialect::kResponsesSocket ? R"({"type":"response.create","model":)" : R"({"model":)";
  body += json::serialize(json::string_view(options.model));
  const std::string most = std::to_string(request.output_tokens);
  switch (dialect) {
    case Dialect::kCompletions:
      body += R"(,"prompt":)";
      append_prompt(body, request.prompt);
      body += R"(,"max_tokens":)" + most + R"(,"stream":true,"stream_options":{"include_usage":true})";
      break;
    case Dialect::kChat:
      body += R"(,"messages":[{"role":"user","content":)";
      append_prompt(body, request.prompt);
      body += R"(}],"max_completion_tokens":)" + most +
              R"(,"stream":true,"stream_options":{"include_usage":true})";
      break;
    case Dialect::kResponses:
    case Dialect::kResponsesSocket:
      body += R"(,"input":)";
      append_prompt(body, request.prompt);
      body += R"(,"max_output_tokens":)" + most + R"(,"store":false)";
      if (dialect == Dialect::kResponses) body += R"(,"stream":true)";
      break;
  }
  if (options.ignore_eos) body += R"(,"ignore_eos":true)";
  if (!options.extra.empty()) body += "," + options.extra;
  body += '}';
  return body;
}

Result<std::string> json_members(std::string_view object) {
  boost::system::error_code error;
  const json::value value = json::parse(object, error);
  if (error || !value.is_object())
    return Error{Errc::kInvalidArgument, "'" + shortened(object) + "' is not a JSON object"};
  const std::string text = json::serialize(value);
  return text.substr(1, text.size() - 2);
}

void AnswerReader::piece(std::string_view text, std::int64_t now_ns) {
  if (text.empty()) return;
  line_->token_ns.push_back(now_ns);
  if (keep_text_) line_->text += text;
}

Result<void> AnswerReader::take(std::string_view event, std::int64_t now_ns) {
  if (event == "[DONE]") {
    ended_ = true;
    return {};
  }
  // Answers come by the hundred thousand a second: a small event is parsed without touching the heap.
  std::array<unsigned char, 8192> memory;
  json::monotonic_resource resource(memory.data(), memory.size());
  boost::system::error_code failure;
  const json::value value = json::parse(event, failure, &resource);
  if (failure) return malformed("not JSON: " + shortened(event));
  const json::object* object = value.if_object();
  if (object == nullptr) return malformed("not a JSON object: " + shortened(event));
  const auto server_error = [](std::string message) {
    return Error{Errc::kInternal, "error in the stream: " + std::move(message)};
  };

  if (dialect_ == Dialect::kCompletions || dialect_ == Dialect::kChat) {
    if (const json::value* error = member(*object, "error")) return server_error(error_message(*error));
    if (const json::object* usage = object_in(*object, "usage"))
      take_usage(*usage, "prompt_tokens", "completion_tokens", *line_);
    const json::value* choices = member(*object, "choices");
    if (choices == nullptr || !choices->is_array()) return malformed("no choices: " + shortened(event));
    if (choices->get_array().empty()) return {};  // the event that carries the usage
    const json::object* choice = choices->get_array().front().if_object();
    if (choice == nullptr) return malformed("a choice that is no object");
    if (dialect_ == Dialect::kCompletions) {
      piece(text_in(*choice, "text"), now_ns);
    } else if (const json::object* delta = object_in(*choice, "delta")) {
      piece(text_in(*delta, "content"), now_ns);
      piece(text_in(*delta, "reasoning_content"), now_ns);
    }
    line_->end_ns = now_ns;
    if (member(*choice, "finish_reason") != nullptr) complete_ = true;
    return {};
  }

  const std::string_view type = text_in(*object, "type");
  if (type.empty()) return malformed("no type: " + shortened(event));
  if (type == "response.output_text.delta" || type == "response.reasoning_text.delta") {
    piece(text_in(*object, "delta"), now_ns);
    return {};
  }
  if (type == "error") {  // no terminal event follows
    ended_ = true;
    const json::value* nested = member(*object, "error");
    return server_error(nested != nullptr ? error_message(*nested) : error_message(value));
  }
  if (type == "response.completed" || type == "response.incomplete" || type == "response.failed") {
    ended_ = true;
    line_->end_ns = now_ns;
    const json::object* response = object_in(*object, "response");
    if (response == nullptr) return malformed(std::string(type) + " without its response");
    if (type == "response.failed") {
      const json::value* error = member(*response, "error");
      return server_error(error != nullptr ? error_message(*error) : "response.failed");
    }
    if (text_in(*response, "status") == "cancelled") return server_error("the response was cancelled");
    if (const json::object* usage = object_in(*response, "usage"))
      take_usage(*usage, "input_tokens", "output_tokens", *line_);
    complete_ = true;
  }
  return {};
}

Result<void> AnswerReader::finish() {
  if (!complete_) return Error{Errc::kClosed, "the stream ended before the answer was whole"};
  if (!line_->counted_by_server) line_->output_tokens = static_cast<std::uint32_t>(line_->token_ns.size());
  return {};
}

std::string http_error_text(int status, std::string_view body) {
  const std::string name = "HTTP " + std::to_string(status);
  boost::system::error_code failure;
  const json::value value = json::parse(body, failure);
  if (!failure && value.is_object()) {
    if (const json::value* error = member(value.get_object(), "error"))
      return name + ": " + error_message(*error);
    if (const std::string_view message = text_in(value.get_object(), "message"); !message.empty())
      return name + ": " + shortened(message);
  }
  return body.empty() ? name : name + ": " + shortened(body);
}

std::string_view stream_id_of(std::string_view event) noexcept {
  // Ids that we give have no character that JSON escapes, and only a top-level member of ours holds one: the
  // text of an answer would need an unescaped quote to look like it.
  constexpr std::string_view kKey = R"("stream_id")";
  std::size_t at = event.find(kKey);
  if (at == std::string_view::npos) return {};
  at = event.find_first_not_of(" :", at + kKey.size());
  if (at == std::string_view::npos || event[at] != '"') return {};
  ++at;
  const std::size_t end = event.find('"', at);
  return end == std::string_view::npos ? std::string_view() : event.substr(at, end - at);
}

}  // namespace spillway::net::load
