// SPDX-License-Identifier: Apache-2.0

// Filters and tests.

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <string>

#include "model/jinja_builtins.hpp"
#include "model/jinja_operators.hpp"
#include "model/unicode.hpp"

namespace spillway::model::jinja {
namespace {

/// `a.b.c` or an index, as map(attribute=...) and its like take it.
Value attribute_path(Context& context, std::uint32_t offset, Value value, const Value& path) {
  if (path.as_integer()) return index(context, offset, value, path);
  const std::string* names = path.as_string();
  if (names == nullptr) return context.fail(offset, "an attribute is a name");
  for (std::string_view rest = *names; !context.failed();) {
    const std::size_t dot = rest.find('.');
    value = attribute(context, offset, value, rest.substr(0, dot));
    if (dot == rest.npos || value.is_undefined()) break;
    rest.remove_prefix(dot + 1);
  }
  return value;
}

Arguments without_first(const Arguments& arguments, std::size_t count) {
  Arguments rest;
  for (std::size_t i = count; i < arguments.positional.size(); ++i)
    rest.positional.push_back(arguments.positional[i]);
  rest.named = arguments.named;
  return rest;
}

Value join(Context& context, std::uint32_t offset, const Value& input, const Arguments& arguments) {
  const Value* separator = arguments.get(0, "d");
  const Value* path = arguments.get(1, "attribute");
  const auto items = items_of(context, offset, input);
  if (!items) return Value();
  const std::string between = separator != nullptr ? context.text(offset, *separator) : "";
  std::string out;
  for (std::size_t i = 0; i < items->size() && !context.failed(); ++i) {
    if (i > 0) {
      if (!context.allocate(offset, between.size())) return Value();
      out += between;
    }
    const Value& item = (*items)[i];
    out += context.text(offset, path != nullptr ? attribute_path(context, offset, item, *path) : item);
  }
  return context.string(offset, std::move(out));
}

Value length(Context& context, std::uint32_t offset, const Value& input) {
  std::size_t size = 0;
  if (const std::string* text = input.as_string()) {
    if (!context.step(offset, text->size())) return Value();
    size = count_characters(*text);
  } else if (const List* list = input.as_list()) {
    size = list->items.size();
  } else if (const Dict* dict = input.as_dict()) {
    size = dict->items.size();
  } else if (!input.is_undefined()) {
    return context.fail(offset, std::string(input.kind_name()) + " has no length");
  }
  return Value::integer(static_cast<std::int64_t>(size));
}

Value to_json(Context& context, std::uint32_t offset, const Value& input, const Arguments& arguments) {
  const Value* given = arguments.get(1, "indent");
  const std::int64_t indent = given != nullptr ? given->as_integer().value_or(-1) : -1;
  if (indent > 16) return context.fail(offset, "tojson with an indent over 16", Errc::kUnsupported);
  // Indentation adds at most a line for each element, of at most kDepthMax levels.
  const std::uint64_t line = indent < 0 ? 0
                                        : static_cast<std::uint64_t>(indent) *
                                              static_cast<std::uint64_t>(std::min(input.depth(), kDepthMax));
  if (!context.allocate(offset, input.weight() * 6 + input.weight() / 16 * line)) return Value();
  std::string out;
  if (!append_json(input, static_cast<int>(indent), out))
    return context.fail(offset, "tojson of something JSON has no form for");
  return context.string(offset, std::move(out));
}

/// map('filter', ...) and map(attribute='name', default=...).
Value map(Context& context, std::uint32_t offset, const Value& input, const Arguments& arguments) {
  const auto items = items_of(context, offset, input);
  if (!items) return Value();
  const Value* filter = arguments.get(0);
  const Value* path = arguments.positional.empty() ? arguments.get(1, "attribute") : nullptr;
  if (path == nullptr && (filter == nullptr || !filter->is_string()))
    return context.fail(offset, "map needs the name of a filter, or attribute=");
  const Value* fallback = arguments.get(arguments.positional.size(), "default");
  const Arguments rest = without_first(arguments, 1);
  std::vector<Value> out;
  for (const Value& item : *items) {
    if (context.failed()) return Value();
    if (path == nullptr) {
      out.push_back(apply_filter(context, offset, *filter->as_string(), item, rest));
      continue;
    }
    Value value = attribute_path(context, offset, item, *path);
    out.push_back(value.is_undefined() && fallback != nullptr ? *fallback : std::move(value));
  }
  return context.list(offset, std::move(out));
}

/// select, reject: by a test on the item; selectattr, rejectattr: by a test on an attribute of it.
Value select(Context& context, std::uint32_t offset, const Value& input, const Arguments& arguments,
             bool keep, bool by_attribute) {
  const auto items = items_of(context, offset, input);
  if (!items) return Value();
  const std::size_t at = by_attribute ? 1 : 0;
  const Value* path = by_attribute ? arguments.get(0) : nullptr;
  const Value* test = arguments.get(at);
  if ((by_attribute && path == nullptr) || (test != nullptr && !test->is_string()))
    return context.fail(offset, "needs the name of an attribute and of a test");
  const Arguments rest = without_first(arguments, at + 1);
  std::vector<Value> out;
  for (const Value& item : *items) {
    if (!context.step(offset)) return Value();
    const Value value = path != nullptr ? attribute_path(context, offset, item, *path) : item;
    const bool passes =
        test != nullptr ? apply_test(context, offset, *test->as_string(), value, rest) : value.truthy();
    if (passes == keep) out.push_back(item);
  }
  return context.list(offset, std::move(out));
}

Value ends(Context& context, std::uint32_t offset, const Value& input, bool first) {
  if (const List* list = input.as_list()) {
    if (list->items.empty()) return Value::undefined(first ? "first item" : "last item");
    return first ? list->items.front() : list->items.back();
  }
  const auto items = items_of(context, offset, input);
  if (!items || items->empty()) return Value::undefined(first ? "first item" : "last item");
  return first ? items->front() : items->back();
}

Value reverse(Context& context, std::uint32_t offset, const Value& input) {
  auto items = items_of(context, offset, input);
  if (!items) return Value();
  std::reverse(items->begin(), items->end());
  if (!input.is_string()) return context.list(offset, std::move(*items));
  std::string out;
  for (const Value& item : *items) out += *item.as_string();
  return context.string(offset, std::move(out));
}

/// sort, min and max: numbers or strings, strings without regard to case unless asked.
Value ordered(Context& context, std::uint32_t offset, std::string_view name, const Value& input,
              const Arguments& arguments) {
  auto items = items_of(context, offset, input);
  if (!items) return Value();
  const bool sort = name == "sort";
  const Value* path = arguments.get(sort ? 2 : 1, "attribute");
  const Value* case_sensitive = arguments.get(sort ? 1 : 0, "case_sensitive");
  const Value* descending = sort ? arguments.get(0, "reverse") : nullptr;
  std::vector<std::pair<Value, Value>> keyed;  // key, item
  for (Value& item : *items) {
    Value key = path != nullptr ? attribute_path(context, offset, item, *path) : item;
    if (key.is_string() && !(case_sensitive != nullptr && case_sensitive->truthy()))
      key = context.string(offset, to_lower(*key.as_string()));
    if (context.failed()) return Value();
    const bool fits = key.as_number().has_value() || key.is_string();
    if (!fits || (!keyed.empty() && keyed[0].first.is_string() != key.is_string()))
      return context.fail(offset, std::string(name) + " of values that have no order");
    if (key.is_float() && std::isnan(*key.as_number()))
      return context.fail(offset, "a number that is none has no order");
    keyed.emplace_back(std::move(key), std::move(item));
  }
  if (!context.step(offset, input.weight() * 8)) return Value();
  const bool down = descending != nullptr && descending->truthy();
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return down ? less(b.first, a.first).value_or(false) : less(a.first, b.first).value_or(false);
  });
  if (!sort) {
    if (keyed.empty()) return Value::undefined(name);
    if (name == "min") return keyed.front().second;
    const auto first_of_largest = std::find_if(keyed.begin(), keyed.end(), [&](const auto& entry) {
      return !less(entry.first, keyed.back().first).value_or(false);
    });
    return first_of_largest->second;
  }
  std::vector<Value> out;
  for (auto& [key, item] : keyed) out.push_back(std::move(item));
  return context.list(offset, std::move(out));
}

