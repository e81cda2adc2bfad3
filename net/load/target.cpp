// SPDX-License-Identifier: Apache-2.0
#include "net/load/target.hpp"

#include <algorithm>

namespace spillway::net::load {

std::string Target::authority() const {
  const bool is_v6 = host.find(':') != std::string::npos;
  return (is_v6 ? "[" + host + "]" : host) + ":" + port;
}

Result<Target> parse_base_url(std::string_view url) {
  const auto wrong = [&](std::string_view what) {
    return Error{Errc::kInvalidArgument, "'" + std::string(url) + "' " + std::string(what)};
  };
  Target target;
  const std::size_t scheme_end = url.find("://");
  if (scheme_end == std::string_view::npos) return wrong("is no URL such as http://127.0.0.1:8000");
  const std::string_view scheme = url.substr(0, scheme_end);
  if (scheme == "https" || scheme == "wss") {
    target.tls = true;
  } else if (scheme != "http" && scheme != "ws") {
    return wrong("has a scheme other than http, https, ws and wss");
  }
  std::string_view rest = url.substr(scheme_end + 3);
  const std::size_t slash = std::min(rest.find('/'), rest.size());
  std::string_view authority = rest.substr(0, slash);
  target.prefix = rest.substr(slash);
  while (target.prefix.ends_with('/')) target.prefix.pop_back();
  if (target.prefix.find_first_of("?# \r\n") != std::string::npos)
    return wrong("has a query, a fragment or a space");
  if (authority.find('@') != std::string_view::npos) return wrong("names a user; use --header or --api-key");
  std::string_view port;
  if (authority.starts_with('[')) {
    const std::size_t close = authority.find(']');
    if (close == std::string_view::npos) return wrong("lacks a ]");
    target.host = authority.substr(1, close - 1);
    port = authority.substr(close + 1);
  } else {
    const std::size_t colon = std::min(authority.find(':'), authority.size());
    target.host = authority.substr(0, colon);
    port = authority.substr(colon);
  }
  if (!port.empty() && port.front() != ':') return wrong("has something other than a port behind its host");
  if (!port.empty()) port.remove_prefix(1);
  if (target.host.empty()) return wrong("names no host");
  if (!std::all_of(port.begin(), port.end(), [](char c) { return c >= '0' && c <= '9'; }) || port.size() > 5)
    return wrong("has a port that is no number");
  target.port = port.empty() ? (target.tls ? "443" : "80") : std::string(port);
  return target;
}

}  // namespace spillway::net::load
