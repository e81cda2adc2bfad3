// SPDX-License-Identifier: Apache-2.0
#include "model/jinja_context.hpp"

#include <algorithm>

#include "model/jinja_lexer.hpp"
#include "model/unicode.hpp"

namespace spillway::model::jinja {

Value Context::fail(std::uint32_t offset, std::string_view what, Errc code) {
  if (!failed_) error_ = template_error(name_, source_, offset, what, code);
  failed_ = true;
  return Value();
}

bool Context::step(std::uint32_t offset, std::uint64_t bytes) {
  const std::uint64_t steps = 1 + bytes / 64;
  if (steps > steps_left_) {
    fail(offset, "the template takes more than " + std::to_string(kStepsMax) + " steps", Errc::kUnsupported);
    return false;
  }
  steps_left_ -= steps;
  return !failed_;
}

bool Context::allocate(std::uint32_t offset, std::uint64_t bytes) {
  if (!step(offset, bytes)) return false;
  if (bytes > bytes_left_) {
    fail(offset,
         "the template produces more text than " + std::to_string(kBytesMaxPerInputByte) + " times its input",
         Errc::kUnsupported);
    return false;
  }
  bytes_left_ -= bytes;
  return true;
}

std::string Context::text(std::uint32_t offset, const Value& value) {
  std::string out;
  if (allocate(offset, value.weight())) append_text(value, out);
  return out;
}

Value Context::string(std::uint32_t offset, std::string text) {
  if (!allocate(offset, text.size() + 48)) return Value();
  return Value::string(std::move(text));
}

Value Context::list(std::uint32_t offset, std::vector<Value> items, bool tuple) {
  if (!allocate(offset, items.size() * sizeof(Value) + 48)) return Value();
  List list;
  list.tuple = tuple;
  for (const Value& item : items) {
    list.depth = std::max(list.depth, item.depth() + 1);
    list.weight += item.weight();
    if (list.depth > kDepthMax || list.weight > kWeightMax)
      return fail(offset, "a list that holds too much, or a namespace", Errc::kUnsupported);
  }
  list.items = std::move(items);
  return Value::of(std::make_shared<const List>(std::move(list)));
}

Value Context::dict(std::uint32_t offset, std::vector<std::pair<std::string, Value>> items) {
  std::uint64_t bytes = 48;
  Dict dict;
  for (const auto& [key, value] : items) {
    bytes += sizeof(Value) + sizeof(std::string) + key.size();
    dict.depth = std::max(dict.depth, value.depth() + 1);
    dict.weight += key.size() + value.weight();
    if (dict.depth > kDepthMax || dict.weight > kWeightMax)
      return fail(offset, "a dictionary that holds too much, or a namespace", Errc::kUnsupported);
  }
  if (!allocate(offset, bytes)) return Value();
  dict.items = std::move(items);
  return Value::of(std::make_shared<const Dict>(std::move(dict)));
}

const Value* Arguments::get(std::size_t index, std::string_view name) const noexcept {
  if (index < positional.size()) return &positional[index];
  for (const auto& [key, value] : named)
    if (!name.empty() && key == name) return &value;
  return nullptr;
}

std::optional<std::vector<Value>> items_of(Context& context, std::uint32_t offset, const Value& value) {
  std::vector<Value> items;
  if (const List* list = value.as_list()) {
    if (!context.allocate(offset, list->items.size() * sizeof(Value))) return std::nullopt;
    items = list->items;
  } else if (const Dict* dict = value.as_dict()) {
    for (const auto& entry : dict->items) items.push_back(context.string(offset, entry.first));
  } else if (const std::string* text = value.as_string()) {
    for (std::size_t at = 0; at < text->size() && !context.failed();) {
      const std::size_t size = utf8_step(*text, at).size;
      items.push_back(context.string(offset, text->substr(at, size)));
      at += size;
    }
  } else if (!value.is_undefined()) {
    context.fail(offset, std::string(value.kind_name()) + " cannot be walked over");
  }
  if (context.failed()) return std::nullopt;
  return items;
}

}  // namespace spillway::model::jinja
