// SPDX-License-Identifier: Apache-2.0
#pragma once

// What a WebSocket of this server allows its peer, and how a Beast stream is told: apart from the session, so
// that a fuzzer without coroutines drives the same settings.

#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/websocket/option.hpp>
#include <boost/beast/websocket/stream_base.hpp>
#include <chrono>
#include <cstddef>

namespace spillway::net {

struct WebSocketLimits {
  std::size_t message_bytes_max = std::size_t{4} << 20;
  std::chrono::seconds idle_timeout{60};  // pinged at half of it, closed at the end
  bool deflate = true;
  std::size_t deflate_bytes_min = 128;  // shorter messages are sent as they are
};

template <class Socket>
void apply_limits(Socket& socket, const WebSocketLimits& limits) {
  namespace websocket = boost::beast::websocket;
  websocket::stream_base::timeout timeout{};
  timeout.handshake_timeout = std::chrono::seconds(10);
  timeout.idle_timeout = limits.idle_timeout;
  timeout.keep_alive_pings = true;
  socket.set_option(timeout);
  websocket::permessage_deflate deflate;
  deflate.server_enable = limits.deflate;
  // 9 bits' windows break zlib's raw deflate; small ones save memory on thousands of connections.
  deflate.server_max_window_bits = 12;
  deflate.memLevel = 5;
  deflate.compLevel = 3;
  deflate.msg_size_threshold = limits.deflate_bytes_min;
  socket.set_option(deflate);
  socket.read_message_max(limits.message_bytes_max);
  socket.auto_fragment(false);
}

/// What messages are read into. Bounded itself: for a deflated frame Beast asks it for as much room as the frame's
/// header announces, up to 2^63 bytes, and compares only what comes out with read_message_max, closing with 1009. Frames
/// that announce more than this end the connection without a word.
inline boost::beast::flat_buffer message_buffer(const WebSocketLimits& limits) {
  return boost::beast::flat_buffer(4 * limits.message_bytes_max + (std::size_t{64} << 10));
}

}  // namespace spillway::net
