// SPDX-License-Identifier: Apache-2.0

// Methods of strings, dictionaries and the loop variable, and the global functions.

#include <algorithm>
#include <array>
#include <ctime>
#include <limits>
#include <string>

#include "model/jinja_builtins.hpp"
#include "model/unicode.hpp"

namespace spillway::model::jinja {
namespace {

constexpr std::int64_t kRangeMax = 100'000;  // as in Jinja2's sandbox

/// Python's idea of white space in str.strip and str.split.
bool is_python_space(char32_t code) noexcept {
  return is_white_space(code) || (code >= 0x1C && code <= 0x1F);
}

const std::string* string_argument(const Arguments& arguments, std::size_t at, std::string_view name = {}) {
  const Value* value = arguments.get(at, name);
  return value == nullptr ? nullptr : value->as_string();
}

std::int64_t integer_argument(const Arguments& arguments, std::size_t at, std::string_view name,
                              std::int64_t fallback) {
  const Value* value = arguments.get(at, name);
  return value == nullptr ? fallback : value->as_integer().value_or(fallback);
}

/// str.split() without a separator: words between runs of white space.
std::vector<std::string_view> split_words(std::string_view text, std::int64_t splits_max) {
  std::vector<std::string_view> words;
  std::size_t at = 0;
  const auto skip = [&](bool space) {
    while (at < text.size()) {
      const Utf8Step step = utf8_step(text, at);
      if (is_python_space(step.code) != space) break;
      at += step.size;
    }
  };
  for (skip(true); at < text.size(); skip(true)) {
    const std::size_t begin = at;
    if (splits_max >= 0 && static_cast<std::int64_t>(words.size()) == splits_max) {
      words.push_back(strip(text.substr(begin), nullptr, false, true));
      break;
    }
    skip(false);
    words.push_back(text.substr(begin, at - begin));
  }
  return words;
}

std::vector<std::string_view> split_at(std::string_view text, std::string_view separator,
                                       std::int64_t splits_max, bool from_right) {
  std::vector<std::string_view> parts;
  while (splits_max < 0 || static_cast<std::int64_t>(parts.size()) < splits_max) {
    const std::size_t at = from_right ? text.rfind(separator) : text.find(separator);
    if (at == text.npos) break;
    if (from_right) {
      parts.push_back(text.substr(at + separator.size()));
      text = text.substr(0, at);
    } else {
      parts.push_back(text.substr(0, at));
      text.remove_prefix(at + separator.size());
    }
  }
  parts.push_back(text);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

Value strings(Context& context, std::uint32_t offset, const std::vector<std::string_view>& parts) {
  std::vector<Value> items;
  for (const std::string_view part : parts) {
    items.push_back(context.string(offset, std::string(part)));
    if (context.failed()) return Value();
  }
  return context.list(offset, std::move(items));
}

Value split(Context& context, std::uint32_t offset, std::string_view text, const Arguments& arguments,
            bool from_right) {
  const std::string* separator = string_argument(arguments, 0, "sep");
  const std::int64_t splits_max = integer_argument(arguments, 1, "maxsplit", -1);
  if (separator == nullptr && !from_right) return strings(context, offset, split_words(text, splits_max));
  if (separator == nullptr || separator->empty())
    return context.fail(offset, "split needs a separator that is not empty");
  return strings(context, offset, split_at(text, *separator, splits_max, from_right));
}

Value split_lines(Context& context, std::uint32_t offset, std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find_first_of("\n\r"), text.size());
    lines.push_back(text.substr(0, end));
    text.remove_prefix(std::min(text.size(), end + (text.substr(end).starts_with("\r\n") ? 2 : 1)));
  }
  return strings(context, offset, lines);
}

/// startswith and endswith take a string or a tuple of them.
Value affix(Context& context, std::uint32_t offset, std::string_view text, const Arguments& arguments,
            bool start) {
  const auto fits = [&](const Value& value) {
    const std::string* part = value.as_string();
    return part != nullptr && (start ? text.starts_with(*part) : text.ends_with(*part));
  };
  const Value* argument = arguments.get(0);
  if (argument == nullptr || !(argument->is_string() || argument->as_list() != nullptr))
    return context.fail(offset, start ? "startswith needs a string" : "endswith needs a string");
  if (const List* list = argument->as_list())
    return Value::boolean(std::any_of(list->items.begin(), list->items.end(), fits));
  return Value::boolean(fits(*argument));
}

Value string_method(Context& context, std::uint32_t offset, const std::string& text, std::string_view name,
                    const Arguments& arguments) {
  if (!context.step(offset, text.size())) return Value();
  const std::string* first = string_argument(arguments, 0);
  if (name == "strip" || name == "lstrip" || name == "rstrip")
    return context.string(offset, std::string(strip(text, first, name != "rstrip", name != "lstrip")));
  if (name == "split" || name == "rsplit") return split(context, offset, text, arguments, name == "rsplit");
  if (name == "splitlines") return split_lines(context, offset, text);
  if (name == "startswith" || name == "endswith")
    return affix(context, offset, text, arguments, name == "startswith");
  if (name == "upper") return context.string(offset, to_upper(text));
  if (name == "lower") return context.string(offset, to_lower(text));
  if (name == "title") return context.string(offset, title(text, false));
  if (name == "capitalize") return context.string(offset, capitalize(text));
  if (name == "replace") {
    const std::string* to = string_argument(arguments, 1);
    if (first == nullptr || to == nullptr) return context.fail(offset, "replace needs two strings");
    return context.string(
        offset, replace_all(context, offset, text, *first, *to, integer_argument(arguments, 2, "count", -1)));
  }
  if (name == "find" || name == "count") {
    if (first == nullptr) return context.fail(offset, std::string(name) + " needs a string");
    if (name == "find") {
      const std::size_t at = text.find(*first);
      if (at == std::string::npos) return Value::integer(-1);
      return Value::integer(
          static_cast<std::int64_t>(count_characters(std::string_view(text).substr(0, at))));
    }
    if (first->empty()) return Value::integer(static_cast<std::int64_t>(count_characters(text)) + 1);
    return Value::integer(static_cast<std::int64_t>(split_at(text, *first, -1, false).size()) - 1);
  }
  if (name == "join")
    return apply_filter(context, offset, "join", arguments.get(0) != nullptr ? *arguments.get(0) : Value(),
                        {{Value::string(text)}, {}});
  if (name == "isdigit") {
    const bool digits = std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
    return Value::boolean(digits && !text.empty());
  }
  return context.fail(offset, "a string has no method '" + std::string(name) + "'", Errc::kUnsupported);
}

Value dict_method(Context& context, std::uint32_t offset, const Dict& dict, std::string_view name,
                  const Arguments& arguments) {
  if (name == "get") {
    const std::string* key = string_argument(arguments, 0, "key");
    const Value* found = key != nullptr ? dict.find(*key) : nullptr;
    if (found != nullptr) return *found;
    const Value* fallback = arguments.get(1, "default");
    return fallback != nullptr ? *fallback : Value::none();
  }
  if (name == "items" || name == "keys" || name == "values") {
    std::vector<Value> items;
    for (const auto& [key, value] : dict.items) {
      if (context.failed()) return Value();
      if (name == "values") {
        items.push_back(value);
        continue;
      }
      const Value key_value = context.string(offset, key);
      items.push_back(name == "keys" ? key_value : context.list(offset, {key_value, value}, true));
    }
    return context.list(offset, std::move(items));
  }
  return context.fail(offset, "a dictionary has no method '" + std::string(name) + "'", Errc::kUnsupported);
}

Value make_range(Context& context, std::uint32_t offset, const Arguments& arguments) {
  std::array<std::int64_t, 3> part = {0, 0, 1};  // start, stop, step
  const std::size_t count = arguments.positional.size();
  if (count < 1 || count > 3) return context.fail(offset, "range needs one to three integers");
  for (std::size_t i = 0; i < count; ++i) {
    const auto value = arguments.positional[i].as_integer();
    if (!value) return context.fail(offset, "range needs integers");
    part[count == 1 ? 1 : i] = *value;
  }
  if (part[2] == 0) return context.fail(offset, "range with a step of zero");
  std::vector<Value> items;
  for (std::int64_t at = part[0]; part[2] > 0 ? at < part[1] : at > part[1];) {
    if (static_cast<std::int64_t>(items.size()) >= kRangeMax)
      return context.fail(offset, "range of more than " + std::to_string(kRangeMax) + " numbers",
                          Errc::kUnsupported);
    items.push_back(Value::integer(at));
    if (__builtin_add_overflow(at, part[2], &at)) break;
  }
  return context.list(offset, std::move(items));
}

Value format_time(Context& context, std::uint32_t offset, const Arguments& arguments) {
  const std::string* format = string_argument(arguments, 0);
  if (format == nullptr || !context.now_unix_s()) return context.fail(offset, "strftime_now needs a format");
  const std::time_t now = static_cast<std::time_t>(*context.now_unix_s());
  std::tm parts{};
  if (gmtime_r(&now, &parts) == nullptr) return context.fail(offset, "the time is out of range");
  std::array<char, 256> text{};
  const std::size_t size = std::strftime(text.data(), text.size(), format->c_str(), &parts);
  return context.string(offset, std::string(text.data(), size));
}

}  // namespace

