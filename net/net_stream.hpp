// SPDX-License-Identifier: Apache-2.0
#pragma once

// NetStream: a TCP connection, with TLS or without, as one type: what reads and writes it is compiled once.

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/beast/core/role.hpp>
#include <memory>

namespace spillway::net {

namespace asio = boost::asio;

class NetStream {
 public:
  using executor_type = asio::ip::tcp::socket::executor_type;
  using Tls = asio::ssl::stream<asio::ip::tcp::socket>;

  explicit NetStream(asio::ip::tcp::socket socket) : socket_(std::move(socket)) {}
  NetStream(asio::ip::tcp::socket socket, asio::ssl::context& context)
      : socket_(socket.get_executor()), tls_(std::make_unique<Tls>(std::move(socket), context)) {}
  NetStream(NetStream&&) = default;
  NetStream& operator=(NetStream&&) = default;

  [[nodiscard]] executor_type get_executor() { return socket().get_executor(); }
  [[nodiscard]] asio::ip::tcp::socket& socket() { return tls_ ? tls_->next_layer() : socket_; }
  [[nodiscard]] Tls* tls() noexcept { return tls_.get(); }

  /// Both directions at once; everything outstanding ends with an error.
  void close() {
    boost::system::error_code ignored;
    socket().close(ignored);
  }

  template <class Buffers, class Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    return asio::async_initiate<Token, void(boost::system::error_code, std::size_t)>(
        [this, buffers](auto handler) {
          if (tls_) {
            tls_->async_read_some(buffers, std::move(handler));
          } else {
            socket_.async_read_some(buffers, std::move(handler));
          }
        },
        token);
  }
  template <class Buffers, class Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    return asio::async_initiate<Token, void(boost::system::error_code, std::size_t)>(
        [this, buffers](auto handler) {
          if (tls_) {
            tls_->async_write_some(buffers, std::move(handler));
          } else {
            socket_.async_write_some(buffers, std::move(handler));
          }
        },
        token);
  }

 private:
  asio::ip::tcp::socket socket_;
  std::unique_ptr<Tls> tls_;
};

// What Beast's WebSocket asks of a stream. The closing handshake is done by then, or the peer broke the protocol; the
// other direction stays open, so that the close frame on its way is not overtaken by a reset (WebSocketSession::linger).
inline void beast_close_socket(NetStream& stream) { stream.close(); }
inline void teardown(boost::beast::role_type, NetStream& stream, boost::system::error_code& error) {
  stream.socket().shutdown(asio::ip::tcp::socket::shutdown_send, error);
}
template <class Handler>
void async_teardown(boost::beast::role_type role, NetStream& stream, Handler&& handler) {
  boost::system::error_code error;
  teardown(role, stream, error);
  asio::post(stream.get_executor(), [handler = std::forward<Handler>(handler), error]() mutable { handler(error); });
}

}  // namespace spillway::net
