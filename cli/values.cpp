// SPDX-License-Identifier: Apache-2.0
#include "cli/values.hpp"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>

namespace spillway::cli {
namespace {

Error wrong(std::string_view text, std::string_view right) {
  return {Errc::kInvalidArgument, "'" + std::string(text) + "' is not " + std::string(right)};
}

struct Unit {
  std::string_view suffix;
  double bytes;
};
constexpr double kKi = 1024;
constexpr Unit kUnits[] = {
    {"", 1},
    {"b", 1},
    {"k", kKi},
    {"m", kKi* kKi},
    {"g", kKi* kKi* kKi},
    {"t", kKi* kKi* kKi* kKi},
    {"ki", kKi},
    {"mi", kKi* kKi},
    {"gi", kKi* kKi* kKi},
    {"ti", kKi* kKi* kKi* kKi},
    {"kib", kKi},
    {"mib", kKi* kKi},
    {"gib", kKi* kKi* kKi},
    {"tib", kKi* kKi* kKi* kKi},
    {"kb", 1e3},
    {"mb", 1e6},
    {"gb", 1e9},
    {"tb", 1e12},
};

}  // namespace

Result<std::uint64_t> parse_bytes(std::string_view text) {
  constexpr std::string_view kRight = "a size such as 268435456, 256MiB or 1.5G";
  double number = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (error != std::errc() || !(number >= 0)) return wrong(text, kRight);
  std::string suffix;
  for (const char* c = end; c != text.data() + text.size(); ++c) {
    if (*c == ' ' && suffix.empty()) continue;
    suffix += *c >= 'A' && *c <= 'Z' ? static_cast<char>(*c - 'A' + 'a') : *c;
  }
  for (const Unit& unit : kUnits) {
    if (unit.suffix != suffix) continue;
    const double bytes = std::floor(number * unit.bytes);
    if (bytes >= 0x1p63) return wrong(text, "a size below 8 EiB");
    return static_cast<std::uint64_t>(bytes);
  }
  return wrong(text, kRight);
}

Result<std::int64_t> parse_integer(std::string_view text, std::int64_t min, std::int64_t max) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc() && end == text.data() + text.size() && number >= min && number <= max)
    return number;
  if (max == std::numeric_limits<std::int32_t>::max()) {
    return wrong(text, "a whole number, " + std::to_string(min) + " or more");
  }
  return wrong(text, "a whole number from " + std::to_string(min) + " to " + std::to_string(max));
}

Result<std::uint64_t> parse_unsigned(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc() && end == text.data() + text.size()) return number;
  return wrong(text, "a whole number from 0 to 18446744073709551615");
}

Result<float> parse_real(std::string_view text) {
  float number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc() && end == text.data() + text.size() && std::isfinite(number)) return number;
  return wrong(text, "a finite number");
}

Result<double> parse_decimal(std::string_view text, double min, double max) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc() && end == text.data() + text.size() && number >= min && number <= max) return number;
  char range[96];
  std::snprintf(range, sizeof range, "a number from %g to %g", min, max);
  return wrong(text, range);
}

std::string bytes_text(std::uint64_t bytes) {
  constexpr const char* kNames[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kNames)) {
    value /= 1024;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof text, value == std::floor(value) || value >= 100 ? "%.0f %s" : "%.1f %s", value,
                kNames[unit]);
  return text;
}

}  // namespace spillway::cli