std::string_view strip(std::string_view text, const std::string* characters, bool left, bool right) {
  const auto drops = [&](std::size_t at, std::size_t size, char32_t code) {
    return characters == nullptr ? is_python_space(code)
                                 : characters->find(text.substr(at, size)) != std::string::npos;
  };
  while (left && !text.empty()) {
    const Utf8Step step = utf8_step(text, 0);
    if (!drops(0, step.size, step.code)) break;
    text.remove_prefix(step.size);
  }
  while (right && !text.empty()) {
    std::size_t at = text.size() - 1;
    while (at > 0 && text.size() - at < 4 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
    const Utf8Step step = utf8_step(text, at);
    if (at + step.size != text.size() || !drops(at, step.size, step.code)) break;
    text.remove_suffix(step.size);
  }
  return text;
}

std::string replace_all(Context& context, std::uint32_t offset, std::string_view text, std::string_view from,
                        std::string_view to, std::int64_t count) {
  std::string out;
  if (from.empty()) {
    context.fail(offset, "replace of an empty string is not supported", Errc::kUnsupported);
    return out;
  }
  std::size_t done = 0;
  for (std::int64_t replaced = 0; count < 0 || replaced < count; ++replaced) {
    const std::size_t at = text.find(from, done);
    if (at == text.npos) break;
    out.append(text.substr(done, at - done)).append(to);
    done = at + from.size();
    if (!context.allocate(offset, to.size())) return out;
  }
  out.append(text.substr(done));
  return out;
}

std::string capitalize(std::string_view text) {
  if (text.empty()) return {};
  const std::size_t first = utf8_step(text, 0).size;
  return to_upper(text.substr(0, first)) + to_lower(text.substr(first));
}

std::string title(std::string_view text, bool by_space) {
  std::string out;
  bool inside_word = false;
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(text, at);
    const std::string_view character = text.substr(at, step.size);
    out += inside_word ? to_lower(character) : to_upper(character);
    inside_word = by_space ? !is_python_space(step.code) &&
                                 std::string_view("-({[<").find(character) == std::string_view::npos
                           : is_cased(step.code);
    at += step.size;
  }
  return out;
}

