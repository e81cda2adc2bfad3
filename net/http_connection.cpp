// SPDX-License-Identifier: Apache-2.0
#include "net/http_connection.hpp"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/websocket/rfc6455.hpp>

#include "net/access_log.hpp"
#include "net/endpoints.hpp"
#include "net/websocket_session.hpp"

namespace spillway::net {
namespace http = boost::beast::http;
namespace {

using boost::system::error_code;
using Parser = http::request_parser<http::string_body>;

std::string_view view(boost::beast::string_view text) { return {text.data(), text.size()}; }

std::string_view reason_of(int status) {
  const auto text = http::obsolete_reason(static_cast<http::status>(status));
  return status == 499 ? "Client Closed Request" : std::string_view(text.data(), text.size());
}

bool is_request_id(std::string_view text) {
  return is_stream_id(text) && text.size() <= 128;  // the same harmless characters
}

class Connection final : public HttpExchange {
 public:
  Connection(NetStream stream, Service& service, const Access& access)
      : stream_(std::move(stream)),
        service_(service),
        access_(access),
        bell_(stream_.get_executor()),
        deadline_(std::make_shared<asio::steady_timer>(stream_.get_executor())) {}
  ~Connection() override { deadline_->cancel(); }

  Bell& bell() override { return bell_; }
  bool gone() const override { return gone_; }

  asio::awaitable<void> run() {
    if (stream_.tls() != nullptr) {
      error_code error;
      arm(service_.options().header_timeout);
      co_await stream_.tls()->async_handshake(asio::ssl::stream_base::server,
                                              asio::redirect_error(asio::use_awaitable, error));
      disarm();
      if (error) co_return;
    }
    bool again = true;
    for (bool first = true; again; first = false) {
      const bool begun = co_await wait_for_request(first);
      if (!begun) break;
      again = co_await serve_one();
    }
    if (!moved_) linger_close();
  }

  asio::awaitable<void> respond(int code, std::string_view content_type, std::string_view body,
                                std::string_view more_headers) override {
    status = code;
    std::string head = begin_head(code, content_type, more_headers);
    head += "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n";
    if (!request.head) head += body;
    co_await write_raw(head);
  }

  asio::awaitable<bool> begin_stream(std::string_view content_type) override {
    status = 200;
    std::string head = begin_head(200, content_type, "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n");
    head += chunked_ ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n";
    co_await write_raw(head);
    watch();
    co_return !gone_;
  }

  asio::awaitable<bool> write(std::string_view data) override {
    if (chunked_) {
      char size[20];
      std::snprintf(size, sizeof size, "%zx\r\n", data.size());
      chunk_.assign(size).append(data).append("\r\n");
      co_await write_raw(chunk_);
    } else {
      co_await write_raw(data);
    }
    co_return !gone_;
  }

  asio::awaitable<void> end_stream() override {
    if (chunked_) co_await write_raw("0\r\n\r\n");
  }

 private:
  std::string begin_head(int code, std::string_view content_type, std::string_view more_headers) {
    std::string head = chunked_ || keep_alive_ ? "HTTP/1.1 " : "HTTP/1.0 ";
    head += std::to_string(code);
    head += ' ';
    head += reason_of(code);
    head += "\r\nServer: spillway\r\nX-Request-Id: ";
    head += request.request_id;
    head += "\r\nContent-Type: ";
    head += content_type;
    head += keep_alive_ ? "\r\nConnection: keep-alive\r\n" : "\r\nConnection: close\r\n";
    head += more_headers;
    if (access_.allows_cors(origin_)) {
      head += "Access-Control-Allow-Origin: " + origin_ + "\r\nVary: Origin\r\n";
    }
    head += "X-Content-Type-Options: nosniff\r\n";
    return head;
  }

  // ---- limits ----

  void arm(std::chrono::seconds limit) {
    deadline_->expires_after(limit);
    // The timer is shared with its handler: what it closes may be gone when a handler on its way gets here.
    deadline_->async_wait([this, alive = std::weak_ptr<asio::steady_timer>(deadline_),
                           round = ++round_](error_code error) {
      if (error) return;
      const auto timer = alive.lock();
      if (timer && round == round_) stream_.close();
    });
  }
  void disarm() {
    ++round_;
    deadline_->cancel();
  }

