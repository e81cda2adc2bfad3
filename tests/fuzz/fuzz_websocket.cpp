// SPDX-License-Identifier: Apache-2.0
// A client's bytes, as the WebSocket session reads them: handshake, frames, deflated or not, whole messages,
// and what responses_socket.cpp reads out of each. Beast's stream under our limits, over memory instead of a
// socket, and with callbacks instead of coroutines. The input's first byte: bit 0 offers permessage-deflate,
// bit 1 says that the handshake is the input's own, bits 2 and 3 how many bytes come at once.

#include <algorithm>
#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/beast/core/buffers_to_string.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/websocket/rfc6455.hpp>
#include <boost/beast/websocket/stream.hpp>
#include <string>
#include <string_view>

#include "net/api_request.hpp"
#include "net/websocket_limits.hpp"
#include "runtime/check.hpp"
#include "tests/fuzz/targets.hpp"

namespace spillway::fuzz {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
namespace websocket = boost::beast::websocket;
using boost::system::error_code;

constexpr std::size_t kMessageBytesMax = 8192, kHeaderBytesMax = 4096;

/// Gives `head` and then `rest`, some bytes a read and never of both, then the end; takes whatever is
/// written.
class FedStream {
 public:
  using executor_type = asio::io_context::executor_type;

  FedStream(asio::io_context& io, std::string_view head, std::string_view rest, std::size_t piece_bytes)
      : io_(&io), parts_{head, rest}, piece_bytes_(piece_bytes) {}
  executor_type get_executor() noexcept { return io_->get_executor(); }

  template <class Buffers, class Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    return asio::async_initiate<Token, void(error_code, std::size_t)>(
        [this, buffers](auto handler) {
          std::string_view& part = parts_[0].empty() ? parts_[1] : parts_[0];
          const error_code end = part.empty() ? error_code(asio::error::eof) : error_code();
          const std::size_t count =
              asio::buffer_copy(buffers, asio::buffer(part.data(), std::min(part.size(), piece_bytes_)));
          part.remove_prefix(count);
          asio::post(get_executor(),
                     [handler = std::move(handler), end, count]() mutable { handler(end, count); });
        },
        token);
  }
  template <class Buffers, class Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    return asio::async_initiate<Token, void(error_code, std::size_t)>(
        [this, count = boost::beast::buffer_bytes(buffers)](auto handler) {
          asio::post(get_executor(), [handler = std::move(handler), count]() mutable { handler({}, count); });
        },
        token);
  }

 private:
  asio::io_context* io_;
  std::array<std::string_view, 2> parts_;
  std::size_t piece_bytes_;
};

void beast_close_socket(FedStream&) {}
template <class Handler>
void async_teardown(boost::beast::role_type, FedStream& stream, Handler&& handler) {
  asio::post(stream.get_executor(),
             [handler = std::forward<Handler>(handler)]() mutable { handler(error_code()); });
}

/// One connection, from its handshake to its end.
class Session {
 public:
  Session(asio::io_context& io, std::string_view head, std::string_view rest, std::size_t piece_bytes)
      : socket_(io, head, rest, piece_bytes) {
    const net::WebSocketLimits limits{.message_bytes_max = kMessageBytesMax, .deflate_bytes_min = 16};
    net::apply_limits(socket_, limits);
    buffer_ = net::message_buffer(limits);
    parser_.header_limit(kHeaderBytesMax);
    parser_.body_limit(kMessageBytesMax);
  }

  void read_handshake() {
    http::async_read_header(socket_.next_layer(), buffer_, parser_, [this](error_code error, std::size_t) {
      if (!error && websocket::is_upgrade(parser_.get())) accept(parser_.release());
    });
  }

  void accept(http::request<http::string_body> upgrade) {
    upgrade_ = std::move(upgrade);
    buffer_.clear();
    socket_.async_accept(upgrade_, [this](error_code error) {
      if (!error) read_message();
    });
  }

 private:
  void read_message() {
    socket_.async_read(buffer_, [this](error_code error, std::size_t bytes) {
      if (error) return;
      SPW_CHECK(bytes == buffer_.size() && bytes <= kMessageBytesMax);
      const std::string message = boost::beast::buffers_to_string(buffer_.data());
      buffer_.clear();
      use(message);
      answer(message);
      read_message();
    });
  }

  static void use(const std::string& message) {
    const net::RequestRules rules{.prompt_bytes_max = kMessageBytesMax};
    const net::ClientEvent event = net::parse_client_event(message);
    if (event.wrong) SPW_CHECK(!net::error_event(*event.wrong, event.stream_id).empty());
    if (event.wrong || event.type != "response.create") return;
    const auto parsed = net::parse_response_request(message, rules);
    if (const auto* wrong = std::get_if<net::ApiError>(&parsed))
      SPW_CHECK(!net::error_event(*wrong, "").empty());
  }

  /// Beside the reading, as the server writes.
  void answer(const std::string& message) {
    if (writing_) return;
    writing_ = true;
    answer_ = message;
    socket_.binary(socket_.got_binary());
    socket_.async_write(asio::buffer(answer_), [this](error_code, std::size_t) { writing_ = false; });
  }

  websocket::stream<FedStream> socket_;
  http::request_parser<http::string_body> parser_;
  http::request<http::string_body> upgrade_;
  boost::beast::flat_buffer buffer_;
  std::string answer_;
  bool writing_ = false;
};

http::request<http::string_body> usual_upgrade(bool deflate) {
  http::request<http::string_body> upgrade(http::verb::get, "/v1/responses", 11);
  upgrade.set(http::field::host, "localhost");
  upgrade.set(http::field::connection, "Upgrade");
  upgrade.set(http::field::upgrade, "websocket");
  upgrade.set(http::field::sec_websocket_version, "13");
  upgrade.set(http::field::sec_websocket_key, "dGhlIHNhbXBsZSBub25jZQ==");
  if (deflate) upgrade.set(http::field::sec_websocket_extensions, "permessage-deflate");
  return upgrade;
}

}  // namespace

void websocket(Input input) {
  if (input.empty()) return;
  const auto choices = static_cast<unsigned>(input[0]);
  const std::string_view bytes(reinterpret_cast<const char*>(input.data()) + 1, input.size() - 1);
  const bool own_handshake = (choices & 2) != 0;
  constexpr std::array<std::size_t, 4> kPieceBytes = {65536, 1, 7, 64};

  const std::size_t end_of_head = own_handshake ? bytes.find("\r\n\r\n") : 0;
  const std::size_t head_bytes = own_handshake && end_of_head != bytes.npos ? end_of_head + 4 : 0;
  asio::io_context io(1);
  {
    Session session(io, bytes.substr(0, head_bytes), bytes.substr(head_bytes),
                    kPieceBytes[(choices >> 2) & 3]);
    if (own_handshake) {
      session.read_handshake();
    } else {
      session.accept(usual_upgrade((choices & 1) != 0));
    }
    io.poll();  // until what is left waits for a timer
  }
  io.restart();
  io.poll();
}

}  // namespace spillway::fuzz
