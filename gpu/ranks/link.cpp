// SPDX-License-Identifier: Apache-2.0
#include "gpu/ranks/link.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

namespace spillway::gpu::ranks {
namespace {

using std::chrono::milliseconds;

constexpr std::size_t kHeaderBytes = 5;
constexpr std::size_t kReadBytes = std::size_t{64} << 10;
constexpr milliseconds kRetry{100};  // between two tries to connect

int left_ms(Clock::time_point deadline) {
  const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 1 << 30));
}

/// 1: ready; 0: not within the time.
int wait_for(int fd, short events, int ms) {
  pollfd poll{.fd = fd, .events = events, .revents = 0};
  const int ready = ::poll(&poll, 1, ms);
  return ready < 0 && errno == EINTR ? 0 : ready;
}

std::string place(const std::string& host, std::uint16_t port) {
  return (host.find(':') != std::string::npos ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

std::string name_of(const sockaddr_storage& address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (address.ss_family == AF_INET6) {
    const auto& six = reinterpret_cast<const sockaddr_in6&>(address);
    ::inet_ntop(AF_INET6, &six.sin6_addr, text.data(), text.size());
    return place(text.data(), ntohs(six.sin6_port));
  }
  const auto& four = reinterpret_cast<const sockaddr_in&>(address);
  ::inet_ntop(AF_INET, &four.sin_addr, text.data(), text.size());
  return place(text.data(), ntohs(four.sin_port));
}

bool is_loopback(const sockaddr* address) {
  if (address->sa_family == AF_INET6)
    return IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr);
  return ntohl(reinterpret_cast<const sockaddr_in*>(address)->sin_addr.s_addr) >> 24 == 127;
}

class Addresses {
 public:
  Addresses(const std::string& host, std::uint16_t port, int flags) {
    addrinfo wanted{};
    wanted.ai_family = AF_UNSPEC;
    wanted.ai_socktype = SOCK_STREAM;
    wanted.ai_flags = flags | AI_NUMERICSERV;
    failed_ = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &wanted, &first_);
  }
  ~Addresses() {
    if (first_ != nullptr) ::freeaddrinfo(first_);
  }
  Addresses(const Addresses&) = delete;
  Addresses& operator=(const Addresses&) = delete;
  [[nodiscard]] const addrinfo* first() const { return first_; }
  [[nodiscard]] std::string why() const { return failed_ != 0 ? ::gai_strerror(failed_) : "no address"; }

 private:
  addrinfo* first_ = nullptr;
  int failed_ = 0;
};

