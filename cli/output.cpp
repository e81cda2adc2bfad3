// SPDX-License-Identifier: Apache-2.0
#include "cli/output.hpp"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "cli/report.hpp"

namespace spillway::cli {

int write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno == EAGAIN) {  // somebody made the shared descriptor non-blocking
      pollfd waiting{.fd = fd, .events = POLLOUT, .revents = 0};
      static_cast<void>(::poll(&waiting, 1, -1));
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

Output::Output() : is_terminal_(cli::is_terminal(1)) {}

bool Output::write(std::string_view text) {
  if (error_ == 0) error_ = write_all(1, text);
  return error_ == 0;
}

bool Output::write_text(std::string_view text) {
  return is_terminal_ ? write(without_controls(text)) : write(text);
}

int Output::finish() const {
  if (error_ == 0 || error_ == EPIPE) return kDone;
  return complain(std::string("stdout: ") + std::strerror(error_), kFailed);
}

void prepare_standard_streams() {
  for (int fd = 0; fd <= 2; ++fd) {
    // The wrong direction on purpose: writing to a stdout that was closed must fail, not vanish.
    if (::fcntl(fd, F_GETFD) == -1 && errno == EBADF) {
      static_cast<void>(::open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY));
    }
  }
  std::signal(SIGPIPE, SIG_IGN);
}

std::string without_controls(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool c0 = (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7f;
    const bool c1 = byte == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0;
    if (c0 || c1) {
      out += "\xef\xbf\xbd";
      if (c1) ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

bool is_terminal(int fd) { return ::isatty(fd) == 1; }

bool wants_colour(int fd) {
  const char* no_colour = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  return is_terminal(fd) && (no_colour == nullptr || *no_colour == '\0') &&
         (term == nullptr || std::strcmp(term, "dumb") != 0);
}

}  // namespace spillway::cli
