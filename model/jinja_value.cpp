// SPDX-License-Identifier: Apache-2.0
#include "model/jinja_value.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace spillway::model::jinja {
namespace {

/// repr(float): the shortest digits that give the same number, with an exponent from 1e16 and below 1e-4.
void append_float(double value, std::string& out) {
  if (std::isnan(value)) {
    out += "nan";
    return;
  }
  if (std::isinf(value)) {
    out += value < 0 ? "-inf" : "inf";
    return;
  }
  std::array<char, 400> text;
  const double size = std::fabs(value);
  const bool fixed = size == 0 || (size >= 1e-4 && size < 1e16);
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value,
                                 fixed ? std::chars_format::fixed : std::chars_format::scientific)
                       .ptr;
  const std::string_view digits(text.data(), static_cast<std::size_t>(end - text.data()));
  out += digits;
  if (fixed && digits.find('.') == std::string_view::npos) out += ".0";
}

/// repr(str), except that no character beyond ASCII is escaped.
void append_quoted(std::string_view text, std::string& out) {
  const bool double_quotes = text.find('\'') != text.npos && text.find('"') == text.npos;
  const char quote = double_quotes ? '"' : '\'';
  out += quote;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == quote || c == '\\')
      (out += '\\') += c;
    else if (c == '\n')
      out += "\\n";
    else if (c == '\r')
      out += "\\r";
    else if (c == '\t')
      out += "\\t";
    else if (byte < 0x20 || byte == 0x7F) {
      char hex[8];
      std::snprintf(hex, sizeof hex, "\\x%02x", byte);
      out += hex;
    } else
      out += c;
  }
  out += quote;
}

void append_json_string(std::string_view text, std::string& out) {
  out += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\')
      (out += '\\') += c;
    else if (c == '\n')
      out += "\\n";
    else if (c == '\r')
      out += "\\r";
    else if (c == '\t')
      out += "\\t";
    else if (c == '\b')
      out += "\\b";
    else if (c == '\f')
      out += "\\f";
    else if (byte < 0x20) {
      char hex[8];
      std::snprintf(hex, sizeof hex, "\\u%04x", byte);
      out += hex;
    } else
      out += c;
  }
  out += '"';
}

void append_repr(const Value& value, std::string& out) {
  if (const std::string* text = value.as_string())
    append_quoted(*text, out);
  else
    append_text(value, out);
}

void append_dict(const Dict& dict, std::string& out) {
  out += '{';
  for (std::size_t i = 0; i < dict.items.size(); ++i) {
    if (i > 0) out += ", ";
    append_quoted(dict.items[i].first, out);
    out += ": ";
    append_repr(dict.items[i].second, out);
  }
  out += '}';
}

bool append_json_at(const Value& value, int indent, int level, std::string& out) {
  const auto line = [&](int at) {
    if (indent >= 0)
      out.append(1, '\n').append(static_cast<std::size_t>(indent) * static_cast<std::size_t>(at), ' ');
  };
  const std::string_view comma = indent >= 0 ? "," : ", ";
  if (const List* list = value.as_list()) {
    if (list->items.empty()) return out += "[]", true;
    out += '[';
    for (std::size_t i = 0; i < list->items.size(); ++i) {
      if (i > 0) out += comma;
      line(level + 1);
      if (!append_json_at(list->items[i], indent, level + 1, out)) return false;
    }
    line(level);
    out += ']';
    return true;
  }
  if (const Dict* dict = value.as_dict()) {
    if (dict->items.empty()) return out += "{}", true;
    out += '{';
    for (std::size_t i = 0; i < dict->items.size(); ++i) {
      if (i > 0) out += comma;
      line(level + 1);
      append_json_string(dict->items[i].first, out);
      out += ": ";
      if (!append_json_at(dict->items[i].second, indent, level + 1, out)) return false;
    }
    line(level);
    out += '}';
    return true;
  }
  if (const std::string* text = value.as_string())
    append_json_string(*text, out);
  else if (value.is_none())
    out += "null";
  else if (value.is_bool())
    out += value.truthy() ? "true" : "false";
  else if (value.is_integer() || value.is_float())
    append_text(value, out);
  else
    return false;
  return true;
}

}  // namespace

const Value* Dict::find(std::string_view key) const noexcept {
  for (const auto& [name, value] : items)
    if (name == key) return &value;
  return nullptr;
}

std::optional<std::int64_t> Value::as_integer() const noexcept {
  if (const auto* i = std::get_if<std::int64_t>(&storage_)) return *i;
  if (const auto* b = std::get_if<bool>(&storage_)) return *b ? 1 : 0;
  return std::nullopt;
}