Value call_method(Context& context, std::uint32_t offset, const Value& object, std::string_view name,
                  const Arguments& arguments) {
  if (const std::string* text = object.as_string())
    return string_method(context, offset, *text, name, arguments);
  if (const Dict* dict = object.as_dict()) return dict_method(context, offset, *dict, name, arguments);
  if (const Loop* loop = object.as_loop();
      loop != nullptr && name == "cycle" && !arguments.positional.empty())
    return arguments.positional[loop->index % arguments.positional.size()];
  if (object.is_undefined()) {
    const std::string of(object.undefined_name());
    return context.fail(offset, of.empty() ? "a method of an undefined value" : "'" + of + "' is undefined");
  }
  return context.fail(offset, std::string(object.kind_name()) + " has no method '" + std::string(name) + "'",
                      Errc::kUnsupported);
}

Value call_function(Context& context, std::uint32_t offset, Function function, const Arguments& arguments) {
  switch (function) {
    case Function::kRange:
      return make_range(context, offset, arguments);
    case Function::kStrftimeNow:
      return format_time(context, offset, arguments);
    case Function::kDict:
      return context.dict(offset, arguments.named);
    case Function::kRaiseException: {
      const Value* message = arguments.get(0, "message");
      return context.fail(offset, message != nullptr ? context.text(offset, *message) : "raise_exception");
    }
    case Function::kNamespace: {
      auto names = std::make_shared<Namespace>();
      if (!arguments.positional.empty() && arguments.positional[0].as_dict() != nullptr)
        names->fields = *arguments.positional[0].as_dict();
      for (const auto& [name, value] : arguments.named) {
        if (value.depth() >= kDepthUnstorable)
          return context.fail(offset, "a namespace cannot hold another", Errc::kUnsupported);
        names->fields.items.emplace_back(name, value);
      }
      if (!context.allocate(offset, 64 + names->fields.items.size() * 64)) return Value();
      return Value::of(std::move(names));
    }
  }
  return Value();
}

}  // namespace spillway::model::jinja
