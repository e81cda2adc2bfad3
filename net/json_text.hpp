// SPDX-License-Identifier: Apache-2.0
#pragma once

// JSON text, appended to a string: an answer's token costs one append, not a tree.

#include <cstdint>
#include <string>
#include <string_view>

namespace spillway::net {

/// `text` as a JSON string. Bytes that are no UTF-8 become U+FFFD, so that the whole is always valid.
void append_quoted(std::string& out, std::string_view text);
/// null when empty.
void append_quoted_or_null(std::string& out, std::string_view text);
/// The shortest text that reads back as the same float; infinities as +-9999, JSON has none.
void append_number(std::string& out, float value);
void append_number(std::string& out, std::int64_t value);
/// [104,105]: the raw bytes of a token.
void append_bytes(std::string& out, std::string_view bytes);

[[nodiscard]] std::string json_string(std::string_view text);

}  // namespace spillway::net
