// SPDX-License-Identifier: Apache-2.0
#pragma once

// WebSocketSession: one WebSocket connection on the server's side: handshake, whole messages, pings, closing,
// permessage-deflate. One coroutine reads and another one writes; both on the I/O thread.

#include <boost/asio/awaitable.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/string_body.hpp>
#include <memory>
#include <optional>
#include <string>

#include "net/net_stream.hpp"
#include "net/websocket_limits.hpp"

namespace spillway::net {

enum class CloseCode : std::uint16_t {
  kNormal = 1000,
  kGoingAway = 1001,
  kPolicy = 1008,
  kTryAgainLater = 1013,
};

class WebSocketSession {
 public:
  using Upgrade = boost::beast::http::request<boost::beast::http::string_body>;
  struct Message {
    std::string data;
    bool binary = false;
  };

  WebSocketSession(NetStream stream, const WebSocketLimits& limits);
  ~WebSocketSession();

  /// Reads the client's handshake and answers it. False: it was none.
  [[nodiscard]] asio::awaitable<bool> accept();
  /// Answers a handshake that was read already. `protocol`: the subprotocol to agree to, if any.
  [[nodiscard]] asio::awaitable<bool> accept(Upgrade upgrade, std::string protocol);

  /// The next whole message. Empty once the connection has ended, whoever ended it; a close frame is answered.
  [[nodiscard]] asio::awaitable<std::optional<Message>> read();
  /// False when the connection has ended. One write at a time.
  [[nodiscard]] asio::awaitable<bool> write(std::string_view data, bool binary = false);
  /// Sends a close frame and waits for the answer. Not beside a write.
  [[nodiscard]] asio::awaitable<void> close(CloseCode code, std::string_view reason);
  /// After the last read: lets a peer who still sends hear why the connection ends. Some seconds at most.
  [[nodiscard]] asio::awaitable<void> linger();
  /// At once, without a word: for peers that do not read.
  void cut();
  [[nodiscard]] asio::any_io_executor executor();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace spillway::net
