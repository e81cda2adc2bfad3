// SPDX-License-Identifier: Apache-2.0
// Requests in the Responses WebSocket mode: several lanes on a connection, events told apart by stream_id.

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/websocket.hpp>
#include <deque>
#include <optional>
#include <vector>

#include "net/load/dialer.hpp"
#include "net/load/transport.hpp"

namespace spillway::net::load {
namespace {

namespace http = boost::beast::http;
namespace websocket = boost::beast::websocket;
constexpr auto kAsTuple = asio::as_tuple(asio::use_awaitable);
constexpr std::size_t kMessageBytesMax = std::size_t{64} << 20;

/// A request in flight on a lane.
struct Exchange {
  Exchange(Dialect dialect, Timeline& of, bool keep_text, std::function<void()> when_done,
           asio::io_context& io)
      : line(&of), reader(dialect, of, keep_text), done(std::move(when_done)), deadline(io) {}
  Timeline* line;
  AnswerReader reader;
  std::function<void()> done;
  asio::steady_timer deadline;
};

struct Socket {
  std::unique_ptr<websocket::stream<NetStream>> stream;  // null until connected
  boost::beast::flat_buffer buffer;
  std::deque<std::string> outbox;
  bool writing = false;
  std::optional<Error> failure;                  // set: it takes no more
  std::vector<std::unique_ptr<Exchange>> lanes;  // null: free
};

class WebSocketTransport final : public Transport {
 public:
  WebSocketTransport(asio::io_context& io, TransportOptions options, const RunClock& clock)
      : options_(std::move(options)), clock_(clock), dialer_(io, options_.target) {}

  Result<void> prepare() { return dialer_.prepare(); }

  void send(std::string body, Timeline& line, std::function<void()> done) override {
    auto exchange =
        std::make_unique<Exchange>(options_.dialect, line, options_.keep_text, std::move(done), dialer_.io());
    asio::post(dialer_.io(), [this, body = std::move(body), exchange = std::move(exchange)]() mutable {
      begin(std::move(body), std::move(exchange));
    });
  }

  void close() override {
    for (const std::shared_ptr<Socket>& socket : sockets_) {
      if (socket->stream && !socket->failure)
        asio::co_spawn(dialer_.io(), close_socket(socket), asio::detached);
    }
  }

  std::size_t connections_opened() const override { return opened_; }

 private:
  struct Lane {
    std::shared_ptr<Socket> socket;
    std::size_t index;
  };

  /// The default lane has no name.
  [[nodiscard]] std::string lane_name(std::size_t index) const {
    return options_.lanes == 1 ? std::string() : "l" + std::to_string(index);
  }

  void begin(std::string body, std::unique_ptr<Exchange> exchange) {
    exchange->line->sent_ns = clock_.elapsed_ns();
    const Lane lane = take_lane();
    if (const std::string name = lane_name(lane.index); !name.empty())
      body.insert(1, R"("stream_id":")" + name + R"(",)");  // behind the opening brace
    exchange->deadline.expires_after(options_.request_timeout);
    exchange->deadline.async_wait(
        [this, weak = std::weak_ptr(lane.socket)](boost::system::error_code cancelled) {
          // An event that comes late would be taken for the next request's, so the connection goes too.
          if (const std::shared_ptr<Socket> socket = cancelled ? nullptr : weak.lock())
            fail(socket, {Errc::kDeadlineExceeded, "no end within --request-timeout"});
        });
    lane.socket->lanes[lane.index] = std::move(exchange);
    lane.socket->outbox.push_back(std::move(body));
    if (lane.socket->stream && !lane.socket->writing)
      asio::co_spawn(dialer_.io(), write(lane.socket), asio::detached);
  }

  Lane take_lane() {
    while (!free_.empty()) {
      Lane lane = std::move(free_.back());
      free_.pop_back();
      if (!lane.socket->failure) return lane;
    }
    auto socket = std::make_shared<Socket>();
    socket->lanes.resize(options_.lanes);
    sockets_.push_back(socket);
    ++opened_;
    for (std::size_t index = options_.lanes; index-- > 1;) free_.push_back({socket, index});
    asio::co_spawn(dialer_.io(), serve(socket), asio::detached);
    return {socket, 0};
  }

