// SPDX-License-Identifier: Apache-2.0
// Requests over HTTP/1.1 with answers as server-sent events; one connection a request at a time, kept for the
// next.

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <optional>
#include <vector>

#include "net/load/dialer.hpp"
#include "net/load/sse_parser.hpp"
#include "net/load/transport.hpp"

namespace spillway::net::load {
namespace {

namespace http = boost::beast::http;
constexpr auto kAsTuple = asio::as_tuple(asio::use_awaitable);
constexpr std::size_t kErrorBodyMax = 65536;
constexpr std::size_t kPieceBytes = 16384;

std::string request_head(const Target& target, std::string_view method, const std::string& path,
                         std::size_t body_bytes) {
  std::string head = std::string(method) + " " + path + " HTTP/1.1\r\nHost: " + target.authority() +
                     "\r\nUser-Agent: spillway-bench\r\nAccept: text/event-stream, application/json\r\n";
  if (body_bytes != 0)
    head += "Content-Type: application/json\r\nContent-Length: " + std::to_string(body_bytes) + "\r\n";
  for (const auto& [name, value] : target.headers) head += name + ": " + value + "\r\n";
  return head + "\r\n";
}

struct Connection {
  explicit Connection(NetStream connected) : stream(std::move(connected)) {}
  NetStream stream;
  boost::beast::flat_buffer buffer;
  bool timed_out = false;
  bool keep_alive = true;  // of the last answer
};

class HttpTransport final : public Transport {
 public:
  HttpTransport(asio::io_context& io, TransportOptions options, const RunClock& clock)
      : options_(std::move(options)), clock_(clock), dialer_(io, options_.target) {}

  Result<void> prepare() { return dialer_.prepare(); }

  void send(std::string body, Timeline& line, std::function<void()> done) override {
    asio::co_spawn(dialer_.io(), exchange(std::move(body), &line, std::move(done)), asio::detached);
  }

  void close() override {
    closed_ = true;
    idle_.clear();
  }

  std::size_t connections_opened() const override { return opened_; }

 private:
  asio::awaitable<void> exchange(std::string body, Timeline* line, std::function<void()> done) {
    line->sent_ns = clock_.elapsed_ns();
    const Result<void> result = co_await attempt(body, line);
    line->ok = result.ok();
    if (!result) {
      line->end_ns = clock_.elapsed_ns();
      line->error = result.error().message;
    }
    done();
  }

  asio::awaitable<Result<void>> attempt(const std::string& body, Timeline* line) {
    const std::string head =
        request_head(options_.target, "POST", options_.target.prefix + options_.target.endpoint, body.size());
    for (;;) {
      std::shared_ptr<Connection> connection;
      const bool reused = !idle_.empty();
      if (reused) {
        connection = std::move(idle_.back());
        idle_.pop_back();
      } else {
        Result<NetStream> stream = co_await dialer_.dial();
        if (!stream) co_return stream.error();
        ++opened_;
        connection = std::make_shared<Connection>(std::move(*stream));
      }
      asio::steady_timer deadline(dialer_.io(), options_.request_timeout);
      deadline.async_wait([weak = std::weak_ptr(connection)](boost::system::error_code cancelled) {
        const std::shared_ptr<Connection> late = cancelled ? nullptr : weak.lock();
        if (!late) return;
        late->timed_out = true;
        late->stream.close();
      });
      bool answered = false;
      Result<void> result = co_await talk(*connection, head, body, *line, answered);
      deadline.cancel();
      if (connection->timed_out) co_return Error{Errc::kDeadlineExceeded, "no end within --request-timeout"};
      if (result) {
        if (connection->keep_alive && !closed_) idle_.push_back(std::move(connection));
        co_return result;
      }
      // A server may close an idle connection at any time: then the request was never looked at, and goes
      // again.
      if (!reused || answered) co_return result;
    }
  }