  asio::awaitable<void> write_raw(std::string_view data) {
    if (gone_) co_return;
    error_code error;
    arm(service_.options().write_timeout);
    co_await asio::async_write(stream_, asio::buffer(data.data(), data.size()),
                               asio::redirect_error(asio::use_awaitable, error));
    disarm();
    if (error) gone_ = true;
  }

  // ---- reading ----

  /// Reads on while an endpoint works: the end of the connection, or the beginning of the next request, which is kept.
  void watch() {
    if (reading_ || gone_ || buffer_.size() != 0) return;
    reading_ = true;
    stream_.async_read_some(buffer_.prepare(4096), [this](error_code error, std::size_t count) {
      reading_ = false;
      if (error) {
        gone_ = true;
      } else {
        buffer_.commit(count);
      }
      bell_.ring();
    });
  }

  asio::awaitable<bool> wait_for_request(bool first) {
    watch();
    if (!reading_) co_return !gone_;
    arm(first ? service_.options().header_timeout : service_.options().keep_alive_timeout);
    while (reading_) {
      // Between requests a server that drains has nothing to wait for.
      if (!first && service_.draining() && !closing_) {
        closing_ = true;
        stream_.close();
      }
      co_await bell_.wait(std::chrono::seconds(1));
    }
    disarm();
    co_return !gone_;
  }

  asio::awaitable<bool> serve_one() {
    Parser parser;
    parser.header_limit(service_.options().header_bytes_max);
    parser.body_limit(service_.options().body_bytes_max);
    error_code error;
    arm(service_.options().header_timeout);
    co_await http::async_read_header(stream_, buffer_, parser, asio::redirect_error(asio::use_awaitable, error));
    if (!error) {
      read_head(parser);
      if (boost::beast::websocket::is_upgrade(parser.get())) {
        disarm();
        co_await upgrade(parser.release());
        co_return false;
      }
      if (view(parser.get()[http::field::expect]) == "100-continue")
        co_await asio::async_write(stream_, asio::buffer(std::string_view("HTTP/1.1 100 Continue\r\n\r\n")),
                                   asio::redirect_error(asio::use_awaitable, error));
      arm(service_.options().body_timeout);
      if (!error) co_await http::async_read(stream_, buffer_, parser, asio::redirect_error(asio::use_awaitable, error));
    }
    disarm();
    if (error) {
      co_await refuse_message(error);
      co_return false;
    }
    request.body = std::move(parser.get().body());
    started_ = service_.clock();
    watch();
    const std::string authorization(view(parser.get()[http::field::authorization]));
    co_await dispatch(authorization);
    service_.metrics().count_http(status);
    log_access(request, status, service_.clock() - started_);
    co_return keep_alive_ && !gone_;
  }

  void read_head(const Parser& parser) {
    const auto& message = parser.get();
    request = {};
    status = 0;
    request.method = std::string(view(message.method_string()));
    const std::string_view target = view(message.target());
    request.path = std::string(target.substr(0, target.find('?')));
    request.head = message.method() == http::verb::head;
    if (request.head) request.method = "GET";
    const std::string_view id = view(message["X-Request-Id"]);
    request.request_id = is_request_id(id) ? std::string(id) : service_.new_id("req_");
    origin_ = std::string(view(message[http::field::origin]));
    chunked_ = message.version() >= 11;
    keep_alive_ = message.keep_alive() && chunked_ && !service_.draining();
  }

  asio::awaitable<void> dispatch(const std::string& authorization) {
    const bool open_path = request.path == "/" || request.path == "/health" || request.path == "/version" ||
                           request.path == "/metrics" || request.path.starts_with("/page/");
    if (request.method == "OPTIONS" && access_.allows_cors(origin_)) {
      co_await respond(204, "text/plain", {},
                       "Access-Control-Allow-Methods: GET, POST\r\n"
                       "Access-Control-Allow-Headers: Authorization, Content-Type, X-Request-Id\r\n");
      co_return;
    }
    if (!open_path) {
      const auto principal = access_.principal(authorization);
      if (!principal) {
        co_await fail(wrong_key());
        co_return;
      }
      request.principal = *principal;
    }
    co_await answer_http(*this, service_);
  }

