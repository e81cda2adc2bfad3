// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace spillway::cli {

/// The known word that a typing error most likely meant: fewest insertions, deletions, substitutions and
/// swaps of neighbours, or the only one that `word` begins. Empty when none is near (a third of its length).
[[nodiscard]] std::string closest_word(std::string_view word, const std::vector<std::string>& known);

}  // namespace spillway::cli
