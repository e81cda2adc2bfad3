// SPDX-License-Identifier: Apache-2.0
#include "model/jinja_operators.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "model/unicode.hpp"

namespace spillway::model::jinja {
namespace {

Value undefined_used(Context& context, std::uint32_t offset, const Value& value) {
  const std::string_view name = value.undefined_name();
  return context.fail(
      offset, name.empty() ? "an undefined value is used" : "'" + std::string(name) + "' is undefined");
}

Value cannot(Context& context, std::uint32_t offset, std::string_view op, const Value& a, const Value& b) {
  if (a.is_undefined()) return undefined_used(context, offset, a);
  if (b.is_undefined()) return undefined_used(context, offset, b);
  return context.fail(offset, "'" + std::string(op) + "' does not work on " + std::string(a.kind_name()) +
                                  " and " + std::string(b.kind_name()));
}

Value too_large(Context& context, std::uint32_t offset) {
  return context.fail(offset, "the number does not fit into 64 bits", Errc::kUnsupported);
}

Value integer_power(Context& context, std::uint32_t offset, std::int64_t base, std::int64_t exponent) {
  if (exponent < 0) return Value::of(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  std::int64_t result = 1;
  if (base == 0 || base == 1) return Value::integer(exponent == 0 ? 1 : base);
  if (base == -1) return Value::integer(exponent % 2 == 0 ? 1 : -1);
  for (; exponent > 0; --exponent)  // |base| > 1 overflows within 63 rounds
    if (__builtin_mul_overflow(result, base, &result)) return too_large(context, offset);
  return Value::integer(result);
}

Value integers(Context& context, std::uint32_t offset, std::string_view op, std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  if (op == "+")
    return __builtin_add_overflow(a, b, &result) ? too_large(context, offset) : Value::integer(result);
  if (op == "-")
    return __builtin_sub_overflow(a, b, &result) ? too_large(context, offset) : Value::integer(result);
  if (op == "*")
    return __builtin_mul_overflow(a, b, &result) ? too_large(context, offset) : Value::integer(result);
  if (op == "**") return integer_power(context, offset, a, b);
  if (b == 0) return context.fail(offset, "division by zero");
  if (op == "/") return Value::of(static_cast<double>(a) / static_cast<double>(b));
  if (a == std::numeric_limits<std::int64_t>::min() && b == -1) return too_large(context, offset);
  // Python rounds a quotient down, and a remainder has the divisor's sign.
  const std::int64_t remainder = a % b;
  const bool adjust = remainder != 0 && (remainder < 0) != (b < 0);
  if (op == "//") return Value::integer(a / b - (adjust ? 1 : 0));
  return Value::integer(adjust ? remainder + b : remainder);
}

Value floats(Context& context, std::uint32_t offset, std::string_view op, double a, double b) {
  if (op == "+") return Value::of(a + b);
  if (op == "-") return Value::of(a - b);
  if (op == "*") return Value::of(a * b);
  if (op == "**") return Value::of(std::pow(a, b));
  if (b == 0) return context.fail(offset, "division by zero");
  if (op == "/") return Value::of(a / b);
  const double quotient = std::floor(a / b);
  return Value::of(op == "//" ? quotient : a - quotient * b);
}

Value repeat(Context& context, std::uint32_t offset, const Value& sequence, std::int64_t count) {
  const auto times = static_cast<std::uint64_t>(std::max<std::int64_t>(0, count));
  const std::string* text = sequence.as_string();
  const List* list = sequence.as_list();
  const std::uint64_t unit = text != nullptr ? text->size() : list->items.size() * sizeof(Value);
  if (unit != 0 && times > (std::uint64_t{1} << 32) / unit)
    return context.fail(offset, "the result of '*' is too long", Errc::kUnsupported);
  if (!context.allocate(offset, unit * times)) return Value();
  if (text != nullptr) {
    std::string out;
    for (std::uint64_t i = 0; i < times && !text->empty(); ++i) out += *text;
    return Value::string(std::move(out));
  }
  std::vector<Value> out;
  for (std::uint64_t i = 0; i < times && !list->items.empty(); ++i)
    out.insert(out.end(), list->items.begin(), list->items.end());
  return context.list(offset, std::move(out));
}

bool contains(Context& context, std::uint32_t offset, const Value& element, const Value& container) {
  if (const std::string* text = container.as_string()) {
    const std::string* part = element.as_string();
    if (part == nullptr) {
      cannot(context, offset, "in", element, container);
      return false;
    }
    return context.step(offset, text->size()) && text->find(*part) != std::string::npos;
  }
  if (const Dict* dict = container.as_dict()) {
    const std::string* key = element.as_string();
    return context.step(offset, dict->items.size()) && key != nullptr && dict->find(*key) != nullptr;
  }
  if (const List* list = container.as_list()) {
    for (const Value& item : list->items) {
      if (!context.step(offset, std::min(item.weight(), element.weight()))) return false;
      if (equal(item, element)) return true;
    }
    return false;
  }
  if (!container.is_undefined()) cannot(context, offset, "in", element, container);
  return false;
}

/// Byte offsets of the characters of `text`, and its end.
std::vector<std::size_t> character_offsets(std::string_view text) {
  std::vector<std::size_t> offsets;
  for (std::size_t at = 0; at < text.size(); at += utf8_step(text, at).size) offsets.push_back(at);
  offsets.push_back(text.size());
  return offsets;
}

}  // namespace

Value binary(Context& context, std::uint32_t offset, std::string_view op, const Value& a, const Value& b) {
  if (op == "~") {
    std::string out = context.text(offset, a);
    out += context.text(offset, b);
    return context.string(offset, std::move(out));
  }
  if (const auto x = a.as_integer(), y = b.as_integer(); x && y) return integers(context, offset, op, *x, *y);
  if (const auto x = a.as_number(), y = b.as_number(); x && y) return floats(context, offset, op, *x, *y);
  if (op == "+") {
    if (const std::string* x = a.as_string(), *y = b.as_string(); x && y) {
      if (!context.step(offset, x->size() + y->size())) return Value();
      return context.string(offset, *x + *y);
    }
    if (const List* x = a.as_list(), *y = b.as_list(); x && y) {
      if (!context.step(offset, (x->items.size() + y->items.size()) * sizeof(Value))) return Value();
      std::vector<Value> items = x->items;
      items.insert(items.end(), y->items.begin(), y->items.end());
      return context.list(offset, std::move(items));
    }
  }
  if (op == "*") {
    if (const auto count = b.as_integer(); count && (a.is_string() || a.as_list()))
      return repeat(context, offset, a, *count);
    if (const auto count = a.as_integer(); count && (b.is_string() || b.as_list()))
      return repeat(context, offset, b, *count);
  }
  return cannot(context, offset, op, a, b);
}

bool compare(Context& context, std::uint32_t offset, std::string_view op, const Value& a, const Value& b) {
  if (!context.step(offset, std::min(a.weight(), b.weight()))) return false;
  if (op == "==") return equal(a, b);
  if (op == "!=") return !equal(a, b);
  if (op == "in") return contains(context, offset, a, b);
  if (op == "not in") return !contains(context, offset, a, b);
  const bool swapped = op == ">" || op == "<=";  // a > b is b < a; a <= b is not b < a
  const auto result = swapped ? less(b, a) : less(a, b);
  if (!result) {
    cannot(context, offset, op, a, b);
    return false;
  }
  return op == "<" || op == ">" ? *result : !*result;
}

Value negate(Context& context, std::uint32_t offset, const Value& value) {
  if (const auto integer = value.as_integer()) return integers(context, offset, "-", 0, *integer);
  if (const auto number = value.as_number()) return Value::of(-*number);
  return cannot(context, offset, "-", Value::integer(0), value);
}

Value index(Context& context, std::uint32_t offset, const Value& object, const Value& key) {
  const auto position = key.as_integer();
  const std::string* name = key.as_string();
  if (const List* list = object.as_list(); list != nullptr && position) {
    const auto size = static_cast<std::int64_t>(list->items.size());
    const std::int64_t at = *position < 0 ? *position + size : *position;
    if (at >= 0 && at < size) return list->items[static_cast<std::size_t>(at)];
    return Value::undefined("element " + std::to_string(*position));
  }
  if (const std::string* text = object.as_string(); text != nullptr && position) {
    if (!context.step(offset, text->size())) return Value();
    const auto offsets = character_offsets(*text);
    const auto size = static_cast<std::int64_t>(offsets.size()) - 1;
    const std::int64_t at = *position < 0 ? *position + size : *position;
    if (at < 0 || at >= size) return Value::undefined("character " + std::to_string(*position));
    const auto from = offsets[static_cast<std::size_t>(at)], to = offsets[static_cast<std::size_t>(at) + 1];
    return context.string(offset, text->substr(from, to - from));
  }
  if (const Dict* dict = object.as_dict(); dict != nullptr) {
    const Value* found = name != nullptr ? dict->find(*name) : nullptr;
    return found != nullptr ? *found : Value::undefined(name != nullptr ? *name : "key");
  }
  if (name != nullptr) return attribute(context, offset, object, *name);
  if (object.is_undefined()) return undefined_used(context, offset, object);
  return Value::undefined("element");
}

Value slice(Context& context, std::uint32_t offset, const Value& object, const Value* start,
            const Value* stop, const Value* step) {
  const std::string* text = object.as_string();
  const List* list = object.as_list();
  if (object.is_undefined()) return undefined_used(context, offset, object);
  if (text == nullptr && list == nullptr)
    return context.fail(offset, std::string(object.kind_name()) + " cannot be sliced");
  const auto part = [&](const Value* value, std::int64_t fallback) -> std::int64_t {
    if (value == nullptr || value->is_none()) return fallback;
    if (const auto integer = value->as_integer()) return *integer;
    context.fail(offset, "a slice needs integers, not " + std::string(value->kind_name()));
    return fallback;
  };
  const std::int64_t by = part(step, 1);
  if (by == 0 || by == std::numeric_limits<std::int64_t>::min())
    return context.fail(offset, "slice step is zero");
  if (!context.step(offset, text != nullptr ? text->size() : list->items.size())) return Value();
  std::vector<std::size_t> offsets;
  if (text != nullptr) offsets = character_offsets(*text);
  const auto size = static_cast<std::int64_t>(text != nullptr ? offsets.size() - 1 : list->items.size());

  // Python's rules: negative positions count from the end, and everything is cut to what is there.
  const std::int64_t low = by > 0 ? 0 : -1, high = by > 0 ? size : size - 1;
  const auto place = [&](std::int64_t at) { return std::clamp(at < 0 ? at + size : at, low, high); };
  constexpr std::int64_t kLeftOut = std::numeric_limits<std::int64_t>::max();
  const std::int64_t given_from = part(start, kLeftOut), given_to = part(stop, kLeftOut);
  const std::int64_t from = given_from == kLeftOut ? (by > 0 ? 0 : size - 1) : place(given_from);
  const std::int64_t to = given_to == kLeftOut ? (by > 0 ? size : -1) : place(given_to);
  if (context.failed()) return Value();
  if (text != nullptr && by == 1) {
    if (from >= to) return Value::string("");
    const std::size_t begin = offsets[static_cast<std::size_t>(from)],
                      end = offsets[static_cast<std::size_t>(to)];
    return context.string(offset, text->substr(begin, end - begin));
  }
  std::string characters;
  std::vector<Value> items;
  for (std::int64_t at = from; by > 0 ? at < to : at > to;) {
    const auto i = static_cast<std::size_t>(at);
    if (text != nullptr)
      characters += text->substr(offsets[i], offsets[i + 1] - offsets[i]);
    else
      items.push_back(list->items[i]);
    if (__builtin_add_overflow(at, by, &at)) break;
  }
  return text != nullptr ? context.string(offset, std::move(characters))
                         : context.list(offset, std::move(items));
}

Value attribute(Context& context, std::uint32_t offset, const Value& object, std::string_view name) {
  if (object.is_undefined()) return undefined_used(context, offset, object);
  if (const Dict* dict = object.as_dict()) {
    if (const Value* found = dict->find(name)) return *found;
  } else if (const Namespace* names = object.as_namespace()) {
    if (const Value* found = names->fields.find(name)) return *found;
  } else if (const Loop* loop = object.as_loop()) {
    const auto& items = loop->items->items;
    const auto at = static_cast<std::int64_t>(loop->index), size = static_cast<std::int64_t>(items.size());
    if (name == "index") return Value::integer(at + 1);
    if (name == "index0") return Value::integer(at);
    if (name == "revindex") return Value::integer(size - at);
    if (name == "revindex0") return Value::integer(size - at - 1);
    if (name == "first") return Value::boolean(at == 0);
    if (name == "last") return Value::boolean(at + 1 == size);
    if (name == "length") return Value::integer(size);
    if (name == "depth") return Value::integer(1);  // grows in recursive loops only, which there are none of
    if (name == "depth0") return Value::integer(0);
    if (name == "previtem" && at > 0) return items[loop->index - 1];
    if (name == "nextitem" && at + 1 < size) return items[loop->index + 1];
  }
  return Value::undefined(name);
}

}  // namespace spillway::model::jinja