  static ApiError wrong_key() {
    return {.status = 401,
            .type = "invalid_request_error",
            .code = "invalid_api_key",
            .message = "The API key is missing or wrong; send it as 'Authorization: Bearer KEY'."};
  }

  asio::awaitable<void> refuse_message(error_code error) {
    if (error == http::error::end_of_stream || gone_) co_return;
    const bool ours = error.category() == make_error_code(http::error::bad_method).category();
    if (!ours) co_return;  // the connection broke, or took too long
    keep_alive_ = false;
    chunked_ = true;
    if (request.request_id.empty()) request.request_id = service_.new_id("req_");
    ApiError answer = invalid_request("The request is not well-formed HTTP.", {}, "bad_request");
    if (error == http::error::body_limit) {
      answer = invalid_request("The body is over " + std::to_string(service_.options().body_bytes_max) + " bytes.", {},
                               "body_too_large");
      answer.status = 413;
    } else if (error == http::error::header_limit) {
      answer = invalid_request("The header is too large.", {}, "header_too_large");
      answer.status = 431;
    }
    service_.metrics().count_http(answer.status);
    co_await fail(std::move(answer));
  }

  // ---- WebSocket ----

  asio::awaitable<void> upgrade(WebSocketSession::Upgrade message) {
    keep_alive_ = false;
    const bool live = request.path == "/v1/live";
    const std::string_view protocols = view(message[http::field::sec_websocket_protocol]);
    std::optional<std::uint32_t> principal = access_.principal(view(message[http::field::authorization]));
    if (!principal) principal = access_.principal_of_protocols(protocols);
    std::optional<ApiError> refusal;
    if (!live && request.path != "/v1/responses") {
      refusal = invalid_request("There is no WebSocket at this path; it is at /v1/responses.", {}, "not_found");
      refusal->status = 404;
    } else if (!access_.may_upgrade(origin_, view(message[http::field::host]))) {
      refusal = invalid_request("Pages of this origin may not connect.", {}, "origin_not_allowed");
      refusal->status = 403;
    } else if (!principal) {
      refusal = wrong_key();
    } else {
      refusal = service_.refusal({});
    }
    if (refusal) {
      service_.metrics().count_http(refusal->status);
      co_await fail(*std::move(refusal));
      co_return;
    }
    request.principal = *principal;
    const std::string protocol = protocols.empty() ? "" : std::string(protocols.substr(0, protocols.find(',')));
    moved_ = true;
    WebSocketSession socket(std::move(stream_), {.message_bytes_max = service_.options().frame_bytes_max,
                                                 .idle_timeout = service_.options().websocket_idle_timeout});
    const bool accepted = co_await socket.accept(std::move(message), protocol);
    if (!accepted) co_return;
    service_.metrics().count_http(101);
    log_access(request, 101, {});
    if (live) {
      co_await serve_live(socket, service_);
    } else {
      co_await serve_responses(socket, service_, request.principal);
    }
    co_await socket.linger();
  }

  /// Lets an answer to somebody who still sends reach him before the reset that unread bytes would cause.
  void linger_close() {
    error_code ignored;
    stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
    stream_.socket().non_blocking(true, ignored);
    char sink[4096];
    for (int i = 0; i < 16 && !ignored; ++i) stream_.socket().read_some(asio::buffer(sink), ignored);
    stream_.close();
  }

 public:
  /// The coroutine's last act: nothing of this object is used by a handler afterwards.
  asio::awaitable<void> settle() {
    disarm();
    if (moved_) co_return;
    stream_.close();
    while (reading_) co_await bell_.wait();
  }

 private:
  NetStream stream_;
  Service& service_;
  const Access& access_;
  Bell bell_;
  std::shared_ptr<asio::steady_timer> deadline_;
  boost::beast::flat_buffer buffer_;
  std::string chunk_, origin_;
  runtime::TimePoint started_{};
  std::uint64_t round_ = 0;
  bool reading_ = false, gone_ = false, closing_ = false, moved_ = false;
  bool keep_alive_ = false, chunked_ = true;
};

}  // namespace

asio::awaitable<void> serve_connection(NetStream stream, Service& service, const Access& access) {
  Connection connection(std::move(stream), service, access);
  service.metrics().count_connection(1);
  co_await connection.run();
  co_await connection.settle();
  service.metrics().count_connection(-1);
}

}  // namespace spillway::net