Value unique(Context& context, std::uint32_t offset, const Value& input) {
  const auto items = items_of(context, offset, input);
  if (!items) return Value();
  std::vector<Value> out;
  for (const Value& item : *items) {
    if (!context.step(offset, item.weight() * (out.size() + 1))) return Value();
    if (std::none_of(out.begin(), out.end(), [&](const Value& seen) { return equal(seen, item); }))
      out.push_back(item);
  }
  return context.list(offset, std::move(out));
}

Value sum(Context& context, std::uint32_t offset, const Value& input, const Arguments& arguments) {
  const auto items = items_of(context, offset, input);
  if (!items) return Value();
  const Value* path = arguments.get(0, "attribute");
  Value total = Value::integer(0);
  for (const Value& item : *items) {
    if (context.failed()) return Value();
    total = binary(context, offset, "+", total,
                   path != nullptr ? attribute_path(context, offset, item, *path) : item);
  }
  return total;
}

Value to_integer(Context& context, std::uint32_t offset, const Value& input, const Arguments& arguments) {
  const Value* fallback = arguments.get(0, "default");
  if (const auto integer = input.as_integer()) return Value::integer(*integer);
  if (const auto number = input.as_number(); number && std::fabs(*number) < 9e18)
    return Value::integer(static_cast<std::int64_t>(*number));
  if (const std::string* text = input.as_string()) {
    std::string_view digits = strip(*text, nullptr, true, true);
    if (digits.starts_with('+')) digits.remove_prefix(1);
    std::int64_t value = 0;
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (parsed.ec == std::errc() && parsed.ptr == digits.data() + digits.size()) return Value::integer(value);
    if (parsed.ec == std::errc::result_out_of_range)
      return context.fail(offset, "the number does not fit into 64 bits", Errc::kUnsupported);
  }
  return fallback != nullptr ? *fallback : Value::integer(0);
}

