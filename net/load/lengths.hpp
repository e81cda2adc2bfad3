// SPDX-License-Identifier: Apache-2.0
#pragma once

// Lengths of prompts and answers, drawn from quantile tables of published traces. A table is sampled at a
// uniform quantile and read linearly between its points: a fitted lognormal loses the tail. Prompt and answer
// are drawn independently; their correlation in the traces is about 0.

#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "net/load/workload.hpp"
#include "runtime/random.hpp"
#include "runtime/result.hpp"

namespace spillway::net::load {

struct QuantilePoint {
  double quantile;  // ascending from 0 to 1
  double tokens;
};

struct LengthTable {
  std::string_view name, source;
  std::span<const QuantilePoint> input, output;
  std::uint32_t total_max;  // prompt and answer together; the prompt gives way. 0: no limit
};

/// sharegpt, sharegpt-8k, azure-conv, azure-code.
[[nodiscard]] std::span<const LengthTable> length_tables();
/// Errors: kInvalidArgument, with the names there are.
[[nodiscard]] Result<LengthTable> length_table(std::string_view name);

/// The length at quantile u of [0, 1], rounded, at least 1.
[[nodiscard]] std::uint32_t length_at(std::span<const QuantilePoint> table, double u);

/// One length from each of `count` equal slices of each distribution, in random order: a few dozen requests
/// then have the table's mean and tail.
[[nodiscard]] std::vector<Lengths> draw_lengths(const LengthTable& table, std::size_t count,
                                                runtime::Random& random);

/// Uniform within `range_ratio` of the means: from floor(mean * (1 - ratio)) to ceil(mean * (1 + ratio)).
/// `range_ratio` is in [0, 1).
[[nodiscard]] std::vector<Lengths> uniform_lengths(Lengths mean, double range_ratio, std::size_t count,
                                                   runtime::Random& random);

}  // namespace spillway::net::load
