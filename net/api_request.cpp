// SPDX-License-Identifier: Apache-2.0
#include "net/api_request.hpp"

#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>

#include "net/request_parts.hpp"

namespace spillway::net {
namespace json = boost::json;
namespace {

std::size_t bytes_of(const Prompt& prompt) {
  if (const auto* text = std::get_if<std::string>(&prompt)) return text->size();
  if (const auto* ids = std::get_if<std::vector<model::TokenId>>(&prompt)) return ids->size() * sizeof(model::TokenId);
  return net::bytes_of(std::get<std::vector<model::Message>>(prompt));
}

/// A string, a list of strings, a list of token ids, or a list of those.
void read_prompts(JsonFields& fields, const RequestRules& rules, std::vector<Prompt>& prompts) {
  constexpr std::string_view kWanted = "a string, a list of strings, a list of token ids, or a list of those";
  const json::value* prompt = fields.find("prompt");
  if (prompt == nullptr) return fields.wrong("prompt", kWanted);
  if (prompt->is_string()) {
    prompts.emplace_back(std::string(prompt->get_string()));
    return;
  }
  if (!prompt->is_array() || prompt->get_array().empty()) return fields.wrong("prompt", kWanted);
  const json::array& list = prompt->get_array();
  if (list[0].is_number()) {
    std::vector<model::TokenId> ids;
    read_token_ids(fields, list, "prompt", ids);
    prompts.emplace_back(std::move(ids));
    return;
  }
  if (list.size() > static_cast<std::size_t>(rules.choices_max))
    return fields.wrong("prompt", "at most " + std::to_string(rules.choices_max) + " prompts");
  for (const json::value& each : list) {
    if (each.is_string()) {
      prompts.emplace_back(std::string(each.get_string()));
    } else if (each.is_array()) {
      std::vector<model::TokenId> ids;
      read_token_ids(fields, each.get_array(), "prompt", ids);
      prompts.emplace_back(std::move(ids));
    } else {
      return fields.wrong("prompt", kWanted);
    }
  }
}

void read_text_input(JsonFields& fields, ResponseRequest& request) {
  const json::value* input = fields.find("input");
  if (input == nullptr) {
    if (request.previous_response_id.empty() && request.generate)
      fields.wrong("input", "a string or a list of messages");
    return;
  }
  if (input->is_string()) {
    request.input.push_back({"user", std::string(input->get_string())});
    return;
  }
  if (!input->is_array()) return fields.wrong("input", "a string or a list of messages");
  if (input->get_array().size() > 4096) return fields.wrong("input", "a list of at most 4096 items");
  std::size_t index = 0;
  for (const json::value& item : input->get_array()) {
    const std::string where = "input[" + std::to_string(index++) + "]";
    if (item.is_object()) {
      const json::value* type = item.get_object().if_contains("type");
      if (type != nullptr && type->is_string() && type->get_string() != "message") {
        return fields.fail(unsupported_parameter(
            where, "items of type '" + std::string(type->get_string()).substr(0, 64) + "' are not read; only messages"));
      }
    }
    read_message(fields, item, where, request.input);
    if (!fields.ok()) return;
  }
}

void read_response_logprobs(JsonFields& fields, model::SamplingParams& params) {
  bool wanted = false;
  if (const json::value* include = fields.find("include")) {
    if (!include->is_array()) return fields.wrong("include", "a list");
    for (const json::value& each : include->get_array()) {
      if (each.is_string() && each.get_string() == "message.output_text.logprobs") wanted = true;
    }
  }
  std::int32_t top = 0;
  fields.read("top_logprobs", top);
  if (top < 0) fields.wrong("top_logprobs", "0 or more");
  if (wanted || top > 0) params.logprobs = top;
}

/// text.format, background and the like: what a Responses client may ask for and this server has not.
void refuse_unsupported_response(JsonFields& fields) {
  const auto object_type = [](const json::value* value) -> std::string_view {
    const json::value* type =
        value != nullptr && value->is_object() ? value->get_object().if_contains("type") : nullptr;
    return type != nullptr && type->is_string() ? std::string_view(type->get_string().data(), type->get_string().size())
                                                : std::string_view();
  };
  if (const json::value* text = fields.find("text"); text != nullptr && text->is_object()) {
    const json::value* format = text->get_object().if_contains("format");
    if (format != nullptr && !format->is_null() && object_type(format) != "text")
      fields.fail(unsupported_parameter("text.format", "output is not constrained; only type 'text' is known"));
  }
  bool background = false;
  fields.read("background", background);
  if (background) fields.fail(unsupported_parameter("background", "a response runs while its connection is open"));
  for (const std::string_view name : {"conversation", "prompt"}) {
    if (fields.find(name) != nullptr)
      fields.fail(unsupported_parameter(name, "use previous_response_id and input"));
  }
  std::string truncation;
  fields.read("truncation", truncation);
  if (!truncation.empty() && truncation != "disabled")
    fields.fail(unsupported_parameter("truncation", "the input is never cut; only 'disabled' is known"));
}

template <class Request>
std::variant<Request, ApiError> finish(const JsonFields& fields, Request& request) {
  if (fields.error()) return *fields.error();
  return std::move(request);
}

}  // namespace

std::variant<TextRequest, ApiError> parse_chat_request(std::string_view body, const RequestRules& rules) {
  json::object object;
  if (auto wrong = parse_object(body, object)) return *std::move(wrong);
  JsonFields fields(object);
  TextRequest request;
  request.params = rules.defaults;
  fields.read("model", request.model);
  refuse_unsupported(fields);
  std::vector<model::Message> messages;
  if (fields.ok()) read_messages(fields, "messages", messages);
  check_prompt_bytes(fields, net::bytes_of(messages), rules, "messages");
  request.prompts.emplace_back(std::move(messages));
  read_sampling(fields, request.params, request.seed_given);
  read_streaming(fields, request);
  fields.read("n", request.params.n);
  for (const std::string_view name : {"max_tokens", "max_completion_tokens"}) {
    request.max_tokens_given |= fields.find(name) != nullptr;
    fields.read(name, request.params.max_tokens);
  }
  bool logprobs = false;
  std::int32_t top = 0;
  fields.read("logprobs", logprobs);
  fields.read("top_logprobs", top);
  if (top < 0) fields.wrong("top_logprobs", "0 or more");
  if (top > 0 && !logprobs) fields.fail(invalid_request("'top_logprobs' needs 'logprobs': true.", "top_logprobs"));
  if (logprobs) request.params.logprobs = top;
  check_sampling(fields, request.params, rules);
  return finish(fields, request);
}

std::variant<TextRequest, ApiError> parse_completion_request(std::string_view body, const RequestRules& rules) {
  json::object object;
  if (auto wrong = parse_object(body, object)) return *std::move(wrong);
  JsonFields fields(object);
  TextRequest request;
  request.params = rules.defaults;
  request.params.max_tokens = 16;
  request.max_tokens_given = true;  // the API's default is a number
  fields.read("model", request.model);
  refuse_unsupported(fields);
  read_prompts(fields, rules, request.prompts);
  std::size_t bytes = 0;
  for (const Prompt& prompt : request.prompts) bytes += bytes_of(prompt);
  check_prompt_bytes(fields, bytes, rules, "prompt");
  read_sampling(fields, request.params, request.seed_given);
  read_streaming(fields, request);
  fields.read("n", request.params.n);
  fields.read("max_tokens", request.params.max_tokens);
  fields.read("add_special_tokens", request.add_special_tokens);
  fields.read("echo", request.echo);
  std::int32_t best_of = request.params.n;
  fields.read("best_of", best_of);
  if (best_of != request.params.n) fields.fail(unsupported_parameter("best_of", "every choice is returned; use n"));
  if (fields.find("logprobs") != nullptr) fields.read("logprobs", request.params.logprobs);
  if (request.echo && request.params.logprobs >= 0)
    fields.fail(unsupported_parameter("echo", "with logprobs: the prompt's log probabilities are not computed"));
  check_sampling(fields, request.params, rules);
  if (fields.ok() && static_cast<std::int64_t>(request.prompts.size()) * request.params.n > rules.choices_max)
    fields.fail(invalid_request("prompts times n is over " + std::to_string(rules.choices_max), "n"));
  return finish(fields, request);
}

std::variant<ResponseRequest, ApiError> parse_response_request(std::string_view body, const RequestRules& rules) {
  json::object object;
  if (auto wrong = parse_object(body, object)) return *std::move(wrong);
  JsonFields fields(object);
  ResponseRequest request;
  request.params = rules.defaults;
  fields.read("model", request.model);
  fields.read("stream_id", request.stream_id);
  fields.read("previous_response_id", request.previous_response_id);
  fields.read("generate", request.generate);
  fields.read("store", request.store);
  fields.read("stream", request.stream);
  refuse_unsupported(fields);
  refuse_unsupported_response(fields);
  if (fields.find("instructions") != nullptr) fields.read("instructions", request.instructions.emplace());
  read_text_input(fields, request);
  check_prompt_bytes(fields, net::bytes_of(request.input) + (request.instructions ? request.instructions->size() : 0),
                     rules, "input");
  if (const json::value* metadata = fields.find("metadata")) {
    if (!metadata->is_object() || metadata->get_object().size() > 16) {
      fields.wrong("metadata", "an object of at most 16 members");
    } else {
      request.metadata = json::serialize(*metadata);
      if (request.metadata.size() > 16384) fields.wrong("metadata", "at most 16 KiB");
    }
  }
  read_sampling(fields, request.params, request.seed_given);
  request.max_tokens_given = fields.find("max_output_tokens") != nullptr;
  fields.read("max_output_tokens", request.params.max_tokens);
  read_response_logprobs(fields, request.params);
  check_sampling(fields, request.params, rules);
  return finish(fields, request);
}

std::variant<TokenizeRequest, ApiError> parse_tokenize_request(std::string_view body, const RequestRules& rules) {
  json::object object;
  if (auto wrong = parse_object(body, object)) return *std::move(wrong);
  JsonFields fields(object);
  TokenizeRequest request;
  fields.read("model", request.model);
  fields.read("add_special_tokens", request.add_special_tokens);
  if (fields.find("messages") != nullptr) {
    std::vector<model::Message> messages;
    read_messages(fields, "messages", messages);
    request.prompt = std::move(messages);
  } else if (fields.find("prompt") != nullptr) {
    std::string text;
    fields.read("prompt", text);
    request.prompt = std::move(text);
  } else {
    fields.wrong("prompt", "a string");
  }
  check_prompt_bytes(fields, bytes_of(request.prompt), rules, "prompt");
  return finish(fields, request);
}

std::variant<DetokenizeRequest, ApiError> parse_detokenize_request(std::string_view body) {
  json::object object;
  if (auto wrong = parse_object(body, object)) return *std::move(wrong);
  JsonFields fields(object);
  DetokenizeRequest request;
  fields.read("model", request.model);
  const json::value* tokens = fields.find("tokens");
  if (tokens == nullptr || !tokens->is_array()) {
    fields.wrong("tokens", "a list of token ids");
  } else {
    read_token_ids(fields, tokens->get_array(), "tokens", request.tokens);
  }
  return finish(fields, request);
}

bool is_stream_id(std::string_view text) noexcept {
  if (text.empty() || text.size() > 256) return false;
  for (const char c : text) {
    const bool fine = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
                      c == '.' || c == '-';
    if (!fine) return false;
  }
  return true;
}

ClientEvent parse_client_event(std::string_view text) {
  ClientEvent event;
  json::object object;
  if (auto wrong = parse_object(text, object)) {
    event.wrong = *std::move(wrong);
    return event;
  }
  JsonFields fields(object);
  fields.read("type", event.type);
  fields.read("response_id", event.response_id);
  if (const json::value* id = fields.find("stream_id")) {
    const bool fine = id->is_string() && is_stream_id({id->get_string().data(), id->get_string().size()});
    if (fine) {
      event.stream_id = std::string(id->get_string());
    } else {
      fields.fail(invalid_request("The 'stream_id' field must be a non-empty string with at most 256 characters and may "
                                  "only contain letters, numbers, underscores, hyphens, and periods.",
                                  "stream_id", "invalid_stream_id"));
    }
  }
  if (fields.error()) event.wrong = *fields.error();
  return event;
}

}  // namespace spillway::net
