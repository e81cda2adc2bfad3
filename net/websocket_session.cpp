// SPDX-License-Identifier: Apache-2.0
#include "net/websocket_session.hpp"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/websocket/stream.hpp>

namespace spillway::net {
namespace websocket = boost::beast::websocket;
namespace http = boost::beast::http;

struct WebSocketSession::State {
  State(NetStream stream, const WebSocketLimits& allowed)
      : limits(allowed), socket(std::move(stream)), buffer(message_buffer(allowed)) {}
  WebSocketLimits limits;
  websocket::stream<NetStream> socket;
  boost::beast::flat_buffer buffer;
  bool broken = false;  // the peer broke a rule, and may still be sending
};

WebSocketSession::WebSocketSession(NetStream stream, const WebSocketLimits& limits)
    : state_(std::make_unique<State>(std::move(stream), limits)) {
  apply_limits(state_->socket, limits);
}

WebSocketSession::~WebSocketSession() = default;

asio::any_io_executor WebSocketSession::executor() { return state_->socket.get_executor(); }

asio::awaitable<bool> WebSocketSession::accept() {
  boost::system::error_code error;
  co_await state_->socket.async_accept(asio::redirect_error(asio::use_awaitable, error));
  co_return !error;
}

asio::awaitable<bool> WebSocketSession::accept(Upgrade upgrade, std::string protocol) {
  state_->socket.set_option(
      websocket::stream_base::decorator([protocol = std::move(protocol)](websocket::response_type& response) {
        response.set(http::field::server, "spillway");
        if (!protocol.empty()) response.set(http::field::sec_websocket_protocol, protocol);
      }));
  boost::system::error_code error;
  co_await state_->socket.async_accept(upgrade, asio::redirect_error(asio::use_awaitable, error));
  co_return !error;
}

asio::awaitable<std::optional<WebSocketSession::Message>> WebSocketSession::read() {
  boost::system::error_code error;
  state_->buffer.clear();
  co_await state_->socket.async_read(state_->buffer, asio::redirect_error(asio::use_awaitable, error));
  if (error) {
    state_->broken = error.category() == make_error_code(websocket::error::bad_opcode).category() &&
                     error != websocket::error::closed;
    co_return std::nullopt;
  }
  const auto data = state_->buffer.cdata();
  Message message{std::string(static_cast<const char*>(data.data()), data.size()), state_->socket.got_binary()};
  // One large message must not hold its memory for the rest of a connection's life.
  if (state_->buffer.capacity() > (std::size_t{64} << 10)) state_->buffer = message_buffer(state_->limits);
  co_return message;
}

asio::awaitable<bool> WebSocketSession::write(std::string_view data, bool binary) {
  boost::system::error_code error;
  state_->socket.binary(binary);
  co_await state_->socket.async_write(asio::buffer(data.data(), data.size()),
                                      asio::redirect_error(asio::use_awaitable, error));
  co_return !error;
}

asio::awaitable<void> WebSocketSession::close(CloseCode code, std::string_view reason) {
  boost::system::error_code error;
  websocket::close_reason why(static_cast<websocket::close_code>(code));
  why.reason.assign(reason.data(), std::min<std::size_t>(reason.size(), 120));
  co_await state_->socket.async_close(why, asio::redirect_error(asio::use_awaitable, error));
}

asio::awaitable<void> WebSocketSession::linger() {
  if (!state_->broken) co_return;
  constexpr std::chrono::seconds kLimit(3);
  NetStream& stream = state_->socket.next_layer();
  const auto waiting = std::make_shared<bool>(true);
  asio::steady_timer deadline(executor(), kLimit);
  deadline.async_wait([waiting, &stream](boost::system::error_code error) {
    if (!error && *waiting) stream.close();
  });
  char sink[16384];
  boost::system::error_code error;
  while (!error) {
    // Below TLS: nobody reads it any more.
    co_await stream.socket().async_read_some(asio::buffer(sink), asio::redirect_error(asio::use_awaitable, error));
  }
  *waiting = false;
}

void WebSocketSession::cut() { state_->socket.next_layer().close(); }

}  // namespace spillway::net
