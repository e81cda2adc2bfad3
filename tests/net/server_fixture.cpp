// SPDX-License-Identifier: Apache-2.0
#include "tests/net/server_fixture.hpp"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/buffers_to_string.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/websocket/stream.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <spdlog/spdlog.h>
#include <cstdlib>
#include <thread>

#include "tests/support/catch.hpp"

namespace spillway::test {
namespace asio = boost::asio;
namespace json = boost::json;
namespace websocket = boost::beast::websocket;
using namespace std::chrono_literals;

std::unique_ptr<ServerFixture> ServerFixture::start(const ChangeServer& change_server, const ChangeEngine& change_engine,
                                                    bool attach) {
  const char* given = std::getenv("SPILLWAY_TEST_MODEL");
  const std::filesystem::path model =
      given != nullptr ? given : SPW_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(model)) {
    WARN("skipped: no " << model << ": ./dev model fetches it");
    return nullptr;
  }
  spdlog::set_level(spdlog::level::warn);
  net::ServerOptions options;
  options.port = 0;
  options.version = "test";
  options.served_model_names = {"smol"};
  options.unix_time_s = [] { return std::int64_t{1700000000}; };
  if (change_server) change_server(options);
  EngineOptions engine_options{.model = model, .kv_cache_memory_bytes = 64 << 20, .simulate_device = true};
  engine_options.stall_limit = options.write_timeout;
  if (change_engine) change_engine(engine_options);
  auto engine = Engine::create(std::move(engine_options));
  if (!engine) FAIL(engine.error().message);
  auto server = net::Server::start(std::move(options));
  if (!server) FAIL(server.error().message);
  std::unique_ptr<ServerFixture> fixture(new ServerFixture());
  fixture->engine_ = *std::move(engine);
  fixture->server_ = *std::move(server);
  if (attach) fixture->attach();
  return fixture;
}

ServerFixture::~ServerFixture() {
  if (server_) server_->stop();
  if (engine_) engine_->shutdown();
}

bool ServerFixture::eventually(const std::function<bool()>& done) {
  for (int tries = 0; tries < 500; ++tries) {
    if (done()) return true;
    std::this_thread::sleep_for(10ms);
  }
  return done();
}

bool ServerFixture::comes_to_rest() {
  return eventually([this] {
    const auto stats = engine_->stats();
    return stats.router.open == 0 && stats.scheduler.running == 0 && stats.block_manager.held == 0;
  });
}

// ---- plain TCP ----

RawClient::RawClient(std::uint16_t port, int receive_buffer_bytes) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
  if (receive_buffer_bytes != 0)
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof receive_buffer_bytes);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
}

RawClient::~RawClient() {
  if (fd_ >= 0) ::close(fd_);
}

