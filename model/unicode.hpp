// SPDX-License-Identifier: Apache-2.0
#pragma once

// UTF-8, byte by byte: what is a character, what is broken, and how broken text is repaired.
// "Broken" and the repair follow Unicode 15, section 3.9, table 3-7 and "substitution of maximal subparts",
// which Python's errors='replace' and Rust's from_utf8_lossy follow too.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace spillway::model {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

struct Utf8Step {
  char32_t code = 0;      // the character, or U+FFFD if the bytes are broken
  std::uint8_t size = 0;  // bytes to step over: of the character, or of the maximal broken sequence; 1 to 4
  bool valid = false;
  bool truncated = false;  // broken only because the text ends here: more bytes could complete it
};

/// The character that starts at text[at]; at < text.size().
[[nodiscard]] Utf8Step utf8_step(std::string_view text, std::size_t at) noexcept;

[[nodiscard]] bool is_valid_utf8(std::string_view text) noexcept;

/// Appends `text` with each maximal broken sequence as one U+FFFD.
void append_repaired_utf8(std::string_view text, std::string& out);

void append_utf8(char32_t code, std::string& out);

/// Unicode's White_Space property.
[[nodiscard]] bool is_white_space(char32_t code) noexcept;

/// A letter, mark, decimal digit or connector such as '_': what \w means in Unicode regular expressions (UTS
/// 18).
[[nodiscard]] bool is_word_character(char32_t code) noexcept;

/// Simple case mapping, one character to one; bytes that are no UTF-8 stay as they are.
[[nodiscard]] std::string to_upper(std::string_view text);
[[nodiscard]] std::string to_lower(std::string_view text);
/// Whether `code` has another case or is one.
[[nodiscard]] bool is_cased(char32_t code) noexcept;

/// Characters of `text`; each byte that belongs to none counts too.
[[nodiscard]] std::size_t count_characters(std::string_view text) noexcept;

/// Unicode normalization form C of valid UTF-8.
[[nodiscard]] std::string normalize_nfc(std::string_view text);

}  // namespace spillway::model