  /// `answered`: the server has sent something.
  asio::awaitable<Result<void>> talk(Connection& connection, const std::string& head, const std::string& body,
                                     Timeline& line, bool& answered) {
    const std::array<asio::const_buffer, 2> buffers{asio::buffer(head), asio::buffer(body)};
    const auto [write_error, written] = co_await asio::async_write(connection.stream, buffers, kAsTuple);
    if (write_error) co_return Error{Errc::kIo, "sending: " + write_error.message()};
    http::response_parser<http::buffer_body> parser;
    parser.body_limit(boost::none);
    const auto [head_error, head_bytes] =
        co_await http::async_read_header(connection.stream, connection.buffer, parser, kAsTuple);
    if (head_error) {
      answered = parser.got_some();
      co_return Error{Errc::kIo, "no answer: " + head_error.message()};
    }
    answered = true;
    parser.eager(true);
    const int status = static_cast<int>(parser.get().result_int());
    const std::string_view type = parser.get()[http::field::content_type];
    const bool is_stream = status == 200 && type.starts_with("text/event-stream");
    SseParser events;
    AnswerReader reader(options_.dialect, line, options_.keep_text);
    std::string whole;
    const auto take = [&](std::string_view got) -> Result<void> {
      if (!is_stream) {
        if (whole.size() < kErrorBodyMax) whole += got;
        return {};
      }
      const std::int64_t now_ns = clock_.elapsed_ns();
      return events.feed(got, [&](std::string_view event) { return reader.take(event, now_ns); });
    };
    for (;;) {
      boost::system::error_code error;
      const Result<void> taken = parse_body(parser, connection.buffer, take, error);
      if (!taken) co_return taken;
      if (error) co_return Error{Errc::kIo, "malformed answer: " + error.message()};
      if (parser.is_done()) break;
      const auto [read_error, bytes] =
          co_await connection.stream.async_read_some(connection.buffer.prepare(kPieceBytes), kAsTuple);
      connection.buffer.commit(bytes);
      if (!read_error) continue;
      // An answer without a length ends with its connection; any other has been cut.
      if (read_error == asio::error::eof) parser.put_eof(error);
      if (read_error == asio::error::eof && !error && parser.is_done()) break;
      co_return Error{Errc::kIo, "closed in mid-answer: " + read_error.message()};
    }
    connection.keep_alive = parser.get().keep_alive();
    if (status != 200) co_return Error{Errc::kInvalidArgument, http_error_text(status, whole)};
    if (!is_stream)
      co_return Error{Errc::kInvalidArgument,
                      "the answer is no event stream but '" + std::string(type) + "'"};
    if (events.is_inside_event()) co_return Error{Errc::kClosed, "the stream ended inside an event"};
    co_return reader.finish();
  }

  /// Gives what the buffer holds of the body to `take`, chunk by chunk. Beast's own read waits for the end of
  /// a chunk where its beginning has come, which would make every piece of the answer as late as the next
  /// one.
  template <class Take>
  static Result<void> parse_body(http::response_parser<http::buffer_body>& parser,
                                 boost::beast::flat_buffer& buffer, const Take& take,
                                 boost::system::error_code& error) {
    std::array<char, kPieceBytes> piece;
    while (buffer.size() != 0 && !parser.is_done()) {
      parser.get().body() = {piece.data(), piece.size(), true};
      buffer.consume(parser.put(buffer.data(), error));
      const std::string_view got(piece.data(), piece.size() - parser.get().body().size);
      if (Result<void> taken = take(got); !taken) return taken;
      if (error && error != http::error::need_buffer && error != http::error::need_more) return {};
      const bool needs_more = error == http::error::need_more;
      error = {};
      if (needs_more) break;
    }
    return {};
  }

  TransportOptions options_;
  const RunClock& clock_;
  Dialer dialer_;
  std::vector<std::shared_ptr<Connection>> idle_;
  std::size_t opened_ = 0;
  bool closed_ = false;
};

asio::awaitable<Result<std::string>> fetch_answer(Dialer& dialer, std::string path, std::string_view body) {
  Result<NetStream> stream = co_await dialer.dial();
  if (!stream) co_return stream.error();
  const std::string head = request_head(dialer.target(), body.empty() ? "GET" : "POST", path, body.size());
  const std::array<asio::const_buffer, 2> buffers{asio::buffer(head), asio::buffer(body)};
  const auto [write_error, written] = co_await asio::async_write(*stream, buffers, kAsTuple);
  if (write_error) co_return Error{Errc::kIo, "sending: " + write_error.message()};
  boost::beast::flat_buffer buffer;
  http::response_parser<http::string_body> parser;
  parser.body_limit(std::uint64_t{64} << 20);
  const auto [read_error, bytes] = co_await http::async_read(*stream, buffer, parser, kAsTuple);
  if (read_error) co_return Error{Errc::kIo, "no answer: " + read_error.message()};
  const int status = static_cast<int>(parser.get().result_int());
  if (status != 200) co_return Error{Errc::kInvalidArgument, http_error_text(status, parser.get().body())};
  co_return std::move(parser.get().body());
}

asio::awaitable<void> fetch_into(Dialer& dialer, std::string path, std::string_view body,
                                 std::optional<Result<std::string>>& answer) {
  answer = co_await fetch_answer(dialer, std::move(path), body);
}

}  // namespace

Result<std::unique_ptr<Transport>> make_http_transport(asio::io_context& io, TransportOptions options,
                                                       const RunClock& clock) {
  auto transport = std::make_unique<HttpTransport>(io, std::move(options), clock);
  if (const Result<void> ready = transport->prepare(); !ready) return ready.error();
  return std::unique_ptr<Transport>(std::move(transport));
}

Result<std::string> fetch(const Target& target, std::string_view path, std::string_view body,
                          std::chrono::milliseconds timeout) {
  asio::io_context io(1);
  Dialer dialer(io, target);
  if (const Result<void> ready = dialer.prepare(); !ready) return ready.error();
  std::optional<Result<std::string>> answer;
  asio::co_spawn(io, fetch_into(dialer, target.prefix + std::string(path), body, answer), asio::detached);
  io.run_for(timeout);
  if (!answer) return Error{Errc::kDeadlineExceeded, "no answer in time"};
  return std::move(*answer);
}

}  // namespace spillway::net::load
