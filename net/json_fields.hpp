// SPDX-License-Identifier: Apache-2.0
#pragma once

// JsonFields: a client's JSON object, read field by field. null counts as absent, fields nobody asks for are left
// alone; the first wrong one is kept as an error that names it. Heavy to compile (Boost.JSON): .cpp files only.

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "net/api_error.hpp"

namespace spillway::net {

/// Depth and syntax are checked; the size is bounded by who read the bytes.
[[nodiscard]] std::optional<ApiError> parse_object(std::string_view text, boost::json::object& object);

class JsonFields {
 public:
  explicit JsonFields(const boost::json::object& object, std::string path = {})
      : object_(object), path_(std::move(path)) {}

  /// Null when absent or null.
  [[nodiscard]] const boost::json::value* find(std::string_view name) const;

  // Each leaves its target alone when the field is absent.
  void read(std::string_view name, bool& target);
  void read(std::string_view name, std::string& target);
  void read(std::string_view name, float& target);
  void read(std::string_view name, std::int32_t& target);
  void read(std::string_view name, std::uint64_t& target);  // a negative number is taken modulo 2^64: seeds

  void fail(ApiError error) {
    if (!error_) error_ = std::move(error);
  }
  void wrong(std::string_view name, std::string_view wanted);
  [[nodiscard]] std::string path(std::string_view name) const { return path_ + std::string(name); }
  [[nodiscard]] bool ok() const noexcept { return !error_; }
  [[nodiscard]] const std::optional<ApiError>& error() const noexcept { return error_; }

 private:
  const boost::json::object& object_;
  std::string path_;
  std::optional<ApiError> error_;
};

}  // namespace spillway::net
