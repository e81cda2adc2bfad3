// SPDX-License-Identifier: Apache-2.0
#pragma once

// Server: listens, and runs all sockets and timers on one I/O thread of its own. The functions are for the thread
// that made it; they may wait.

#include <chrono>
#include <memory>
#include <string>

#include "actors/engine.hpp"
#include "net/server_options.hpp"
#include "runtime/result.hpp"

namespace spillway::net {

class Server {
 public:
  /// Listens and answers at once: 503 until attach(). Errors name the option that is wrong.
  [[nodiscard]] static Result<std::unique_ptr<Server>> start(ServerOptions options);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// The engine serves from now on. It outlives stop().
  void attach(Engine& engine);
  /// Refuses what is new, lets what runs go on until `limit` has passed, then cuts it. True: nothing was cut. May be
  /// shortened by `hurry`, asked now and then.
  bool drain(std::chrono::milliseconds limit, const std::function<bool()>& hurry);
  /// Closes every connection and joins the I/O thread. Before the engine's shutdown.
  void stop();

  [[nodiscard]] std::uint16_t port() const noexcept;

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace spillway::net
