// SPDX-License-Identifier: Apache-2.0
#include "net/request_parts.hpp"

#include <boost/json/array.hpp>
#include <limits>

#include "model/sparse_kv_fields.hpp"

namespace spillway::net {
namespace json = boost::json;
namespace {

constexpr std::size_t kStopsMax = 64, kStopTokenIdsMax = 1024, kMessagesMax = 4096;

/// The field that the text of an error begins with.
std::string field_of(const std::string& message) { return message.substr(0, message.find_first_of(" :")); }

void read_stop(JsonFields& fields, model::SamplingParams& params) {
  const json::value* stop = fields.find("stop");
  if (stop == nullptr) return;
  const auto add = [&](const json::value& value) {
    if (!value.is_string()) return fields.wrong("stop", "a string or a list of strings");
    if (!value.get_string().empty()) params.stop.emplace_back(value.get_string());
  };
  if (!stop->is_array()) return add(*stop);
  if (stop->get_array().size() > kStopsMax) return fields.wrong("stop", "at most 64 strings");
  for (const json::value& each : stop->get_array()) add(each);
}

/// Over what the engine does by itself.
void read_sparse_kv(JsonFields& fields, model::SamplingParams& params) {
  const json::value* value = fields.find("sparse_kv_cache");
  if (value == nullptr) return;
  const Result<model::SparseKvFields> sparse = model::parse_sparse_kv(*value);
  if (!sparse) return fields.fail(invalid_request(sparse.error().message, field_of(sparse.error().message)));
  model::SparseKvParams all = params.sparse_kv.value_or(model::SparseKvParams{});
  sparse->apply_to(all);
  params.sparse_kv = all;
}

/// Absent, null, false, {} and [] all mean that a feature is not wanted.
bool wants(const JsonFields& fields, std::string_view name) {
  const json::value* value = fields.find(name);
  if (value == nullptr) return false;
  if (value->is_bool()) return value->get_bool();
  if (value->is_array()) return !value->get_array().empty();
  if (value->is_object()) return !value->get_object().empty();
  return true;
}

}  // namespace

void read_sampling(JsonFields& fields, model::SamplingParams& params, bool& seed_given) {
  fields.read("temperature", params.temperature);
  fields.read("top_p", params.top_p);
  fields.read("top_k", params.top_k);
  fields.read("min_p", params.min_p);
  fields.read("repetition_penalty", params.repetition_penalty);
  fields.read("presence_penalty", params.presence_penalty);
  fields.read("frequency_penalty", params.frequency_penalty);
  fields.read("ignore_eos", params.ignore_eos);
  seed_given = fields.find("seed") != nullptr;
  fields.read("seed", params.seed);
  read_stop(fields, params);
  read_sparse_kv(fields, params);
  if (const json::value* ids = fields.find("stop_token_ids")) {
    if (!ids->is_array() || ids->get_array().size() > kStopTokenIdsMax)
      return fields.wrong("stop_token_ids", "a list of at most 1024 token ids");
    read_token_ids(fields, ids->get_array(), "stop_token_ids", params.stop_token_ids);
  }
}

void read_streaming(JsonFields& fields, TextRequest& request) {
  fields.read("stream", request.stream);
  const json::value* options = fields.find("stream_options");
  if (options == nullptr) return;
  if (!options->is_object()) return fields.wrong("stream_options", "an object");
  JsonFields inner(options->get_object(), "stream_options.");
  inner.read("include_usage", request.include_usage);
  inner.read("continuous_usage_stats", request.continuous_usage);
  if (inner.error()) fields.fail(*inner.error());
}

void refuse_unsupported(JsonFields& fields) {
  const auto refuse = [&](std::string_view name, std::string_view why) {
    if (wants(fields, name)) fields.fail(unsupported_parameter(name, why));
  };
  refuse("tools", "this server does not call tools");
  refuse("functions", "this server does not call functions");
  refuse("audio", "there is no audio");
  refuse("logit_bias", "there is no bias on single tokens");
  refuse("suffix", "there is no insertion into text");
  refuse("use_beam_search", "there is no beam search");
  refuse("prompt_logprobs", "log probabilities exist for output tokens only");
  refuse("structured_outputs", "output is not constrained by a grammar");
  refuse("guided_json", "output is not constrained by a grammar");
  refuse("guided_regex", "output is not constrained by a grammar");
  refuse("guided_choice", "output is not constrained by a grammar");
  refuse("guided_grammar", "output is not constrained by a grammar");
  if (const json::value* format = fields.find("response_format")) {
    const json::value* type = format->is_object() ? format->get_object().if_contains("type") : nullptr;
    if (type == nullptr || !type->is_string() || type->get_string() != "text")
      fields.fail(unsupported_parameter("response_format", "output is not constrained; only type 'text' is known"));
  }
  if (const json::value* choice = fields.find("tool_choice")) {
    if (!choice->is_string() || (choice->get_string() != "none" && choice->get_string() != "auto"))
      fields.fail(unsupported_parameter("tool_choice", "this server does not call tools"));
  }
}

void read_content(JsonFields& fields, const json::value& content, const std::string& where, std::string& text) {
  if (content.is_string()) {
    text.assign(content.get_string().data(), content.get_string().size());
    return;
  }
  if (!content.is_array()) return fields.wrong(where, "a string or a list of text parts");
  bool first = true;
  std::size_t index = 0;
  for (const json::value& part : content.get_array()) {
    const std::string place = where + "[" + std::to_string(index++) + "]";
    if (!part.is_object()) return fields.wrong(place, "an object");
    const json::value* type = part.get_object().if_contains("type");
    const json::value* words = part.get_object().if_contains("text");
    const std::string_view kind = type != nullptr && type->is_string()
                                      ? std::string_view(type->get_string().data(), type->get_string().size())
                                      : std::string_view();
    if (kind != "text" && kind != "input_text" && kind != "output_text") {
      return fields.fail(unsupported_parameter(
          place, "parts of type '" + std::string(kind.substr(0, 64)) + "' (images, audio, files) are not read; only text"));
    }
    if (words == nullptr || !words->is_string()) return fields.wrong(place + ".text", "a string");
    if (!first) text += '\n';
    first = false;
    text.append(words->get_string().data(), words->get_string().size());
  }
}

void read_message(JsonFields& fields, const json::value& item, const std::string& where,
                  std::vector<model::Message>& messages) {
  if (!item.is_object()) return fields.wrong(where, "an object with role and content");
  JsonFields message(item.get_object(), where + ".");
  model::Message read;
  message.read("role", read.role);
  if (message.find("tool_calls") != nullptr)
    message.fail(unsupported_parameter(where + ".tool_calls", "this server does not call tools"));
  if (read.role == "developer") read.role = "system";
  if (message.ok() && read.role != "user" && read.role != "assistant" && read.role != "system")
    message.wrong("role", "one of system, developer, user, assistant");
  const json::value* content = message.find("content");
  if (content == nullptr) {
    message.wrong("content", "a string or a list of text parts");
  } else if (message.ok()) {
    // Already a full path: the outer reader must not put its own before it.
    JsonFields outer(item.get_object());
    read_content(outer, *content, where + ".content", read.content);
    if (outer.error()) message.fail(*outer.error());
  }
  if (message.error()) return fields.fail(*message.error());
  messages.push_back(std::move(read));
}

void read_messages(JsonFields& fields, std::string_view name, std::vector<model::Message>& messages) {
  const json::value* list = fields.find(name);
  if (list == nullptr || !list->is_array() || list->get_array().empty())
    return fields.wrong(name, "a list of at least one message");
  if (list->get_array().size() > kMessagesMax) return fields.wrong(name, "a list of at most 4096 messages");
  std::size_t index = 0;
  for (const json::value& item : list->get_array()) {
    read_message(fields, item, std::string(name) + "[" + std::to_string(index++) + "]", messages);
    if (!fields.ok()) return;
  }
}

void read_token_ids(JsonFields& fields, const json::array& array, const std::string& where,
                    std::vector<model::TokenId>& ids) {
  ids.reserve(array.size());
  for (const json::value& value : array) {
    const std::int64_t id = value.is_int64() ? value.get_int64() : -1;
    if (id < 0 || id > std::numeric_limits<model::TokenId>::max()) return fields.wrong(where, "token ids, 0 or more");
    ids.push_back(static_cast<model::TokenId>(id));
  }
}

void check_sampling(JsonFields& fields, const model::SamplingParams& params, const RequestRules& rules) {
  if (!fields.ok()) return;
  if (Result<void> valid = model::validate(params); !valid) {
    const std::string& message = valid.error().message;
    return fields.fail(invalid_request(message, field_of(message)));
  }
  if (params.n > rules.choices_max)
    fields.fail(invalid_request("n is " + std::to_string(params.n) + "; at most " + std::to_string(rules.choices_max), "n"));
  if (params.logprobs > rules.top_logprobs_max) {
    fields.fail(invalid_request("top_logprobs is " + std::to_string(params.logprobs) + "; at most " +
                                    std::to_string(rules.top_logprobs_max),
                                "top_logprobs"));
  }
}

void check_prompt_bytes(JsonFields& fields, std::size_t bytes, const RequestRules& rules, std::string_view name) {
  if (bytes <= rules.prompt_bytes_max) return;
  fields.fail(invalid_request("The prompt has " + std::to_string(bytes) + " bytes; this server takes " +
                                  std::to_string(rules.prompt_bytes_max) + ".",
                              std::string(name), "prompt_too_long"));
}

std::size_t bytes_of(const std::vector<model::Message>& messages) {
  std::size_t bytes = 0;
  for (const model::Message& message : messages) bytes += message.role.size() + message.content.size();
  return bytes;
}

}  // namespace spillway::net
