// SPDX-License-Identifier: Apache-2.0
#pragma once

// Expressions of the template language, by recursive descent along Jinja2's grammar.

#include "model/jinja_ast.hpp"
#include "model/jinja_cursor.hpp"

namespace spillway::model::jinja {

// All leave the cursor behind what they have read, return a tree without null pointers (but where ExprKind
// allows one) and report errors to the cursor.

/// a, b, c without brackets is a tuple; a alone is itself.
[[nodiscard]] ExprPtr parse_tuple(TokenCursor& cursor);
/// a if b else c
[[nodiscard]] ExprPtr parse_expression(TokenCursor& cursor);
/// a or b: what may stand before the `if` of a for statement.
[[nodiscard]] ExprPtr parse_or(TokenCursor& cursor);

}  // namespace spillway::model::jinja
