// SPDX-License-Identifier: Apache-2.0
#pragma once

// Filters (value | name(...)), tests (value is name(...)), methods (value.name(...)) and functions of the
// template language. Those that real chat templates use; an unknown name is an error that says so.

#include <cstdint>
#include <string_view>

#include "model/jinja_context.hpp"

namespace spillway::model::jinja {

[[nodiscard]] Value apply_filter(Context& context, std::uint32_t offset, std::string_view name,
                                 const Value& input, const Arguments& arguments);
[[nodiscard]] bool apply_test(Context& context, std::uint32_t offset, std::string_view name,
                              const Value& input, const Arguments& arguments);
[[nodiscard]] Value call_method(Context& context, std::uint32_t offset, const Value& object,
                                std::string_view name, const Arguments& arguments);
[[nodiscard]] Value call_function(Context& context, std::uint32_t offset, Function function,
                                  const Arguments& arguments);

// Strings, shared by filters and methods.

/// Python's str.strip: white space, or the characters of `characters`.
[[nodiscard]] std::string_view strip(std::string_view text, const std::string* characters, bool left,
                                     bool right);
[[nodiscard]] std::string replace_all(Context& context, std::uint32_t offset, std::string_view text,
                                      std::string_view from, std::string_view to, std::int64_t count);
[[nodiscard]] std::string capitalize(std::string_view text);
/// Upper case where a word begins, lower case elsewhere. `by_space`: only after white space and -({[<.
[[nodiscard]] std::string title(std::string_view text, bool by_space);

}  // namespace spillway::model::jinja
