// SPDX-License-Identifier: Apache-2.0
#pragma once

// SseParser: server-sent events out of a byte stream that is cut anywhere (WHATWG HTML, 9.2.6). Bounded: an
// event longer than kSseEventBytesMax is an error.

#include <cstddef>
#include <string>
#include <string_view>

#include "runtime/result.hpp"

namespace spillway::net::load {

inline constexpr std::size_t kSseEventBytesMax = std::size_t{8} << 20;

class SseParser {
 public:
  /// Takes the next bytes; `on_data(std::string_view data)` is called for each event that has ended, in
  /// order, and returns Result<void>, whose error stops the parsing. Comments, other fields and events
  /// without data are skipped.
  template <class OnData>
  [[nodiscard]] Result<void> feed(std::string_view bytes, OnData&& on_data) {
    while (!bytes.empty()) {
      const bool is_crlf = after_carriage_return_ && bytes.front() == '\n';
      after_carriage_return_ = false;
      if (is_crlf) {
        bytes.remove_prefix(1);
        continue;
      }
      const std::size_t end = bytes.find_first_of("\r\n");
      if (end == std::string_view::npos) {
        line_ += bytes;
        if (line_.size() + data_.size() > kSseEventBytesMax) return too_long();
        return {};
      }
      line_ += bytes.substr(0, end);
      after_carriage_return_ = bytes[end] == '\r';
      bytes.remove_prefix(end + 1);
      if (line_.size() + data_.size() > kSseEventBytesMax) return too_long();
      if (take_line()) {
        const Result<void> handled = on_data(std::string_view(data_));
        data_.clear();
        if (!handled) return handled;
      }
      line_.clear();
    }
    return {};
  }

  /// Bytes of an event that never ended.
  [[nodiscard]] bool is_inside_event() const noexcept { return !line_.empty() || has_data_; }

 private:
  /// Files the line; true when it ended an event whose data is in data_.
  bool take_line();
  [[nodiscard]] static Error too_long();

  std::string line_, data_;
  bool has_data_ = false, after_carriage_return_ = false;
};

}  // namespace spillway::net::load