void RawClient::drop() {
  const linger now{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  ::close(fd_);
  fd_ = -1;
}

namespace {

void drop_all_that_arrives(int fd) {
  sock_filter nothing[] = {BPF_STMT(BPF_RET | BPF_K, 0)};
  const sock_fprog program{.len = 1, .filter = nothing};
  REQUIRE(::setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0);
}

}  // namespace

void RawClient::vanish() { drop_all_that_arrives(fd_); }

void RawClient::send(std::string_view data) {
  while (!data.empty()) {
    const ssize_t sent = ::send(fd_, data.data(), data.size(), MSG_NOSIGNAL);
    if (sent <= 0) return;  // closed: the answer tells
    data.remove_prefix(static_cast<std::size_t>(sent));
  }
}

void RawClient::request(std::string_view method, std::string_view path, std::string_view body, std::string_view headers) {
  std::string text = std::string(method) + " " + std::string(path) + " HTTP/1.1\r\nHost: localhost\r\n" + std::string(headers);
  if (!body.empty() || method == "POST") text += "Content-Length: " + std::to_string(body.size()) + "\r\n";
  send(text + "\r\n" + std::string(body));
}

std::string RawClient::receive(std::chrono::milliseconds limit) {
  if (!read_.empty()) return std::exchange(read_, {});
  pollfd ready{.fd = fd_, .events = POLLIN, .revents = 0};
  if (::poll(&ready, 1, static_cast<int>(limit.count())) <= 0) return {};
  char bytes[16384];
  const ssize_t count = ::recv(fd_, bytes, sizeof bytes, 0);
  return count > 0 ? std::string(bytes, static_cast<std::size_t>(count)) : std::string();
}

bool RawClient::closed_within(std::chrono::milliseconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (std::chrono::steady_clock::now() < end) {
    pollfd ready{.fd = fd_, .events = POLLIN, .revents = 0};
    if (::poll(&ready, 1, 50) <= 0) continue;
    char bytes[16384];
    if (::recv(fd_, bytes, sizeof bytes, 0) <= 0) return true;
  }
  return false;
}

bool RawClient::wait_for(std::string_view text) {
  std::string seen;
  while (seen.find(text) == std::string::npos) {
    const std::string more = receive(5s);
    if (more.empty()) return false;
    seen += more;
  }
  return true;
}

HttpAnswer RawClient::answer() {
  HttpAnswer answer;
  std::string text;
  const auto more = [&] {
    const std::string next = receive(10s);
    text += next;
    return !next.empty();
  };
  while (text.find("\r\n\r\n") == std::string::npos) {
    if (!more()) return answer;
  }
  const std::size_t end = text.find("\r\n\r\n");
  answer.status = std::atoi(text.c_str() + 9);
  for (std::size_t at = text.find("\r\n") + 2; at < end;) {
    const std::size_t colon = text.find(':', at), stop = text.find("\r\n", at);
    std::string name = text.substr(at, colon - at);
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    answer.headers[name] = text.substr(colon + 2, stop - colon - 2);
    at = stop + 2;
  }
  text.erase(0, end + 4);
  if (answer.headers.contains("content-length")) {
    const std::size_t length = std::stoul(answer.headers["content-length"]);
    while (text.size() < length && more()) {
    }
    answer.body = text.substr(0, length);
    read_ = text.substr(std::min(length, text.size()));
    return answer;
  }
  while (true) {  // chunked
    while (text.find("\r\n") == std::string::npos) {
      if (!more()) return answer;
    }
    const std::size_t size = std::stoul(text, nullptr, 16), start = text.find("\r\n") + 2;
    while (text.size() < start + size + 2) {
      if (!more()) return answer;
    }
    answer.body += text.substr(start, size);
    text.erase(0, start + size + 2);
    if (size == 0) break;
  }
  read_ = text;
  return answer;
}

HttpAnswer call(std::uint16_t port, std::string_view method, std::string_view path, std::string_view body,
                std::string_view headers) {
  RawClient client(port);
  client.request(method, path, body, headers);
  return client.answer();
}

HttpAnswer call_tls(std::uint16_t port, std::string_view path) {
  asio::io_context io;
  asio::ssl::context context(asio::ssl::context::tls_client);
  asio::ssl::stream<asio::ip::tcp::socket> stream(io, context);
  stream.next_layer().connect({asio::ip::address_v4::loopback(), port});
  stream.handshake(asio::ssl::stream_base::client);
  asio::write(stream, asio::buffer("GET " + std::string(path) + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
  std::string text;
  boost::system::error_code error;
  asio::read(stream, asio::dynamic_buffer(text), error);
  HttpAnswer answer;
  answer.status = std::atoi(text.c_str() + 9);
  answer.body = text.substr(text.find("\r\n\r\n") + 4);
  return answer;
}

// ---- WebSocket ----

struct WsClient::State {
  asio::io_context io;
  websocket::stream<asio::ip::tcp::socket> socket{io};
  websocket::response_type response;
};

WsClient::WsClient(std::uint16_t port, const Options& options) : state_(std::make_unique<State>()) {
  auto& tcp = state_->socket.next_layer();
  tcp.open(asio::ip::tcp::v4());
  if (options.receive_buffer_bytes != 0)
    tcp.set_option(asio::socket_base::receive_buffer_size(options.receive_buffer_bytes));
  tcp.connect({asio::ip::address_v4::loopback(), port});
  if (options.deflate) {
    websocket::permessage_deflate deflate;
    deflate.client_enable = true;
    state_->socket.set_option(deflate);
  }
  state_->socket.set_option(websocket::stream_base::decorator([&](websocket::request_type& request) {
    for (const auto& [name, value] : options.headers) request.set(name, value);
  }));
  boost::system::error_code error;
  state_->socket.handshake(state_->response, "localhost:" + std::to_string(port), options.path, error);
  status_ = static_cast<int>(state_->response.result_int());
  if (error && status_ == 101) status_ = 0;
}

WsClient::~WsClient() = default;

std::string WsClient::header(std::string_view name) const {
  const auto value = state_->response[boost::beast::string_view(name.data(), name.size())];
  return {value.data(), value.size()};
}

void WsClient::send(std::string_view text) {
  boost::system::error_code error;
  state_->socket.write(asio::buffer(text.data(), text.size()), error);
}

std::optional<std::string> WsClient::read() {
  boost::beast::flat_buffer buffer;
  boost::system::error_code error;
  state_->socket.read(buffer, error);
  if (!error) return boost::beast::buffers_to_string(buffer.data());
  if (error == websocket::error::closed) close_code_ = state_->socket.reason().code;
  return std::nullopt;
}

std::string WsClient::read_until(std::string_view type) {
  while (auto message = read()) {
    if (member(*message, "type") == type) return *message;
  }
  return {};
}

std::string WsClient::read_text(std::string* last) {
  std::string text;
  while (auto message = read()) {
    const std::string type = member(*message, "type");
    if (type == "response.output_text.delta") text += member(*message, "delta");
    if (type == "error" || type == "response.completed" || type == "response.incomplete" || type == "response.failed") {
      if (last != nullptr) *last = *message;
      return text;
    }
  }
  if (last != nullptr) last->clear();
  return text;
}

void WsClient::close() {
  boost::system::error_code error;
  state_->socket.close(websocket::close_code::normal, error);
}

void WsClient::drop() {
  boost::system::error_code error;
  state_->socket.next_layer().set_option(asio::socket_base::linger(true, 0), error);
  state_->socket.next_layer().close(error);
}

void WsClient::vanish() { drop_all_that_arrives(state_->socket.next_layer().native_handle()); }

// ---- JSON ----

namespace {

const json::value* find(const json::value& value, std::string_view name) {
  if (const auto* object = value.if_object()) {
    if (const json::value* found = object->if_contains(name)) return found;
    for (const auto& [key, inner] : *object) {
      if (const json::value* found = find(inner, name)) return found;
    }
  } else if (const auto* array = value.if_array()) {
    for (const json::value& inner : *array) {
      if (const json::value* found = find(inner, name)) return found;
    }
  }
  return nullptr;
}

}  // namespace

std::string member(std::string_view text, std::string_view name) {
  boost::system::error_code error;
  const json::value value = json::parse(boost::json::string_view(text.data(), text.size()), error);
  if (error) return "(no JSON) " + std::string(text);
  const json::value* found = find(value, name);
  if (found == nullptr) return {};
  return found->is_string() ? std::string(found->get_string()) : json::serialize(*found);
}

std::string joined(std::string_view events, std::string_view name) {
  std::string text;
  while (!events.empty()) {
    const std::size_t end = std::min(events.find('\n'), events.size());
    std::string_view line = events.substr(0, end);
    events.remove_prefix(std::min(end + 1, events.size()));
    if (!line.starts_with("data: {")) continue;
    line.remove_prefix(6);
    const std::string type = member(line, "type");
    if (type.empty() || type == "response.output_text.delta") text += member(line, name);
  }
  return text;
}

// ---- TLS ----

Certificate::Certificate() {
  const std::string stem = "/tmp/spillway-test-" + std::to_string(::getpid());
  certificate = stem + ".crt";
  key = stem + ".key";
  EVP_PKEY* pair = EVP_EC_gen("P-256");
  X509* x509 = X509_new();
  ASN1_INTEGER_set(X509_get_serialNumber(x509), 1);
  X509_gmtime_adj(X509_get_notBefore(x509), -60);
  X509_gmtime_adj(X509_get_notAfter(x509), 3600);
  X509_set_pubkey(x509, pair);
  X509_NAME* name = X509_get_subject_name(x509);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("localhost"), -1, -1, 0);
  X509_set_issuer_name(x509, name);
  X509_sign(x509, pair, EVP_sha256());
  std::FILE* file = std::fopen(certificate.c_str(), "w");
  PEM_write_X509(file, x509);
  std::fclose(file);
  file = std::fopen(key.c_str(), "w");
  PEM_write_PrivateKey(file, pair, nullptr, nullptr, 0, nullptr, nullptr);
  std::fclose(file);
  X509_free(x509);
  EVP_PKEY_free(pair);
}

Certificate::~Certificate() {
  std::error_code ignored;
  std::filesystem::remove(certificate, ignored);
  std::filesystem::remove(key, ignored);
}

}  // namespace spillway::test
