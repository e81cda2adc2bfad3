// SPDX-License-Identifier: Apache-2.0
#pragma once

// Transport: sends prepared requests and follows their answers, any number at once. Lives on the I/O thread
// of a load run; keeps its connections for the next request.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "net/load/api_dialect.hpp"
#include "net/load/target.hpp"
#include "net/load/timeline.hpp"
#include "runtime/result.hpp"

namespace boost::asio {
class io_context;
}

namespace spillway::net::load {

/// The run's clock: ns since the origin, which is set when the run starts.
struct RunClock {
  NowNs now_ns;
  std::int64_t origin_ns = 0;

  [[nodiscard]] std::int64_t elapsed_ns() const { return now_ns() - origin_ns; }
};

struct TransportOptions {
  Dialect dialect = Dialect::kCompletions;
  Target target;
  bool keep_text = false;
  std::chrono::milliseconds request_timeout{std::chrono::hours(6)};
  std::size_t lanes = 1;  // WebSocket: responses in flight on one connection, 1 to 16
};

class Transport {
 public:
  virtual ~Transport() = default;
  /// Sends `body` and fills `line` from sent_ns on; `done` is called once, on the I/O thread, never from
  /// within send(). `line` must stay where it is until then.
  virtual void send(std::string body, Timeline& line, std::function<void()> done) = 0;
  /// Begins to close what is open.
  virtual void close() = 0;
  [[nodiscard]] virtual std::size_t connections_opened() const = 0;
};

/// Blocks for the look-up of the target's name. `clock` must outlive the transport. Errors: see
/// Dialer::prepare.
[[nodiscard]] Result<std::unique_ptr<Transport>> make_transport(boost::asio::io_context& io,
                                                                TransportOptions options,
                                                                const RunClock& clock);

// One for each kind; make_transport picks.
[[nodiscard]] Result<std::unique_ptr<Transport>> make_http_transport(boost::asio::io_context& io,
                                                                     TransportOptions options,
                                                                     const RunClock& clock);
[[nodiscard]] Result<std::unique_ptr<Transport>> make_websocket_transport(boost::asio::io_context& io,
                                                                          TransportOptions options,
                                                                          const RunClock& clock);

/// One plain request and its whole answer, up to 64 MiB; blocks. For /v1/models and /tokenize. An empty
/// `body` makes it a GET. Errors: kIo (no connection), kInvalidArgument (a status other than 200, with what
/// the server said).
[[nodiscard]] Result<std::string> fetch(const Target& target, std::string_view path, std::string_view body,
                                        std::chrono::milliseconds timeout);

}  // namespace spillway::net::load
