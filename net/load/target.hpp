// SPDX-License-Identifier: Apache-2.0
#pragma once

// Where a load run sends its requests.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/result.hpp"

namespace spillway::net::load {

struct Target {
  bool tls = false;
  bool verify_peer = true;  // of TLS: check the certificate against the system's authorities
  std::string host, port;   // host without brackets
  std::string prefix;       // path of the base URL, without a last slash
  std::string endpoint;     // path of the requests, after the prefix
  std::vector<std::pair<std::string, std::string>> headers;  // more of them, Authorization among them

  /// host:port as the Host header has it.
  [[nodiscard]] std::string authority() const;
};

/// From "http://host:port/prefix", or https, ws, wss. Errors: kInvalidArgument.
[[nodiscard]] Result<Target> parse_base_url(std::string_view url);

}  // namespace spillway::net::load
