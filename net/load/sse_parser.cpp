// SPDX-License-Identifier: Apache-2.0
#include "net/load/sse_parser.hpp"

namespace spillway::net::load {

bool SseParser::take_line() {
  if (line_.empty()) {
    const bool complete = has_data_;
    has_data_ = false;
    return complete;
  }
  constexpr std::string_view kData = "data";
  std::string_view line = line_;
  if (!line.starts_with(kData)) return false;
  line.remove_prefix(kData.size());
  if (!line.empty() && line.front() != ':') return false;  // another field, such as "database"
  if (!line.empty()) line.remove_prefix(1);
  if (!line.empty() && line.front() == ' ') line.remove_prefix(1);
  if (has_data_) data_ += '\n';
  data_ += line;
  has_data_ = true;
  return false;
}

Error SseParser::too_long() {
  return {Errc::kInvalidArgument, "an event of the stream is longer than 8 MiB"};
}

}  // namespace spillway::net::load