Value to_float(const Value& input, const Arguments& arguments) {
  const Value* fallback = arguments.get(0, "default");
  if (const auto number = input.as_number()) return Value::of(*number);
  if (const std::string* text = input.as_string()) {
    const std::string_view digits = strip(*text, nullptr, true, true);
    double value = 0;
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (parsed.ec == std::errc() && parsed.ptr == digits.data() + digits.size()) return Value::of(value);
  }
  return fallback != nullptr ? *fallback : Value::of(0.0);
}

/// Spaces before each line but the first (and blank ones).
Value indent(Context& context, std::uint32_t offset, const std::string& text, const Arguments& arguments) {
  const Value* width = arguments.get(0, "width");
  const Value* first = arguments.get(1, "first");
  const Value* blank = arguments.get(2, "blank");
  std::string margin;
  if (width != nullptr && width->is_string())
    margin = *width->as_string();
  else
    margin.assign(static_cast<std::size_t>(std::clamp<std::int64_t>(
                      width != nullptr ? width->as_integer().value_or(4) : 4, 0, 1000)),
                  ' ');
  const auto lines = static_cast<std::uint64_t>(std::count(text.begin(), text.end(), '\n')) + 1;
  if (!context.allocate(offset, lines * margin.size())) return Value();
  std::string out;
  std::string_view rest = text;
  for (bool start = true;; start = false) {
    const std::size_t end = rest.find('\n');
    const std::string_view line = rest.substr(0, end);
    const bool wanted =
        start ? first != nullptr && first->truthy() : !line.empty() || (blank != nullptr && blank->truthy());
    if (wanted) out += margin;
    out += line;
    if (end == rest.npos) break;
    out += '\n';
    rest.remove_prefix(end + 1);
  }
  return context.string(offset, std::move(out));
}

Value escape_html(Context& context, std::uint32_t offset, std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&#34;";
    else if (c == '\'')
      out += "&#39;";
    else
      out += c;
  }
  return context.string(offset, std::move(out));
}

/// Filters that first make text of their input. Undefined input gives "".
Value text_filter(Context& context, std::uint32_t offset, std::string_view name, const Value& input,
                  const Arguments& arguments) {
  const std::string text = context.text(offset, input);
  const Value* first = arguments.get(0);
  if (context.failed()) return Value();
  if (name == "trim") {
    const Value* characters = arguments.get(0, "chars");
    return context.string(
        offset,
        std::string(strip(text, characters != nullptr ? characters->as_string() : nullptr, true, true)));
  }
  if (name == "upper") return context.string(offset, to_upper(text));
  if (name == "lower") return context.string(offset, to_lower(text));
  if (name == "title") return context.string(offset, title(text, true));
  if (name == "capitalize") return context.string(offset, capitalize(text));
  if (name == "string" || name == "safe") return context.string(offset, text);
  if (name == "escape" || name == "e") return escape_html(context, offset, text);
  if (name == "indent") return indent(context, offset, text, arguments);
  // replace
  const Value *from = arguments.get(0, "old"), *to = arguments.get(1, "new"),
              *count = arguments.get(2, "count");
  if (first == nullptr && from == nullptr) return context.fail(offset, "replace needs two strings");
  if (to == nullptr) return context.fail(offset, "replace needs two strings");
  const std::string from_text = context.text(offset, *from), to_text = context.text(offset, *to);
  const std::int64_t limit = count != nullptr ? count->as_integer().value_or(-1) : -1;
  return context.string(offset, replace_all(context, offset, text, from_text, to_text, limit));
}

