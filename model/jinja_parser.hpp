// SPDX-License-Identifier: Apache-2.0
#pragma once

// Tokens to tree, by recursive descent along Jinja2's grammar.

#include <string_view>
#include <vector>

#include "model/jinja_ast.hpp"
#include "model/jinja_lexer.hpp"
#include "runtime/result.hpp"

namespace spillway::model::jinja {

/// kInvalidArgument: not a template; kUnsupported: a construct this interpreter leaves out, by name.
[[nodiscard]] Result<Body> parse(std::vector<Token> tokens, std::string_view source, std::string_view name);

}  // namespace spillway::model::jinja
