// SPDX-License-Identifier: Apache-2.0
#pragma once

// Everything a server can be told. The defaults are safe on a machine with other users: loopback only, everything
// bounded.

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace spillway::net {

struct ServerOptions {
  std::string host = "127.0.0.1";
  std::uint16_t port = 8000;  // 0: any free one
  std::string version;
  std::vector<std::string> served_model_names;  // the first is what answers say

  std::vector<std::string> api_keys;  // empty: no key needed
  bool salt_prefix_cache_per_key = false;
  std::filesystem::path ssl_certfile, ssl_keyfile;
  std::vector<std::string> allowed_origins;  // CORS and WebSocket upgrades from other pages; "*": any

  std::uint32_t max_num_queued_reqs = 1024;  // choices waiting beyond those that run; more get 429
  std::size_t body_bytes_max = std::size_t{4} << 20;
  std::uint32_t header_bytes_max = 16 << 10;
  std::size_t frame_bytes_max = std::size_t{4} << 20;  // of a whole WebSocket message
  std::size_t prompt_bytes_max = std::size_t{1} << 20;
  std::uint32_t connections_max = 16384;
  std::uint32_t streams_per_connection_max = 16;  // responses in flight on one WebSocket; more wait
  std::uint32_t lanes_per_connection_max = 32;
  std::uint32_t credits = 256;  // deltas a stream may be ahead of its reader
  std::uint32_t conversations_max = 4096;
  std::size_t conversation_bytes_max = std::size_t{64} << 20;

  std::chrono::seconds header_timeout{10};      // from a request's first byte to the end of its header
  std::chrono::seconds body_timeout{60};        // and on to the end of its body
  std::chrono::seconds keep_alive_timeout{75};  // between requests
  std::chrono::seconds write_timeout{60};       // a client that takes or acknowledges nothing for so long is cut
  std::chrono::seconds websocket_idle_timeout{60};
  std::chrono::minutes websocket_lifetime{60};

  std::function<std::int64_t()> unix_time_s;  // the wall clock; only programs read one
};

}  // namespace spillway::net
