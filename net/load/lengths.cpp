// SPDX-License-Identifier: Apache-2.0
#include "net/load/lengths.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

namespace spillway::net::load {
namespace {

// The outermost points (quantiles 0 and 1) are ours: the sources give P10 to P99.
constexpr QuantilePoint kShareGptInput[] = {{0, 4},     {.10, 11},  {.25, 20},  {.50, 96}, {.75, 397},
                                            {.90, 665}, {.95, 840}, {.99, 999}, {1, 1024}};
constexpr QuantilePoint kShareGptOutput[] = {{0, 8},     {.10, 84},  {.25, 228}, {.50, 415}, {.75, 628},
                                             {.90, 834}, {.95, 920}, {.99, 998}, {1, 1024}};
constexpr QuantilePoint kShareGpt8kInput[] = {{0, 4},      {.10, 74},   {.25, 580},  {.50, 1730}, {.75, 3734},
                                              {.90, 5696}, {.95, 6563}, {.99, 7434}, {1, 7600}};
constexpr QuantilePoint kAzureConvInput[] = {{0, 4},      {.10, 207},  {.25, 396},  {.50, 1020}, {.75, 1189},
                                             {.90, 2734}, {.95, 4083}, {.99, 4142}, {1, 4200}};
constexpr QuantilePoint kAzureConvOutput[] = {{0, 8},     {.10, 54},  {.25, 85},  {.50, 129}, {.75, 395},
                                              {.90, 424}, {.95, 451}, {.99, 601}, {1, 1000}};
constexpr QuantilePoint kAzureCodeInput[] = {{0, 4},      {.10, 147},  {.25, 578},  {.50, 1469}, {.75, 2744},
                                             {.90, 5188}, {.95, 7303}, {.99, 7436}, {1, 7437}};
constexpr QuantilePoint kAzureCodeOutput[] = {{0, 1},    {.10, 7},  {.25, 9},   {.50, 13}, {.75, 24},
                                              {.90, 55}, {.95, 90}, {.99, 251}, {1, 300}};

constexpr std::array kTables{
    LengthTable{"sharegpt", "ShareGPT: prompts as in FuseSpill, answers as in Sarathi-Serve", kShareGptInput,
                kShareGptOutput, 1512},
    LengthTable{"sharegpt-8k", "ShareGPT with whole conversations as prompts, as in Sarathi-Serve",
                kShareGpt8kInput, kShareGptOutput, 8192},
    LengthTable{"azure-conv", "Azure LLM inference trace 2023, conversation", kAzureConvInput,
                kAzureConvOutput, 0},
    LengthTable{"azure-code", "Azure LLM inference trace 2023, code", kAzureCodeInput, kAzureCodeOutput, 0}};

/// Fisher-Yates, so that a seed gives the same order with every standard library.
template <class T>
void shuffle(std::vector<T>& values, runtime::Random& random) {
  for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[random.below(i)]);
}

std::vector<std::uint32_t> stratified(std::span<const QuantilePoint> table, std::size_t count,
                                      runtime::Random& random) {
  std::vector<std::uint32_t> lengths;
  lengths.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    lengths.push_back(
        length_at(table, (static_cast<double>(i) + random.uniform()) / static_cast<double>(count)));
  }
  shuffle(lengths, random);
  return lengths;
}

}  // namespace

std::span<const LengthTable> length_tables() { return kTables; }

Result<LengthTable> length_table(std::string_view name) {
  std::string names;
  for (const LengthTable& table : kTables) {
    if (table.name == name) return table;
    names += (names.empty() ? "" : ", ") + std::string(table.name);
  }
  return Error{Errc::kInvalidArgument,
               "no length table is called '" + std::string(name) + "'; there are " + names};
}

std::uint32_t length_at(std::span<const QuantilePoint> table, double u) {
  SPW_CHECK(!table.empty());
  double tokens = table.back().tokens;
  for (std::size_t i = 0; i + 1 < table.size(); ++i) {
    const QuantilePoint low = table[i], high = table[i + 1];
    if (u > high.quantile) continue;
    const double share = (std::max(u, low.quantile) - low.quantile) / (high.quantile - low.quantile);
    tokens = low.tokens + (high.tokens - low.tokens) * share;
    break;
  }
  return static_cast<std::uint32_t>(std::max(1.0, std::round(tokens)));
}

std::vector<Lengths> draw_lengths(const LengthTable& table, std::size_t count, runtime::Random& random) {
  const std::vector<std::uint32_t> inputs = stratified(table.input, count, random);
  const std::vector<std::uint32_t> outputs = stratified(table.output, count, random);
  std::vector<Lengths> lengths(count);
  for (std::size_t i = 0; i < count; ++i) {
    lengths[i] = {inputs[i], outputs[i]};
    if (table.total_max != 0) {
      const std::uint32_t room = table.total_max > outputs[i] ? table.total_max - outputs[i] : 1;
      lengths[i].input = std::min(inputs[i], room);
    }
  }
  return lengths;
}

std::vector<Lengths> uniform_lengths(Lengths mean, double range_ratio, std::size_t count,
                                     runtime::Random& random) {
  constexpr double kRounding = 1e-6;  // 100 * 1.1 is a little more than 110
  const auto draw = [&](std::uint32_t middle) {
    const double low = std::max(1.0, std::floor(middle * (1 - range_ratio) + kRounding));
    const double high = std::max(low, std::ceil(middle * (1 + range_ratio) - kRounding));
    return static_cast<std::uint32_t>(low) +
           static_cast<std::uint32_t>(random.below(static_cast<std::uint64_t>(high - low) + 1));
  };
  std::vector<Lengths> lengths(count);
  for (Lengths& each : lengths) {
    each.input = draw(mean.input);
    each.output = draw(mean.output);
  }
  return lengths;
}

}  // namespace spillway::net::load
