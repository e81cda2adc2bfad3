// SPDX-License-Identifier: Apache-2.0
#include "tests/load/responder.hpp"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <atomic>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/buffers_to_string.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/websocket.hpp>
#include <boost/json.hpp>
#include <mutex>
#include <thread>

#include "net/net_stream.hpp"
#include "runtime/check.hpp"

namespace spillway::tests {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
namespace websocket = boost::beast::websocket;
namespace json = boost::json;
using net::NetStream;
using tcp = asio::ip::tcp;
constexpr auto kAsTuple = asio::as_tuple(asio::use_awaitable);

std::string chunk(const std::string& bytes) {
  char size[16];
  std::snprintf(size, sizeof size, "%zx\r\n", bytes.size());
  return size + bytes + "\r\n";
}

std::string sse(const std::string& data) { return chunk("data: " + data + "\n\n"); }

std::int64_t tokens_wanted(const json::object& body) {
  for (const char* name : {"max_tokens", "max_completion_tokens", "max_output_tokens"}) {
    if (const json::value* value = body.if_contains(name)) return value->as_int64();
  }
  return 1;
}

/// A key and a certificate for "localhost" that is its own authority.
void use_fresh_certificate(asio::ssl::context& context) {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* certificate = X509_new();
  SPW_CHECK(key != nullptr && certificate != nullptr);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
  X509_set_pubkey(certificate, key);
  X509_NAME* name = X509_get_subject_name(certificate);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("localhost"),
                             -1, -1, 0);
  X509_set_issuer_name(certificate, name);
  SPW_CHECK(X509_sign(certificate, key, EVP_sha256()) != 0);
  SPW_CHECK(SSL_CTX_use_certificate(context.native_handle(), certificate) == 1);
  SPW_CHECK(SSL_CTX_use_PrivateKey(context.native_handle(), key) == 1);
  X509_free(certificate);
  EVP_PKEY_free(key);
}

}  // namespace

struct Responder::State {
  explicit State(Options given)
      : options(std::move(given)), acceptor(io, {tcp::v4(), 0}), tls(asio::ssl::context::tls_server) {
    if (options.tls) use_fresh_certificate(tls);
    asio::co_spawn(io, accept(), asio::detached);
    thread = std::thread([this] { io.run(); });
  }
  ~State() {
    io.stop();
    thread.join();
  }

  asio::awaitable<void> accept() {
    for (;;) {
      auto [error, socket] = co_await acceptor.async_accept(kAsTuple);
      if (error) co_return;
      boost::system::error_code ignored;
      socket.set_option(tcp::no_delay(true), ignored);
      ++connections;
      asio::co_spawn(io, serve(std::move(socket)), asio::detached);
    }
  }

  asio::awaitable<void> serve(tcp::socket socket) {
    NetStream stream = options.tls ? NetStream(std::move(socket), tls) : NetStream(std::move(socket));
    if (options.tls) {
      const auto [error] = co_await stream.tls()->async_handshake(asio::ssl::stream_base::server, kAsTuple);
      if (error) co_return;
    }
    boost::beast::flat_buffer buffer;
    for (std::size_t served = 0;
         options.requests_per_connection == 0 || served < options.requests_per_connection; ++served) {
      http::request_parser<http::string_body> parser;
      const auto [error, bytes] = co_await http::async_read(stream, buffer, parser, kAsTuple);
      if (error) co_return;
      http::request<http::string_body> request = parser.release();
      if (websocket::is_upgrade(request)) {
        co_await serve_socket(std::move(stream), std::move(request));
        co_return;
      }
      const bool go_on = co_await answer(stream, request);
      if (!go_on) co_return;
    }
  }

  std::size_t note(const std::string& body) {
    const std::lock_guard lock(mutex);
    bodies.push_back(body);
    return bodies.size() - 1;
  }

  asio::awaitable<void> pause(std::chrono::milliseconds time) {
    asio::steady_timer timer(io, time);
    static_cast<void>(co_await timer.async_wait(kAsTuple));
  }

  asio::awaitable<bool> write(NetStream& stream, std::string bytes) {
    const auto [error, written] = co_await asio::async_write(stream, asio::buffer(bytes), kAsTuple);
    co_return !error;
  }

