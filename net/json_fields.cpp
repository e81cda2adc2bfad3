// SPDX-License-Identifier: Apache-2.0
#include "net/json_fields.hpp"

#include <boost/json/parse.hpp>
#include <cmath>
#include <limits>

namespace spillway::net {
namespace json = boost::json;

std::optional<ApiError> parse_object(std::string_view text, json::object& object) {
  boost::system::error_code error;
  json::parse_options options;
  options.max_depth = 32;
  json::value value = json::parse(json::string_view(text.data(), text.size()), error, {}, options);
  if (error) return invalid_request("The body is not JSON: " + error.message() + ".", {}, "invalid_json");
  if (!value.is_object()) return invalid_request("The body must be a JSON object.", {}, "invalid_json");
  object = std::move(value.get_object());
  return std::nullopt;
}

const json::value* JsonFields::find(std::string_view name) const {
  const json::value* value = object_.if_contains(name);
  return value != nullptr && !value->is_null() ? value : nullptr;
}

void JsonFields::wrong(std::string_view name, std::string_view wanted) {
  fail(invalid_request("'" + path(name) + "' must be " + std::string(wanted) + ".", path(name), "invalid_type"));
}

void JsonFields::read(std::string_view name, bool& target) {
  const json::value* value = find(name);
  if (value == nullptr) return;
  if (!value->is_bool()) return wrong(name, "true or false");
  target = value->get_bool();
}

void JsonFields::read(std::string_view name, std::string& target) {
  const json::value* value = find(name);
  if (value == nullptr) return;
  if (!value->is_string()) return wrong(name, "a string");
  target.assign(value->get_string().data(), value->get_string().size());
}

void JsonFields::read(std::string_view name, float& target) {
  const json::value* value = find(name);
  if (value == nullptr) return;
  boost::system::error_code error;
  const auto number = value->to_number<double>(error);
  // Beyond a float's range a conversion would be undefined.
  if (error || !(std::fabs(number) <= std::numeric_limits<float>::max())) return wrong(name, "a number");
  target = static_cast<float>(number);
}

void JsonFields::read(std::string_view name, std::int32_t& target) {
  const json::value* value = find(name);
  if (value == nullptr) return;
  boost::system::error_code error;
  const auto number = value->to_number<std::int32_t>(error);
  if (error) return wrong(name, "a whole number");
  target = number;
}

void JsonFields::read(std::string_view name, std::uint64_t& target) {
  const json::value* value = find(name);
  if (value == nullptr) return;
  if (value->is_int64()) {
    target = static_cast<std::uint64_t>(value->get_int64());
  } else if (value->is_uint64()) {
    target = value->get_uint64();
  } else {
    wrong(name, "a whole number");
  }
}

}  // namespace spillway::net
