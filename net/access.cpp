// SPDX-License-Identifier: Apache-2.0
#include "net/access.hpp"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>

namespace spillway::net {
namespace {

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

/// Names that no foreign page can make point here: addresses, and localhost.
bool is_plain_host(std::string_view host) {
  if (host.starts_with('[')) return true;
  host = host.substr(0, host.find(':'));
  if (host == "localhost") return true;
  return !host.empty() && std::ranges::all_of(host, [](char c) { return (c >= '0' && c <= '9') || c == '.'; });
}

}  // namespace

Access::Access(const std::vector<std::string>& api_keys, std::vector<std::string> allowed_origins)
    : allowed_origins_(std::move(allowed_origins)) {
  for (const std::string& key : api_keys) keys_.push_back(digest(key));
}

Access::Digest Access::digest(std::string_view text) {
  Digest digest;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  return digest;
}

std::optional<std::uint32_t> Access::find(std::string_view key) const {
  const Digest given = digest(key);
  std::uint32_t found = 0;
  // Every key is compared, whichever fits.
  for (std::size_t i = 0; i < keys_.size(); ++i) {
    if (CRYPTO_memcmp(given.data(), keys_[i].data(), given.size()) == 0) found = static_cast<std::uint32_t>(i + 1);
  }
  if (found == 0) return std::nullopt;
  return found;
}

std::optional<std::uint32_t> Access::principal(std::string_view authorization) const {
  if (keys_.empty()) return 0;
  constexpr std::string_view kBearer = "bearer ";
  if (authorization.size() < kBearer.size()) return std::nullopt;
  const bool bearer = std::ranges::equal(authorization.substr(0, kBearer.size()), kBearer, [](char a, char b) {
    return (a >= 'A' && a <= 'Z' ? static_cast<char>(a + 32) : a) == b;
  });
  if (!bearer) return std::nullopt;
  return find(trimmed(authorization.substr(kBearer.size())));
}

std::optional<std::uint32_t> Access::principal_of_protocols(std::string_view protocols) const {
  if (keys_.empty()) return 0;
  constexpr std::string_view kPrefix = "openai-insecure-api-key.";
  while (!protocols.empty()) {
    const std::size_t comma = std::min(protocols.find(','), protocols.size());
    const std::string_view one = trimmed(protocols.substr(0, comma));
    if (one.starts_with(kPrefix)) return find(one.substr(kPrefix.size()));
    protocols.remove_prefix(std::min(comma + 1, protocols.size()));
  }
  return std::nullopt;
}

bool Access::allows_cors(std::string_view origin) const {
  return !origin.empty() && std::ranges::any_of(allowed_origins_, [&](const std::string& allowed) {
    return allowed == "*" || allowed == origin;
  });
}

bool Access::may_upgrade(std::string_view origin, std::string_view host) const {
  if (origin.empty() || allows_cors(origin)) return true;
  const std::size_t scheme = origin.find("://");
  if (scheme == std::string_view::npos) return false;
  return origin.substr(scheme + 3) == host && is_plain_host(host);
}

}  // namespace spillway::net
