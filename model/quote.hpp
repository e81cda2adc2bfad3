// SPDX-License-Identifier: Apache-2.0
#pragma once

// Untrusted values inside messages and tables: always one line, always short.
// ("quote", not "quoted": that would find std::quoted for every std::string.)

#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <string_view>

namespace spillway::model {

/// Control and non-ASCII bytes as \xNN, cut after `bytes_max` with "...".
[[nodiscard]] inline std::string printable(std::string_view text, std::size_t bytes_max = 100) {
  std::string out;
  for (const char c : text.substr(0, bytes_max)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      out += c;
    } else {
      char hex[8];
      std::snprintf(hex, sizeof hex, "\\x%02x", byte);
      out += hex;
    }
  }
  if (text.size() > bytes_max) out += "...";
  return out;
}

/// The same in single quotes.
[[nodiscard]] inline std::string quote(std::string_view text, std::size_t bytes_max = 100) {
  std::string out = "'";
  out += printable(text, bytes_max);
  out += '\'';
  return out;
}

/// "[49152, 576]"
[[nodiscard]] inline std::string shape_text(std::span<const std::uint64_t> shape) {
  std::string out = "[";
  for (const std::uint64_t size : shape) {
    if (out.size() > 1) out += ", ";
    out += std::to_string(size);
  }
  out += ']';
  return out;
}

}  // namespace spillway::model
