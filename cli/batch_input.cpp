// SPDX-License-Identifier: Apache-2.0
#include "cli/batch_input.hpp"

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>

#include "cli/closest_word.hpp"
#include "model/json.hpp"
#include "model/quote.hpp"
#include "runtime/check.hpp"

namespace spillway::cli {
namespace {

namespace json = boost::json;

Error wrong(std::string message) { return {Errc::kInvalidArgument, std::move(message)}; }

std::string_view kind_of(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null:
      return "null";
    case json::kind::bool_:
      return "true or false";
    case json::kind::int64:
    case json::kind::uint64:
    case json::kind::double_:
      return "a number";
    case json::kind::string:
      return "a string";
    case json::kind::array:
      return "a list";
    case json::kind::object:
      return "an object";
  }
  return "something else";
}

Error expected(std::string_view field, const json::value& value, std::string_view right) {
  return wrong(std::string(field) + " is " + std::string(kind_of(value)) + "; it must be " +
               std::string(right));
}

/// As people write it: 1.5 where Boost.JSON has 1.5E0.
std::string number_text(const json::value& value) {
  if (!value.is_double()) return json::serialize(value);
  char digits[32];
  return {digits, std::to_chars(digits, digits + sizeof digits, value.get_double()).ptr};
}

template <class T>
Result<T> whole(std::string_view field, const json::value& value) {
  constexpr std::int64_t kMin = std::numeric_limits<T>::min();
  constexpr std::uint64_t kMax = std::numeric_limits<T>::max();
  const std::string right = "a whole number from " + std::to_string(kMin) + " to " + std::to_string(kMax);
  if (value.is_int64() && value.get_int64() >= kMin &&
      (value.get_int64() < 0 || static_cast<std::uint64_t>(value.get_int64()) <= kMax)) {
    return static_cast<T>(value.get_int64());
  }
  if (value.is_uint64() && value.get_uint64() <= kMax) return static_cast<T>(value.get_uint64());
  if (value.is_number())
    return wrong(std::string(field) + " is " + number_text(value) + "; it must be " + right);
  return expected(field, value, right);
}

Result<float> real(std::string_view field, const json::value& value) {
  if (!value.is_number()) return expected(field, value, "a number");
  return static_cast<float>(value.to_number<double>());
}

Result<std::string> text(std::string_view field, const json::value& value) {
  if (!value.is_string()) return expected(field, value, "a string");
  return std::string(std::string_view(value.get_string()));
}

template <class T, class Parse>
Result<std::vector<T>> list(std::string_view field, const json::value& value, std::string_view right,
                            Parse parse) {
  if (!value.is_array()) return expected(field, value, right);
  std::vector<T> items;
  for (const json::value& each : value.get_array()) {
    Result<T> item = parse(std::string(field) + "[" + std::to_string(items.size()) + "]", each);
    if (!item) return item.error();
    items.push_back(std::move(*item));
  }
  return items;
}

Result<model::TokenId> token_id(std::string_view field, const json::value& value) {
  Result<model::TokenId> id = whole<model::TokenId>(field, value);
  if (id && *id < 0)
    return wrong(std::string(field) + " is " + std::to_string(*id) + "; token ids are 0 or more");
  return id;
}

Result<model::Message> message(std::string_view field, const json::value& value) {
  if (!value.is_object()) return expected(field, value, "an object with role and content");
  model::Message message;
  bool role = false, content = false;
  for (const auto& [key, each] : value.get_object()) {
    const std::string name = std::string(field) + "." + std::string(std::string_view(key));
    if (key != "role" && key != "content")
      return wrong(name + " is no known field; a message has role and content");
    Result<std::string> string = text(name, each);
    if (!string) return string.error();
    (key == "role" ? message.role : message.content) = std::move(*string);
    (key == "role" ? role : content) = true;
  }
  if (!role || !content) return wrong(std::string(field) + " has no " + (role ? "content" : "role"));
  return message;
}

/// A string, or a list of strings.
Result<std::vector<std::string>> stops(std::string_view field, const json::value& value) {
  constexpr std::string_view kRight = "a string or a list of strings";
  if (!value.is_string()) return list<std::string>(field, value, kRight, &text);
  return std::vector<std::string>{std::string(std::string_view(value.get_string()))};
}

Result<std::string> id_text(const json::value& value) {
  if (value.is_string()) return json::serialize(value);
  if (!value.is_number()) return expected("id", value, "a string or a number");
  if (value.is_double() && !std::isfinite(value.get_double()))
    return wrong("id is too large a number; write it as a string");
  return number_text(value);
}

constexpr std::string_view kFields[] = {
    "prompt",
    "prompt_token_ids",
    "messages",
    "id",
    "n",
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "seed",
    "repetition_penalty",
    "stop",
    "stop_token_ids",
    "presence_penalty",
    "frequency_penalty",
    "logprobs",
    "ignore_eos",
    "sparse_kv_cache",
};

Error unknown_field(std::string_view key) {
  const std::vector<std::string> known(std::begin(kFields), std::end(kFields));
  const std::string field = model::quote(key, 40) + " is no known field";
  if (const std::string close = closest_word(key, known); !close.empty())
    return wrong(field + "; did you mean " + close + "?");
  std::string all;
  for (const std::string& each : known) all += (all.empty() ? "" : ", ") + each;
  return wrong(field + "; there are " + all);
}

/// Files a value under its field; `target` takes what `parsed` holds.
template <class Target, class T>
Result<void> take(Target& target, Result<T> parsed) {
  if (!parsed) return parsed.error();
  target = std::move(*parsed);
  return {};
}

/// `key` is one of kFields, `value` not null.
Result<void> set_field(BatchLine& line, std::string_view key, const json::value& value) {
  SamplingFields& s = line.sampling;
  if (key == "prompt") return take(line.prompt, text(key, value));
  if (key == "prompt_token_ids")
    return take(line.prompt, list<model::TokenId>(key, value, "a list of token ids", &token_id));
  if (key == "messages")
    return take(line.prompt, list<model::Message>(key, value, "a list of messages", &message));
  if (key == "id") return take(line.id, id_text(value));
  if (key == "n") return take(s.n, whole<std::int32_t>(key, value));
  if (key == "max_tokens") return take(s.max_tokens, whole<std::int32_t>(key, value));
  if (key == "temperature") return take(s.temperature, real(key, value));
  if (key == "top_k") return take(s.top_k, whole<std::int32_t>(key, value));
  if (key == "top_p") return take(s.top_p, real(key, value));
  if (key == "min_p") return take(s.min_p, real(key, value));
  if (key == "repetition_penalty") return take(s.repetition_penalty, real(key, value));
  if (key == "presence_penalty") return take(s.presence_penalty, real(key, value));
  if (key == "frequency_penalty") return take(s.frequency_penalty, real(key, value));
  if (key == "seed") return take(s.seed, whole<std::uint64_t>(key, value));
  if (key == "stop") return take(s.stop, stops(key, value));
  if (key == "stop_token_ids")
    return take(s.stop_token_ids, list<model::TokenId>(key, value, "a list of token ids", &token_id));
  if (key == "logprobs") return take(s.logprobs, whole<std::int32_t>(key, value));
  if (key == "sparse_kv_cache") return take(s.sparse_kv, model::parse_sparse_kv(value));
  SPW_CHECK(key == "ignore_eos");  // the last of kFields
  if (!value.is_bool()) return expected(key, value, "true or false");
  s.ignore_eos = value.get_bool();
  return {};
}

Result<BatchLine> parse_line(std::string_view line_text, std::string_view place, std::size_t index) {
  const auto at_place = [&](const Error& error) {
    return Error{error.code, std::string(place) + ": " + error.message};
  };
  Result<json::value> root = model::parse_json(line_text, place);
  if (!root) return Error{Errc::kInvalidArgument, root.error().message};
  if (!root->is_object())
    return at_place(expected("the line", *root, "an object such as {\"prompt\": \"...\"}"));

  BatchLine line{.place = std::string(place), .id = std::to_string(index), .prompt = {}, .sampling = {}};
  std::string prompts;
  std::size_t prompt_count = 0;
  for (const auto& [key, value] : root->get_object()) {
    const bool is_prompt = key == "prompt" || key == "prompt_token_ids" || key == "messages";
    if (std::find(std::begin(kFields), std::end(kFields), std::string_view(key)) == std::end(kFields)) {
      return at_place(unknown_field(key));
    }
    if (value.is_null()) continue;  // "not given", as writers of JSON have it
    if (Result<void> set = set_field(line, key, value); !set) return at_place(set.error());
    if (!is_prompt) continue;
    ++prompt_count;
    prompts += (prompts.empty() ? "" : " and ") + std::string(std::string_view(key));
  }
  if (prompt_count == 0)
    return at_place(wrong("there is no prompt; give one of prompt, prompt_token_ids and messages"));
  if (prompt_count > 1) return at_place(wrong(prompts + " exclude each other; give one of them"));
  if (const auto* messages = std::get_if<std::vector<model::Message>>(&line.prompt);
      messages && messages->empty()) {
    return at_place(wrong("messages is an empty list; it must hold at least one message"));
  }
  model::SamplingParams params;
  line.sampling.apply_to(params);
  params.sparse_kv.reset();  // judged over the engine's own
  if (Result<void> valid = model::validate(params); !valid) return at_place(valid.error());
  return line;
}

}  // namespace

Result<std::vector<BatchLine>> parse_batch(std::string_view text, std::string_view name) {
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  std::vector<BatchLine> lines;
  std::optional<Error> first;
  std::size_t wrong_lines = 0, number = 0;
  while (!text.empty()) {
    ++number;
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line_text = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line_text.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    Result<BatchLine> line =
        parse_line(line_text, std::string(name) + ":" + std::to_string(number), lines.size());
    if (line) {
      lines.push_back(std::move(*line));
    } else if (++wrong_lines == 1) {
      first = line.error();
    }
  }
  if (first) {
    if (wrong_lines > 1)
      first->message += " (and " + std::to_string(wrong_lines - 1) + " more lines are wrong)";
    return *first;
  }
  if (lines.empty())
    return wrong(std::string(name) + ": there is no line; each is an object such as {\"prompt\": \"...\"}");
  return lines;
}

}  // namespace spillway::cli
