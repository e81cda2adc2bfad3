// SPDX-License-Identifier: Apache-2.0
#pragma once

// A server in this process on a loopback port, with the real engine on the simulated device, and plain clients for it.
// The clients block; whatever hangs is ended by the test's timeout.

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "actors/engine.hpp"
#include "net/server.hpp"

namespace spillway::test {

class ServerFixture {
 public:
  using ChangeServer = std::function<void(net::ServerOptions&)>;
  using ChangeEngine = std::function<void(EngineOptions&)>;
  /// Null, with a warning, when the model was not fetched (./dev model).
  static std::unique_ptr<ServerFixture> start(const ChangeServer& server = {}, const ChangeEngine& engine = {},
                                              bool attach = true);
  ~ServerFixture();

  net::Server& server() { return *server_; }
  Engine& engine() { return *engine_; }
  std::uint16_t port() const { return server_->port(); }
  void attach() { server_->attach(*engine_); }
  /// Until nothing runs and no KV block is held. False after 5 s.
  bool comes_to_rest();
  /// Until `done` says so. False after 5 s.
  static bool eventually(const std::function<bool()>& done);

 private:
  ServerFixture() = default;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<net::Server> server_;
};

struct HttpAnswer {
  int status = 0;  // 0: the connection was closed without an answer
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
};

/// A TCP connection that sends what it is told, byte by byte if need be.
class RawClient {
 public:
  explicit RawClient(std::uint16_t port, int receive_buffer_bytes = 0);
  ~RawClient();
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  void send(std::string_view data);
  void request(std::string_view method, std::string_view path, std::string_view body = {}, std::string_view headers = {});
  HttpAnswer answer();
  /// What has come by now, waiting up to `limit` for the first byte; empty when nothing came or it is closed.
  std::string receive(std::chrono::milliseconds limit);
  /// Reads until `text` was seen.
  bool wait_for(std::string_view text);
  bool closed_within(std::chrono::milliseconds limit);
  void drop();  // with a reset: unread data is thrown away
  /// As if its machine had lost its network: nothing that the server sends arrives, nothing is acknowledged.
  void vanish();

 private:
  int fd_ = -1;
  std::string read_;
};

HttpAnswer call(std::uint16_t port, std::string_view method, std::string_view path, std::string_view body = {},
                std::string_view headers = {});
/// The same over TLS; any certificate will do.
HttpAnswer call_tls(std::uint16_t port, std::string_view path);

class WsClient {
 public:
  struct Options {
    std::string path = "/v1/responses";
    std::map<std::string, std::string> headers;
    bool deflate = false;
    int receive_buffer_bytes = 0;
  };
  WsClient(std::uint16_t port, const Options& options);
  explicit WsClient(std::uint16_t port) : WsClient(port, Options{}) {}
  ~WsClient();

  bool open() const { return status_ == 101; }
  int status() const { return status_; }  // of the handshake
  std::string header(std::string_view name) const;
  void send(std::string_view text);
  /// The next message; empty once closed.
  std::optional<std::string> read();
  /// Reads until an event of this type; what came before is dropped. Empty when closed first.
  std::string read_until(std::string_view type);
  /// All deltas of the next response put together, until its terminal event or an error, which `last` gets.
  std::string read_text(std::string* last = nullptr);
  int close_code() const { return close_code_; }
  void close();
  void drop();
  void vanish();  // as RawClient's

 private:
  struct State;
  std::unique_ptr<State> state_;
  int status_ = 0, close_code_ = 0;
};

/// The value of a member, found by name wherever it is: good enough for flat test data.
std::string member(std::string_view json, std::string_view name);
/// All `content`, `text` or `delta` strings of an event stream put together.
std::string joined(std::string_view events, std::string_view name);

/// A self-signed certificate and its key, as PEM files.
struct Certificate {
  std::filesystem::path certificate, key;
  Certificate();
  ~Certificate();
};

}  // namespace spillway::test
