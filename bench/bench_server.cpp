// SPDX-License-Identifier: Apache-2.0
// bench_server PORT STREAMS TOKENS SECONDS [IDLE]: what the server itself costs. STREAMS WebSocket connections ask for
// TOKENS tokens again and again for SECONDS beside IDLE silent connections; one thread, epoll, no JSON parser, so that
// little of the machine goes to the client. Run it against `spillway serve MODEL --simulate-device`, whose steps take no time.
// Prints one JSON line.

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

struct Connection {
  int fd = -1;
  bool open = false;      // the handshake is done
  std::size_t from = 0;   // bytes of `in` that were read
  std::string in;
  std::uint64_t tokens = 0, deltas = 0, responses = 0;
};

std::string frame(std::string_view text) {
  std::string out = "\x81";
  if (text.size() < 126) {
    out += static_cast<char>(0x80 | text.size());
  } else {
    out += static_cast<char>(0x80 | 126);
    out += static_cast<char>(text.size() >> 8);
    out += static_cast<char>(text.size());
  }
  out.append(4, '\0');  // a mask of zeros
  return out.append(text);
}

int dial(std::uint16_t port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (fd < 0 || ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    std::fprintf(stderr, "bench_server: cannot connect: %s\n", std::strerror(errno));
    std::exit(1);
  }
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  const std::string hello =
      "GET /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
  if (::send(fd, hello.data(), hello.size(), MSG_NOSIGNAL) < 0) std::exit(1);
  ::fcntl(fd, F_SETFL, O_NONBLOCK);
  return fd;
}