  asio::awaitable<void> serve(std::shared_ptr<Socket> socket) {
    Result<NetStream> connected = co_await dialer_.dial();
    if (!connected) {
      fail(socket, connected.error());
      co_return;
    }
    auto stream = std::make_unique<websocket::stream<NetStream>>(std::move(*connected));
    stream->read_message_max(kMessageBytesMax);
    stream->auto_fragment(false);
    stream->set_option(websocket::stream_base::decorator([this](websocket::request_type& request) {
      request.set(http::field::user_agent, "spillway-bench");
      for (const auto& [name, value] : options_.target.headers) request.set(name, value);
    }));
    websocket::response_type response;
    const auto [error] = co_await stream->async_handshake(
        response, options_.target.authority(), options_.target.prefix + options_.target.endpoint, kAsTuple);
    if (error) {
      const bool declined = error == websocket::error::upgrade_declined;
      fail(socket, declined ? Error{Errc::kInvalidArgument,
                                    http_error_text(static_cast<int>(response.result_int()), response.body())}
                            : Error{Errc::kIo, "WebSocket handshake: " + error.message()});
      co_return;
    }
    if (socket->failure) co_return;  // a deadline came first
    socket->stream = std::move(stream);
    asio::co_spawn(dialer_.io(), write(socket), asio::detached);
    co_await read(socket);
  }

  asio::awaitable<void> write(std::shared_ptr<Socket> socket) {
    if (socket->writing) co_return;
    socket->writing = true;
    while (!socket->outbox.empty() && !socket->failure) {
      const std::string message = std::move(socket->outbox.front());
      socket->outbox.pop_front();
      socket->stream->text(true);
      const auto [error, bytes] = co_await socket->stream->async_write(asio::buffer(message), kAsTuple);
      if (error) fail(socket, {Errc::kIo, "sending: " + error.message()});
    }
    socket->writing = false;
  }

  asio::awaitable<void> read(std::shared_ptr<Socket> socket) {
    while (!socket->failure) {
      const auto [error, bytes] = co_await socket->stream->async_read(socket->buffer, kAsTuple);
      if (error) {
        fail(socket,
             {Errc::kIo, error == websocket::error::closed ? closed_text(*socket)
                                                           : "closed in mid-answer: " + error.message()});
        co_return;
      }
      const boost::asio::const_buffer data = socket->buffer.cdata();
      take(socket, {static_cast<const char*>(data.data()), data.size()});
      socket->buffer.consume(socket->buffer.size());
    }
  }

  static std::string closed_text(const Socket& socket) {
    const websocket::close_reason& reason = socket.stream->reason();
    std::string text = "the server closed the WebSocket, code " + std::to_string(reason.code);
    if (!reason.reason.empty()) text += ": " + std::string(reason.reason.data(), reason.reason.size());
    return text;
  }

  void take(const std::shared_ptr<Socket>& socket, std::string_view event) {
    const std::int64_t now_ns = clock_.elapsed_ns();
    std::size_t index = 0;
    if (options_.lanes > 1) {
      const std::string_view name = stream_id_of(event);
      while (index < socket->lanes.size() && lane_name(index) != name) ++index;
    }
    if (index >= socket->lanes.size() || !socket->lanes[index]) {
      // An error without a lane concerns the connection; anything else cannot be told to whom it belongs.
      fail(socket, {Errc::kInvalidArgument,
                    "an event that belongs to no request: " + std::string(event.substr(0, 120))});
      return;
    }
    Exchange& exchange = *socket->lanes[index];
    Result<void> result = exchange.reader.take(event, now_ns);
    if (!exchange.reader.is_ended()) {
      if (!result) fail(socket, result.error());  // what else comes on this lane cannot be trusted
      return;
    }
    if (result) result = exchange.reader.finish();
    std::unique_ptr<Exchange> ended = std::move(socket->lanes[index]);
    if (!socket->failure) free_.push_back({socket, index});
    end(std::move(ended), result);
  }

  void end(std::unique_ptr<Exchange> exchange, const Result<void>& result) {
    exchange->deadline.cancel();
    exchange->line->ok = result.ok();
    if (!result) {
      exchange->line->end_ns = clock_.elapsed_ns();
      exchange->line->error = result.error().message;
    }
    exchange->done();
  }

  void fail(const std::shared_ptr<Socket>& socket, const Error& error) {
    if (socket->failure) return;
    socket->failure = error;
    if (socket->stream) socket->stream->next_layer().close();
    for (std::unique_ptr<Exchange>& lane : socket->lanes) {
      if (lane) end(std::move(lane), error);
    }
    std::erase(sockets_, socket);
  }

  asio::awaitable<void> close_socket(std::shared_ptr<Socket> socket) {
    // read() is under way and takes the server's close frame.
    static_cast<void>(co_await socket->stream->async_close(websocket::close_code::normal, kAsTuple));
  }

  TransportOptions options_;
  const RunClock& clock_;
  Dialer dialer_;
  std::vector<std::shared_ptr<Socket>> sockets_;
  std::vector<Lane> free_;
  std::size_t opened_ = 0;
};

}  // namespace

Result<std::unique_ptr<Transport>> make_websocket_transport(asio::io_context& io, TransportOptions options,
                                                            const RunClock& clock) {
  auto transport = std::make_unique<WebSocketTransport>(io, std::move(options), clock);
  if (const Result<void> ready = transport->prepare(); !ready) return ready.error();
  return std::unique_ptr<Transport>(std::move(transport));
}

}  // namespace spillway::net::load
