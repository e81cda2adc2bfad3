// SPDX-License-Identifier: Apache-2.0
#pragma once

// Operators on values, with Python's meanings. Errors go to the context.

#include <cstdint>
#include <string_view>

#include "model/jinja_context.hpp"

namespace spillway::model::jinja {

/// + - * / // % ** ~
[[nodiscard]] Value binary(Context& context, std::uint32_t offset, std::string_view op, const Value& a,
                           const Value& b);
/// == != < <= > >= in, not in
[[nodiscard]] bool compare(Context& context, std::uint32_t offset, std::string_view op, const Value& a,
                           const Value& b);
[[nodiscard]] Value negate(Context& context, std::uint32_t offset, const Value& value);
/// object[key]
[[nodiscard]] Value index(Context& context, std::uint32_t offset, const Value& object, const Value& key);
/// object[start:stop:step]; null for a part that was left out
[[nodiscard]] Value slice(Context& context, std::uint32_t offset, const Value& object, const Value* start,
                          const Value* stop, const Value* step);
/// object.name
[[nodiscard]] Value attribute(Context& context, std::uint32_t offset, const Value& object,
                              std::string_view name);

}  // namespace spillway::model::jinja
