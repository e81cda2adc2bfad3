// SPDX-License-Identifier: Apache-2.0
#pragma once

// Values as people type them. Errors say what was given and what would be right; the caller adds where.

#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/result.hpp"

namespace spillway::cli {

/// "4096", "256MiB", "1.5G", "64 KB": K, M, G, T with or without "iB" are powers of 1024, "KB" and the like
/// of 1000.
[[nodiscard]] Result<std::uint64_t> parse_bytes(std::string_view text);

/// A whole number from `min` to `max`.
[[nodiscard]] Result<std::int64_t> parse_integer(std::string_view text, std::int64_t min, std::int64_t max);
[[nodiscard]] Result<std::uint64_t> parse_unsigned(std::string_view text);

/// A finite number.
[[nodiscard]] Result<float> parse_real(std::string_view text);
/// A number from min to max; "inf" where max is infinite.
[[nodiscard]] Result<double> parse_decimal(std::string_view text, double min, double max);

/// "256 MiB", "1.5 GiB"
[[nodiscard]] std::string bytes_text(std::uint64_t bytes);

}  // namespace spillway::cli