std::optional<double> Value::as_number() const noexcept {
  if (const auto* d = std::get_if<double>(&storage_)) return *d;
  if (const auto i = as_integer()) return static_cast<double>(*i);
  return std::nullopt;
}

bool Value::truthy() const noexcept {
  if (is_undefined() || is_none()) return false;
  if (const auto number = as_number()) return *number != 0;
  if (const std::string* text = as_string()) return !text->empty();
  if (const List* list = as_list()) return !list->items.empty();
  if (const Dict* dict = as_dict()) return !dict->items.empty();
  return true;
}

int Value::depth() const noexcept {
  if (const List* list = as_list()) return list->depth;
  if (const Dict* dict = as_dict()) return dict->depth;
  return as_namespace() != nullptr || as_loop() != nullptr ? kDepthUnstorable : 0;
}

std::uint64_t Value::weight() const noexcept {
  constexpr std::uint64_t kSelf = 16;
  if (const std::string* text = as_string()) return kSelf + text->size();
  if (const List* list = as_list()) return kSelf + list->weight;
  if (const Dict* dict = as_dict()) return kSelf + dict->weight;
  if (const Namespace* names = as_namespace()) {
    std::uint64_t weight = kSelf;
    for (const auto& [name, value] : names->fields.items) weight += name.size() + value.weight();
    return weight;
  }
  return kSelf;
}

std::string_view Value::undefined_name() const noexcept {
  const auto* held = std::get_if<std::shared_ptr<const Undefined>>(&storage_);
  return held != nullptr && *held != nullptr ? std::string_view((*held)->name) : std::string_view();
}

std::string_view Value::kind_name() const noexcept {
  constexpr std::array<std::string_view, 12> kNames = {
      "undefined", "none",         "a boolean",   "an integer",        "a number",   "a string",
      "a list",    "a dictionary", "a namespace", "the loop variable", "a function", "a macro"};
  return kNames[storage_.index()];
}

bool equal(const Value& a, const Value& b) noexcept {
  if (const auto x = a.as_integer(), y = b.as_integer(); x && y) return *x == *y;
  if (const auto x = a.as_number(), y = b.as_number(); x && y) return *x == *y;
  if (const std::string* x = a.as_string(), *y = b.as_string(); x && y) return *x == *y;
  if (const List* x = a.as_list(), *y = b.as_list(); x && y)
    return x == y || std::equal(x->items.begin(), x->items.end(), y->items.begin(), y->items.end(), equal);
  if (const Dict* x = a.as_dict(), *y = b.as_dict(); x && y) {
    if (x == y) return true;
    if (x->items.size() != y->items.size()) return false;
    return std::all_of(x->items.begin(), x->items.end(), [&](const auto& entry) {
      const Value* other = y->find(entry.first);
      return other != nullptr && equal(entry.second, *other);
    });
  }
  if (a.is_none() || a.is_undefined()) return a.storage().index() == b.storage().index();
  if (a.as_namespace() != nullptr) return a.as_namespace() == b.as_namespace();
  return false;
}

std::optional<bool> less(const Value& a, const Value& b) noexcept {
  if (const auto x = a.as_integer(), y = b.as_integer(); x && y) return *x < *y;
  if (const auto x = a.as_number(), y = b.as_number(); x && y) return *x < *y;
  // Byte order of UTF-8 is the order of code points, which is Python's.
  if (const std::string* x = a.as_string(), *y = b.as_string(); x && y) return *x < *y;
  return std::nullopt;
}

void append_text(const Value& value, std::string& out) {
  if (const std::string* text = value.as_string()) {
    out += *text;
  } else if (value.is_none()) {
    out += "None";
  } else if (value.is_bool()) {
    out += value.truthy() ? "True" : "False";
  } else if (value.is_integer()) {
    out += std::to_string(*value.as_integer());
  } else if (value.is_float()) {
    append_float(*value.as_number(), out);
  } else if (const List* list = value.as_list()) {
    out += list->tuple ? '(' : '[';
    for (std::size_t i = 0; i < list->items.size(); ++i) {
      if (i > 0) out += ", ";
      append_repr(list->items[i], out);
    }
    if (list->tuple && list->items.size() == 1) out += ',';
    out += list->tuple ? ')' : ']';
  } else if (const Dict* dict = value.as_dict()) {
    append_dict(*dict, out);
  } else if (const Namespace* names = value.as_namespace()) {
    out += "<Namespace ";
    append_dict(names->fields, out);
    out += '>';
  } else if (!value.is_undefined()) {
    (out += '<') += value.kind_name();
    out += '>';
  }
}

bool append_json(const Value& value, int indent, std::string& out) {
  return append_json_at(value, indent, 0, out);
}

}  // namespace spillway::model::jinja
