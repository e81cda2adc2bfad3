// SPDX-License-Identifier: Apache-2.0
#pragma once

// What a load run sends: requests with their times. Values only; made by the datasets, read by the run.

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "model/spec.hpp"

namespace spillway::net::load {

/// Text, or token ids (which only the completions API takes).
using Prompt = std::variant<std::string, std::vector<model::TokenId>>;

struct LoadRequest {
  std::int64_t at_ns = 0;  // when it is due, from the start of the run
  Prompt prompt;
  std::uint32_t prompt_tokens = 0;  // as the dataset means it; what a server reports wins
  std::uint32_t output_tokens = 0;  // most tokens of the answer, at least 1
};

/// Prompt and answer length of one request, tokens, both at least 1.
struct Lengths {
  std::uint32_t input = 1, output = 1;

  friend bool operator==(const Lengths&, const Lengths&) = default;
};

}  // namespace spillway::net::load