/// Small frames leave at once; a peer whose host is gone is noticed.
void prepare(int socket) {
  const int on = 1, idle_s = 5, between_s = 2, probes = 3;
  const unsigned unanswered_ms = std::chrono::milliseconds(kSilenceMax).count();
  (void)::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  (void)::setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  (void)::setsockopt(socket, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
  (void)::setsockopt(socket, IPPROTO_TCP, TCP_KEEPINTVL, &between_s, sizeof between_s);
  (void)::setsockopt(socket, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
  (void)::setsockopt(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, &unanswered_ms, sizeof unanswered_ms);
}

Error closed(const char* how) { return {Errc::kClosed, how}; }

/// A connected socket, or what errno says.
int try_connect(const addrinfo& to, Clock::time_point deadline) {
  const int fd = ::socket(to.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  if (::connect(fd, to.ai_addr, to.ai_addrlen) == 0) return fd;
  int failed = errno;
  if (failed == EINPROGRESS) {
    socklen_t size = sizeof failed;
    if (wait_for(fd, POLLOUT, std::min(left_ms(deadline), 5000)) > 0 &&
        ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &size) == 0 && failed == 0)
      return fd;
    if (failed == EINPROGRESS || failed == 0) failed = ETIMEDOUT;
  }
  ::close(fd);
  errno = failed;
  return -1;
}

}  // namespace

Result<std::unique_ptr<Link>> Link::connect(const std::string& host, std::uint16_t port,
                                            Clock::time_point deadline) {
  const Addresses addresses(host, port, 0);
  if (addresses.first() == nullptr)
    return Error{Errc::kInvalidArgument, place(host, port) + ": " + addresses.why()};
  while (true) {
    for (const addrinfo* to = addresses.first(); to != nullptr; to = to->ai_next)
      if (const int fd = try_connect(*to, deadline); fd >= 0)
        return std::make_unique<Link>(fd, place(host, port));
    const std::string why = std::strerror(errno);
    if (left_ms(deadline) <= kRetry.count())
      return Error{Errc::kDeadlineExceeded, place(host, port) + ": " + why};
    (void)::poll(nullptr, 0, static_cast<int>(kRetry.count()));
  }
}

Link::Link(int socket, std::string peer) : socket_(socket), peer_(std::move(peer)) { prepare(socket_); }

Link::~Link() { ::close(socket_); }

Result<void> Link::send(std::uint8_t kind, std::span<const std::byte> body) {
  std::array<std::byte, kHeaderBytes> header;
  const auto size = static_cast<std::uint32_t>(body.size());
  std::memcpy(header.data(), &size, sizeof size);
  header[4] = static_cast<std::byte>(kind);
  std::array<iovec, 2> parts{
      {{header.data(), header.size()}, {const_cast<std::byte*>(body.data()), body.size()}}};
  const Clock::time_point deadline = Clock::now() + kSilenceMax;
  const std::lock_guard lock(sending_);
  while (parts[0].iov_len + parts[1].iov_len > 0) {
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = parts.size();
    const ssize_t sent = ::sendmsg(socket_, &message, MSG_NOSIGNAL);
    if (sent >= 0) {
      auto done = static_cast<std::size_t>(sent);
      for (iovec& part : parts) {
        const std::size_t of_this = std::min(done, part.iov_len);
        part.iov_base = static_cast<char*>(part.iov_base) + of_this;
        part.iov_len -= of_this;
        done -= of_this;
      }
    } else if (errno == EAGAIN) {
      if (left_ms(deadline) == 0) return Error{Errc::kDeadlineExceeded, "it took nothing for 10 s"};
      (void)wait_for(socket_, POLLOUT, left_ms(deadline));
    } else if (errno != EINTR) {
      return closed(std::strerror(errno));
    }
  }
  return {};
}

/// False: nothing came in time.
Result<bool> Link::read_some(milliseconds wait) {
  if (received_.size() - filled_ < kReadBytes) received_.resize(filled_ + kReadBytes);
  for (bool waited = false;; waited = true) {
    const ssize_t got = ::recv(socket_, received_.data() + filled_, received_.size() - filled_, 0);
    if (got > 0) {
      filled_ += static_cast<std::size_t>(got);
      return true;
    }
    if (got == 0) return closed("it closed the connection");
    if (errno != EAGAIN && errno != EINTR) return closed(std::strerror(errno));
    if (waited || wait.count() == 0) return false;
    (void)wait_for(socket_, POLLIN, static_cast<int>(wait.count()));
  }
}

void Link::drop_last_frame() {
  if (taken_ == 0) return;
  std::memmove(received_.data(), received_.data() + taken_, filled_ - taken_);
  filled_ -= taken_;
  taken_ = 0;
}

Result<std::optional<Frame>> Link::whole_frame() {
  if (filled_ < kHeaderBytes) return std::optional<Frame>();
  std::uint32_t size = 0;
  std::memcpy(&size, received_.data(), sizeof size);
  if (size > frame_max_)
    return Error{Errc::kInvalidArgument, "it sent a frame of " + std::to_string(size) + " bytes"};
  if (filled_ < kHeaderBytes + size) return std::optional<Frame>();
  taken_ = kHeaderBytes + size;
  return std::optional(
      Frame{static_cast<std::uint8_t>(received_[4]), std::span(received_).subspan(kHeaderBytes, size)});
}

Result<std::optional<Frame>> Link::receive(milliseconds wait) {
  drop_last_frame();
  const Clock::time_point deadline = Clock::now() + wait;
  while (true) {
    Result<std::optional<Frame>> frame = whole_frame();
    if (!frame || *frame) return frame;
    const Result<bool> more = read_some(milliseconds(left_ms(deadline)));
    if (!more) return more.error();
    if (!*more && left_ms(deadline) == 0) return std::optional<Frame>();
  }
}

Result<Frame> Link::receive_by(Clock::time_point deadline) {
  Result<std::optional<Frame>> frame = receive(milliseconds(left_ms(deadline)));
  if (!frame) return frame.error();
  if (!*frame) return Error{Errc::kDeadlineExceeded, "nothing was heard of it in time"};
  return **frame;
}

Result<std::unique_ptr<Listener>> Listener::open(const std::string& host, std::uint16_t port) {
  const Addresses addresses(host, port, AI_PASSIVE);
  if (addresses.first() == nullptr)
    return Error{Errc::kInvalidArgument, place(host, port) + ": " + addresses.why()};
  const addrinfo& at = *addresses.first();
  const auto failed = [&](int fd) {
    const std::string why = std::strerror(errno);
    if (fd >= 0) ::close(fd);
    return Error{Errc::kIo, "cannot listen on " + place(host, port) + ": " + why};
  };
  const int fd = ::socket(at.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return failed(fd);
  const int on = 1;
  (void)::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(fd, at.ai_addr, at.ai_addrlen) != 0 || ::listen(fd, 64) != 0) return failed(fd);
  sockaddr_storage bound{};
  socklen_t size = sizeof bound;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) != 0) return failed(fd);
  const std::uint16_t port_number =
      ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(bound).sin6_port
                                        : reinterpret_cast<const sockaddr_in&>(bound).sin_port);
  return std::unique_ptr<Listener>(new Listener(fd, port_number, is_loopback(at.ai_addr)));
}

Listener::~Listener() { ::close(socket_); }

std::unique_ptr<Link> Listener::accept(milliseconds wait) {
  if (wait_for(socket_, POLLIN, static_cast<int>(wait.count())) <= 0) return nullptr;
  sockaddr_storage from{};
  socklen_t size = sizeof from;
  const int fd = ::accept4(socket_, reinterpret_cast<sockaddr*>(&from), &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
  return fd < 0 ? nullptr : std::make_unique<Link>(fd, name_of(from));
}

}  // namespace spillway::gpu::ranks
