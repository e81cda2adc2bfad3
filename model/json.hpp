// SPDX-License-Identifier: Apache-2.0
#pragma once

// Untrusted JSON files: bounded in size and depth, with field access whose errors name file and field path.
// Heavy to compile (Boost.JSON): include it from .cpp files only.

#include <boost/json/value.hpp>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "runtime/result.hpp"

namespace spillway::model {

/// Nesting that no real config or tokenizer comes near.
inline constexpr std::size_t kJsonDepthMax = 64;
/// config.json, generation_config.json, tokenizer_config.json.
inline constexpr std::size_t kConfigBytesMax = std::size_t{4} << 20;
/// tokenizer.json; the largest in use (Gemma's) has 33 MB.
inline constexpr std::size_t kTokenizerJsonBytesMax = std::size_t{40} << 20;

/// Errors: kNotFound, kIo, kBadFile (longer than bytes_max, not JSON: with the byte offset).
[[nodiscard]] Result<boost::json::value> parse_json_file(const std::filesystem::path& path, std::size_t bytes_max);
/// `name` stands for the file in messages.
[[nodiscard]] Result<boost::json::value> parse_json(std::string_view text, std::string_view name);
/// A whole small file as a string; kBadFile when it is longer than bytes_max.
[[nodiscard]] Result<std::string> read_text_file(const std::filesystem::path& path, std::size_t bytes_max);

/// A value and the place where it lies. Borrows the document and the file's name; cheap enough for configs, not
/// meant for walking a vocabulary of 100k entries (take `value()` there).
class JsonField {
 public:
  JsonField(const boost::json::value& root, std::string_view file) : value_(&root), file_(file) {}

  /// The member; a missing one (or a member of something that is no object) gives a field that is not present().
  [[nodiscard]] JsonField operator[](std::string_view key) const;
  [[nodiscard]] JsonField operator[](std::size_t index) const;

  /// False for a missing member and for null, which configs use alike.
  [[nodiscard]] bool present() const noexcept { return value_ != nullptr && !value_->is_null(); }
  [[nodiscard]] bool is_object() const noexcept { return value_ != nullptr && value_->is_object(); }
  [[nodiscard]] bool is_array() const noexcept { return value_ != nullptr && value_->is_array(); }
  [[nodiscard]] bool is_string() const noexcept { return value_ != nullptr && value_->is_string(); }
  [[nodiscard]] bool is_bool() const noexcept { return value_ != nullptr && value_->is_bool(); }
  [[nodiscard]] bool is_number() const noexcept { return value_ != nullptr && value_->is_number(); }
  [[nodiscard]] std::size_t size() const noexcept;  // of an array, else 0
  [[nodiscard]] const boost::json::value* value() const noexcept { return value_; }
  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] std::string_view file() const noexcept { return file_; }

  // The value, checked. An absent field is an error; with a default only a wrong type or range is.
  [[nodiscard]] Result<std::int64_t> integer(std::int64_t min, std::int64_t max) const;
  [[nodiscard]] Result<double> number(double min, double max) const;
  [[nodiscard]] Result<bool> boolean() const;
  [[nodiscard]] Result<std::string_view> string() const;
  [[nodiscard]] Result<std::int64_t> integer_or(std::int64_t fallback, std::int64_t min, std::int64_t max) const;
  [[nodiscard]] Result<double> number_or(double fallback, double min, double max) const;
  [[nodiscard]] Result<bool> boolean_or(bool fallback) const;
  [[nodiscard]] Result<std::string_view> string_or(std::string_view fallback) const;

  /// "FILE: field 'a.b[2]' <what>".
  [[nodiscard]] Error error(std::string_view what, Errc code = Errc::kBadFile) const;

 private:
  JsonField(const boost::json::value* value, std::string_view file, std::string path)
      : value_(value), file_(file), path_(std::move(path)) {}

  const boost::json::value* value_;
  std::string_view file_;
  std::string path_;
};

}  // namespace spillway::model
