// SPDX-License-Identifier: Apache-2.0
#pragma once

// Access: who may ask. API keys are compared as digests in constant time; pages of other origins are kept from
// WebSockets, which browsers would let them open.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace spillway::net {

class Access {
 public:
  Access(const std::vector<std::string>& api_keys, std::vector<std::string> allowed_origins);

  /// Number of the key, from 1; 0 when no keys are set. Empty: refused. `authorization` is the header's value.
  [[nodiscard]] std::optional<std::uint32_t> principal(std::string_view authorization) const;
  /// As a browser must send it, which cannot set headers: "openai-insecure-api-key.KEY" among the subprotocols.
  [[nodiscard]] std::optional<std::uint32_t> principal_of_protocols(std::string_view protocols) const;

  /// Whether a page of this origin may open a WebSocket to `host`. No origin: not a browser.
  [[nodiscard]] bool may_upgrade(std::string_view origin, std::string_view host) const;
  /// Whether answers may carry Access-Control-Allow-Origin for it.
  [[nodiscard]] bool allows_cors(std::string_view origin) const;

 private:
  using Digest = std::array<unsigned char, 32>;
  [[nodiscard]] static Digest digest(std::string_view text);
  [[nodiscard]] std::optional<std::uint32_t> find(std::string_view key) const;
  std::vector<Digest> keys_;
  std::vector<std::string> allowed_origins_;
};

}  // namespace spillway::net
