// SPDX-License-Identifier: Apache-2.0
#pragma once

// Dialer: opens connections to one target, TCP or TLS. The name is looked up once. Used on the I/O thread
// only. Heavy to compile (Asio): include it from .cpp files only.

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <chrono>
#include <memory>

#include "net/load/target.hpp"
#include "net/net_stream.hpp"
#include "runtime/result.hpp"

namespace spillway::net::load {

class Dialer {
 public:
  Dialer(asio::io_context& io, Target target) : io_(&io), target_(std::move(target)) {}

  /// Blocks. Errors: kNotFound when the host has no address, kIo when no certificate authority can be read.
  [[nodiscard]] Result<void> prepare();
  /// A connected stream, TLS handshake done. Errors: kIo, "connect: ..." or "TLS handshake: ...".
  [[nodiscard]] asio::awaitable<Result<NetStream>> dial();

  [[nodiscard]] const Target& target() const noexcept { return target_; }
  [[nodiscard]] asio::io_context& io() noexcept { return *io_; }

 private:
  asio::io_context* io_;
  Target target_;
  asio::ip::tcp::resolver::results_type addresses_;
  std::unique_ptr<asio::ssl::context> tls_;
};

}  // namespace spillway::net::load
