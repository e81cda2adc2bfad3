// SPDX-License-Identifier: Apache-2.0
#pragma once

// Runs a parsed template.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/jinja_ast.hpp"
#include "model/jinja_context.hpp"

namespace spillway::model::jinja {

using Variables = std::vector<std::pair<std::string, Value>>;

/// The output of `body` with `variables` defined; errors are in the context.
[[nodiscard]] std::string evaluate(const Body& body, Context& context, const Variables& variables);

}  // namespace spillway::model::jinja