  asio::awaitable<bool> answer(NetStream& stream, const http::request<http::string_body>& request) {
    if (request.method() == http::verb::head)
      co_return co_await write(stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    if (request.method() == http::verb::get) {
      const std::string body = R"({"object":"list","data":[{"id":"tiny","object":"model"}]})";
      co_return co_await write(stream,
                               "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " +
                                   std::to_string(body.size()) + "\r\n\r\n" + body);
    }
    const std::size_t number = note(request.body());
    std::unique_ptr<RawAnswer> raw;
    if (options.raw) raw = options.raw(number, request.body());
    if (raw) {
      for (const std::string& part : raw->parts) {
        const bool written = co_await write(stream, part);
        if (!written) co_return false;
        if (raw->between.count() != 0) co_await pause(raw->between);
      }
      co_return !raw->close_after;
    }
    const json::object body = json::parse(request.body()).as_object();
    if (options.first_token.count() != 0) co_await pause(options.first_token);
    const std::int64_t tokens = tokens_wanted(body);
    const std::string target = request.target();
    std::string out =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (std::int64_t i = 0; i < tokens; ++i) {
      out += sse(piece(target));
      if (options.per_token.count() == 0) continue;
      const bool written = co_await write(stream, std::move(out));
      if (!written) co_return false;
      out.clear();
      co_await pause(options.per_token);
    }
    out += ending(target, tokens) + "0\r\n\r\n";
    co_return co_await write(stream, std::move(out));
  }

  static std::string piece(const std::string& target) {
    if (target.ends_with("/chat/completions"))
      return R"({"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"hi "},"finish_reason":null}]})";
    if (target.ends_with("/completions"))
      return R"({"object":"text_completion","choices":[{"index":0,"text":"hi ","finish_reason":null}],"usage":null})";
    return R"({"type":"response.output_text.delta","delta":"hi ","logprobs":[]})";
  }

  static std::string ending(const std::string& target, std::int64_t tokens) {
    const std::string count = std::to_string(tokens);
    if (target.ends_with("/completions")) {
      const bool chat = target.ends_with("/chat/completions");
      const std::string kind =
          chat ? R"({"object":"chat.completion.chunk",)" : R"({"object":"text_completion",)";
      const std::string last = chat ? R"("delta":{})" : R"("text":"")";
      return sse(kind + R"("choices":[{"index":0,)" + last + R"(,"finish_reason":"length"}]})") +
             sse(kind + R"("choices":[],"usage":{"prompt_tokens":5,"completion_tokens":)" + count + "}}") +
             sse("[DONE]");
    }
    return sse(terminal("", tokens));
  }

  static std::string terminal(const std::string& lane, std::int64_t tokens) {
    return R"({"type":"response.incomplete",)" + lane +
           R"("response":{"id":"r","status":"incomplete","usage":{"input_tokens":5,"output_tokens":)" +
           std::to_string(tokens) + "}}}";
  }

  struct Socket {
    explicit Socket(NetStream connected) : stream(std::move(connected)) {}
    websocket::stream<NetStream> stream;
    std::vector<std::string> outbox;
    bool writing = false, open = true;
  };

  asio::awaitable<void> serve_socket(NetStream stream, http::request<http::string_body> request) {
    auto socket = std::make_shared<Socket>(std::move(stream));
    const auto [accept_error] = co_await socket->stream.async_accept(request, kAsTuple);
    if (accept_error) co_return;
    boost::beast::flat_buffer buffer;
    for (;;) {
      const auto [error, bytes] = co_await socket->stream.async_read(buffer, kAsTuple);
      if (error) break;
      asio::co_spawn(io, answer_message(socket, boost::beast::buffers_to_string(buffer.cdata())),
                     asio::detached);
      buffer.consume(buffer.size());
    }
    socket->open = false;
  }

  asio::awaitable<void> answer_message(std::shared_ptr<Socket> socket, std::string message) {
    const std::size_t number = note(message);
    std::unique_ptr<std::vector<std::string>> scripted;
    if (options.messages) scripted = options.messages(number, message);
    if (scripted) {
      for (std::string& each : *scripted) co_await put(socket, std::move(each));
      co_return;
    }
    const json::object body = json::parse(message).as_object();
    const json::value* id = body.if_contains("stream_id");
    const std::string lane = id == nullptr ? "" : R"("stream_id":")" + std::string(id->as_string()) + R"(",)";
    const std::int64_t tokens = tokens_wanted(body);
    co_await put(socket, R"({"type":"response.created",)" + lane + R"("response":{"id":"r"}})");
    for (std::int64_t i = 0; i < tokens; ++i) {
      co_await put(socket,
                   R"({"type":"response.output_text.delta",)" + lane + R"("delta":"hi ","logprobs":[]})");
      if (options.per_token.count() != 0) co_await pause(options.per_token);
    }
    co_await put(socket, terminal(lane, tokens));
  }

  /// Writes after what other lanes have written.
  asio::awaitable<void> put(std::shared_ptr<Socket> socket, std::string message) {
    socket->outbox.push_back(std::move(message));
    if (socket->writing) co_return;
    socket->writing = true;
    while (!socket->outbox.empty() && socket->open) {
      const std::string next = std::move(socket->outbox.front());
      socket->outbox.erase(socket->outbox.begin());
      if (next == "CLOSE") {
        static_cast<void>(co_await socket->stream.async_close(
            {websocket::close_code::try_again_later, "draining"}, kAsTuple));
        socket->open = false;
        break;
      }
      const auto [error, bytes] = co_await socket->stream.async_write(asio::buffer(next), kAsTuple);
      if (error) socket->open = false;
    }
    socket->writing = false;
  }

  Options options;
  asio::io_context io{1};
  tcp::acceptor acceptor;
  asio::ssl::context tls;
  std::atomic<std::size_t> connections = 0;
  mutable std::mutex mutex;
  std::vector<std::string> bodies;
  std::thread thread;
};

Responder::Responder(Options options) : state_(std::make_unique<State>(std::move(options))) {}
Responder::~Responder() = default;
std::uint16_t Responder::port() const { return state_->acceptor.local_endpoint().port(); }
std::size_t Responder::connections() const { return state_->connections; }
std::vector<std::string> Responder::bodies() const {
  const std::lock_guard lock(state_->mutex);
  return state_->bodies;
}

}  // namespace spillway::tests