class Load {
 public:
  Load(std::size_t streams, std::size_t tokens, std::size_t idle)
      : all_(streams + idle), streams_(streams), epoll_(::epoll_create1(0)) {
    for (std::size_t i = 0; i < streams; ++i) {
      asks_.push_back(frame(R"({"type":"response.create","store":false,"temperature":0,"ignore_eos":true,"input":"stream )" +
                            std::to_string(i) + R"(","max_output_tokens":)" + std::to_string(tokens) + "}"));
    }
  }

  void connect(std::uint16_t port) {
    for (std::size_t i = 0; i < all_.size(); ++i) {
      all_[i].fd = dial(port);
      epoll_event event{.events = EPOLLIN, .data = {.u64 = i}};
      ::epoll_ctl(epoll_, EPOLL_CTL_ADD, all_[i].fd, &event);
      if (i % 64 == 0) turn(0);
    }
    while (opened_ < all_.size() && errors_ == 0) turn(100);
  }

  void begin() {
    for (Connection& connection : all_) connection.tokens = connection.deltas = connection.responses = 0;
    errors_ = 0;
    asking_ = true;
    for (std::size_t i = 0; i < streams_; ++i) ask(i);
  }

  void turn(int wait_ms) {
    epoll_event events[256];
    const int count = ::epoll_wait(epoll_, events, 256, wait_ms);
    for (int k = 0; k < count; ++k) read(events[k].data.u64);
  }

  void print(double seconds) const {
    std::vector<double> rates;
    std::uint64_t tokens = 0, deltas = 0, responses = 0;
    for (std::size_t i = 0; i < streams_; ++i) {
      rates.push_back(static_cast<double>(all_[i].tokens) / seconds);
      tokens += all_[i].tokens;
      deltas += all_[i].deltas;
      responses += all_[i].responses;
    }
    std::ranges::sort(rates);
    rusage used{};
    ::getrusage(RUSAGE_SELF, &used);
    const double cpu = static_cast<double>(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                       static_cast<double>(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    std::printf(R"({"bench":"server","streams":%zu,"idle":%zu,"seconds":%.1f,"tokens_per_s":%.0f,"deltas_per_s":%.0f,)"
                R"("responses":%llu,"errors":%llu,"slowest_over_median":%.2f,"client_cpu_s":%.1f})"
                "\n",
                streams_, all_.size() - streams_, seconds, static_cast<double>(tokens) / seconds,
                static_cast<double>(deltas) / seconds, static_cast<unsigned long long>(responses),
                static_cast<unsigned long long>(errors_),
                rates.empty() ? 0 : rates.front() / std::max(1e-9, rates[rates.size() / 2]), cpu);
  }

 private:
  void ask(std::size_t i) {
    const std::string& text = asks_[i];
    if (::send(all_[i].fd, text.data(), text.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(text.size())) ++errors_;
  }

  void read(std::size_t i) {
    static char buffer[1 << 16];
    Connection& c = all_[i];
    const ssize_t count = ::recv(c.fd, buffer, sizeof buffer, 0);
    if (count <= 0) {
      if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
      ++errors_;
      ::close(c.fd);
      return;
    }
    c.in.append(buffer, static_cast<std::size_t>(count));
    if (!c.open) {
      const std::size_t end = c.in.find("\r\n\r\n");
      if (end == std::string::npos) return;
      if (!c.in.starts_with("HTTP/1.1 101")) ++errors_;
      c.open = true;
      ++opened_;
      c.in.erase(0, end + 4);
    }
    c.from = 0;
    while (next_frame(i)) {
    }
    c.in.erase(0, c.from);
  }

  bool next_frame(std::size_t i) {
    Connection& c = all_[i];
    const std::string_view in = std::string_view(c.in).substr(c.from);
    if (in.size() < 2) return false;
    std::size_t length = static_cast<unsigned char>(in[1]) & 127, head = 2;
    const std::size_t more = length == 126 ? 2 : length == 127 ? 8 : 0;
    if (more != 0) {
      head += more;
      if (in.size() < head) return false;
      length = 0;
      for (std::size_t k = 0; k < more; ++k) length = length << 8 | static_cast<unsigned char>(in[2 + k]);
    }
    if (in.size() < head + length) return false;
    if ((in[0] & 15) == 1) message(i, in.substr(head, length));
    if ((in[0] & 15) == 9) {  // ping
      const std::string pong("\x8a\x80\0\0\0\0", 6);
      ::send(c.fd, pong.data(), pong.size(), MSG_NOSIGNAL);
    }
    c.from += head + length;
    return true;
  }

  void message(std::size_t i, std::string_view text) {
    constexpr std::string_view kDelta = R"({"type":"response.output_text.delta")", kEnd = R"({"type":"response.incomplete")";
    Connection& c = all_[i];
    if (text.starts_with(kDelta)) {
      ++c.deltas;
    } else if (text.starts_with(kEnd)) {
      constexpr std::string_view kTokens = R"("output_tokens":)";
      const std::size_t at = text.rfind(kTokens);
      if (at != std::string_view::npos) c.tokens += std::strtoull(text.data() + at + kTokens.size(), nullptr, 10);
      ++c.responses;
      if (asking_) ask(i);
    } else if (text.starts_with(R"({"type":"error")") || text.starts_with(R"({"type":"response.failed")")) {
      std::fprintf(stderr, "bench_server: %.*s\n", static_cast<int>(text.size()), text.data());
      ++errors_;
    }
  }

  std::vector<Connection> all_;
  std::vector<std::string> asks_;
  std::size_t streams_, opened_ = 0;
  int epoll_;
  std::uint64_t errors_ = 0;
  bool asking_ = false;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: bench_server PORT STREAMS TOKENS SECONDS [IDLE]\n");
    return 2;
  }
  const auto number = [&](int i) { return std::strtoul(argv[i], nullptr, 10); };
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
  Load load(number(2), number(3), argc > 5 ? number(5) : 0);
  load.connect(static_cast<std::uint16_t>(number(1)));
  load.begin();
  const auto start = Clock::now();
  const auto end = start + std::chrono::seconds(number(4));
  while (Clock::now() < end) load.turn(50);
  load.print(std::chrono::duration<double>(Clock::now() - start).count());
}
