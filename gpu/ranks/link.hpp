// SPDX-License-Identifier: Apache-2.0
#pragma once

// Link: one TCP connection between two nodes, which carries frames: a 32-bit length of the body, a kind, the
// body. Plain POSIX sockets: Boost.Asio belongs to net/, above, and what is needed here is a blocking send,
// and a receive that can be told how long to wait. Sends go out at once (TCP_NODELAY) and from any thread;
// one thread at a time receives.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/result.hpp"

namespace spillway::gpu::ranks {

using Clock = std::chrono::steady_clock;

inline constexpr std::size_t kStrangersFrameMax = 1024;           // bytes, of who has not shown the key yet
inline constexpr std::size_t kFrameMax = std::size_t{256} << 20;  // bytes
inline constexpr std::chrono::seconds kSilenceMax{
    10};  // a node that is not heard of, or takes nothing, for so long is lost

struct Frame {
  std::uint8_t kind = 0;
  std::span<const std::byte> body;  // until the next receive
};

class Link {
 public:
  /// Errors: kIo, kDeadlineExceeded; they name host and port.
  [[nodiscard]] static Result<std::unique_ptr<Link>> connect(const std::string& host, std::uint16_t port,
                                                             Clock::time_point deadline);
  /// Takes over a connected socket.
  Link(int socket, std::string peer);
  ~Link();
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  /// Errors: kClosed, kIo; kDeadlineExceeded after kSilenceMax.
  [[nodiscard]] Result<void> send(std::uint8_t kind, std::span<const std::byte> body = {});
  /// The next frame, or empty when none has come within `wait`. Errors: kClosed when the peer ended, kIo,
  /// kInvalidArgument for a frame longer than the limit.
  [[nodiscard]] Result<std::optional<Frame>> receive(std::chrono::milliseconds wait);
  /// The same, until `deadline`. Errors: kDeadlineExceeded too.
  [[nodiscard]] Result<Frame> receive_by(Clock::time_point deadline);

  void limit_frames(std::size_t bytes) noexcept { frame_max_ = bytes; }
  [[nodiscard]] const std::string& peer() const noexcept { return peer_; }  // "10.0.0.2:41300"
  [[nodiscard]] int fd() const noexcept { return socket_; }

 private:
  [[nodiscard]] Result<bool> read_some(std::chrono::milliseconds wait);
  [[nodiscard]] Result<std::optional<Frame>> whole_frame();
  void drop_last_frame();

  int socket_;
  std::string peer_;
  std::size_t frame_max_ = kStrangersFrameMax;
  std::vector<std::byte> received_;  // [0, filled_) has come; the first taken_ bytes were given out
  std::size_t filled_ = 0, taken_ = 0;
  std::mutex sending_;
};

/// Where a node waits for the others.
class Listener {
 public:
  /// Errors: kIo, kInvalidArgument; they name host and port. `port` 0: any free one.
  [[nodiscard]] static Result<std::unique_ptr<Listener>> open(const std::string& host, std::uint16_t port);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  /// Empty when nobody has come within `wait`.
  [[nodiscard]] std::unique_ptr<Link> accept(std::chrono::milliseconds wait);
  [[nodiscard]] std::uint16_t port() const noexcept { return port_; }
  [[nodiscard]] bool on_loopback() const noexcept { return loopback_; }  // only this host reaches it

 private:
  Listener(int socket, std::uint16_t port, bool loopback)
      : socket_(socket), port_(port), loopback_(loopback) {}
  int socket_;
  std::uint16_t port_;
  bool loopback_;
};

}  // namespace spillway::gpu::ranks