bool is_any(std::string_view name, std::initializer_list<std::string_view> names) noexcept {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

Value apply_filter(Context& context, std::uint32_t offset, std::string_view name, const Value& input,
                   const Arguments& arguments) {
  if (!context.step(offset)) return Value();
  if (is_any(name, {"trim", "upper", "lower", "title", "capitalize", "string", "safe", "escape", "e",
                    "indent", "replace"}))
    return text_filter(context, offset, name, input, arguments);
  if (name == "length" || name == "count") return length(context, offset, input);
  if (name == "default" || name == "d") {
    const Value *fallback = arguments.get(0, "default_value"), *also_false = arguments.get(1, "boolean");
    const bool replaced =
        input.is_undefined() || (also_false != nullptr && also_false->truthy() && !input.truthy());
    return !replaced ? input : fallback != nullptr ? *fallback : Value::string("");
  }
  if (name == "tojson") return to_json(context, offset, input, arguments);
  if (name == "join") return join(context, offset, input, arguments);
  if (name == "first" || name == "last") return ends(context, offset, input, name == "first");
  if (name == "items") {
    if (input.is_undefined()) return context.list(offset, {});
    return call_method(context, offset, input, "items", {});
  }
  if (name == "dictsort") {
    const Value pairs = call_method(context, offset, input, "items", {});
    return ordered(context, offset, "sort", pairs, {{}, {{"attribute", Value::integer(0)}}});
  }
  if (name == "list") {
    auto items = items_of(context, offset, input);
    return items ? context.list(offset, std::move(*items)) : Value();
  }
  if (name == "map") return map(context, offset, input, arguments);
  if (name == "select" || name == "reject")
    return select(context, offset, input, arguments, name == "select", false);
  if (name == "selectattr" || name == "rejectattr")
    return select(context, offset, input, arguments, name == "selectattr", true);
  if (name == "reverse") return reverse(context, offset, input);
  if (is_any(name, {"sort", "min", "max"})) return ordered(context, offset, name, input, arguments);
  if (name == "unique") return unique(context, offset, input);
  if (name == "sum") return sum(context, offset, input, arguments);
  if (name == "int") return to_integer(context, offset, input, arguments);
  if (name == "float") return to_float(input, arguments);
  if (name == "abs") {
    const auto number = input.as_number();
    if (!number) return context.fail(offset, "abs of " + std::string(input.kind_name()));
    return *number < 0 ? negate(context, offset, input) : input;
  }
  return context.fail(offset, "filter '" + std::string(name.substr(0, 40)) + "' is not supported",
                      Errc::kUnsupported);
}

bool apply_test(Context& context, std::uint32_t offset, std::string_view name, const Value& input,
                const Arguments& arguments) {
  if (!context.step(offset)) return false;
  const Value* first = arguments.get(0);
  const auto integer = input.as_integer();
  if (name == "defined") return !input.is_undefined();
  if (name == "undefined") return input.is_undefined();
  if (name == "none") return input.is_none();
  if (name == "string") return input.is_string();
  if (name == "number") return input.as_number().has_value();
  if (name == "integer") return input.is_integer();
  if (name == "float") return input.is_float();
  if (name == "boolean") return input.is_bool();
  if (name == "true") return input.is_bool() && input.truthy();
  if (name == "false") return input.is_bool() && !input.truthy();
  if (name == "mapping") return input.as_dict() != nullptr;
  if (name == "sequence")
    return input.is_string() || input.as_list() != nullptr || input.as_dict() != nullptr ||
           input.is_undefined();
  if (name == "iterable")
    return input.is_string() || input.as_list() != nullptr || input.as_dict() != nullptr ||
           input.is_undefined();
  if (name == "callable") return input.is_callable();
  if (name == "odd") return integer && *integer % 2 != 0;
  if (name == "even") return integer && *integer % 2 == 0;
  if (name == "upper") return input.is_string() && *input.as_string() == to_upper(*input.as_string());
  if (name == "lower") return input.is_string() && *input.as_string() == to_lower(*input.as_string());
  constexpr std::pair<std::string_view, std::string_view> kComparisons[] = {
      {"eq", "=="},         {"==", "=="},      {"equalto", "=="}, {"ne", "!="}, {"!=", "!="},    {"lt", "<"},
      {"<", "<"},           {"lessthan", "<"}, {"le", "<="},      {"<=", "<="}, {"gt", ">"},     {">", ">"},
      {"greaterthan", ">"}, {"ge", ">="},      {">=", ">="},      {"in", "in"}, {"sameas", "=="}};
  for (const auto& [test, op] : kComparisons) {
    if (test != name) continue;
    if (first == nullptr) {
      context.fail(offset, "test '" + std::string(name) + "' needs an argument");
      return false;
    }
    if (name == "sameas" && input.storage().index() != first->storage().index()) return false;
    return compare(context, offset, op, input, *first);
  }
  if (name == "divisibleby") {
    const std::int64_t divisor = first != nullptr ? first->as_integer().value_or(0) : 0;
    if (!integer || divisor == 0) {
      context.fail(offset, "divisibleby needs two integers, the second not zero");
      return false;
    }
    return divisor == -1 || *integer % divisor == 0;
  }
  context.fail(offset, "test '" + std::string(name.substr(0, 40)) + "' is not supported", Errc::kUnsupported);
  return false;
}

}  // namespace spillway::model::jinja
