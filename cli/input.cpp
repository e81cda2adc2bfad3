// SPDX-License-Identifier: Apache-2.0
#include "cli/input.hpp"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "cli/interrupt.hpp"

namespace spillway::cli {
namespace {

/// Appends up to 64 KiB; the number of bytes, 0 at the end, -1 with errno.
ssize_t read_some(int fd, std::string& buffer) {
  constexpr std::size_t kChunk = 65536;
  const std::size_t before = buffer.size();
  buffer.resize(before + kChunk);
  ssize_t count;
  do {
    count = ::read(fd, buffer.data() + before, kChunk);
  } while (count < 0 && errno == EINTR);
  buffer.resize(before + static_cast<std::size_t>(count > 0 ? count : 0));
  return count;
}

}  // namespace

Result<std::string> read_input(const std::filesystem::path& path) {
  const bool is_stdin = path == "-";
  const std::string name = is_stdin ? "stdin" : path.string();
  const int fd = is_stdin ? 0 : ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  std::string text;
  ssize_t count = fd < 0 ? -1 : 1;
  while (count > 0) count = read_some(fd, text);
  const int error = errno;
  if (fd > 0) ::close(fd);
  if (count == 0) return text;
  const Errc code = error == ENOENT || error == ENOTDIR ? Errc::kNotFound
                    : error == EISDIR                   ? Errc::kInvalidArgument
                                                        : Errc::kIo;
  return Error{code, name + ": " + std::strerror(error)};
}

std::string without_last_line_end(std::string text) {
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  return text;
}

LineReader::End LineReader::next(std::string& line) {
  for (;;) {
    const std::size_t end = buffer_.find('\n', scanned_);
    if (end != std::string::npos || (ended_ && !buffer_.empty())) {
      const std::size_t length = std::min(end, buffer_.size());
      line.assign(buffer_, 0, length);
      buffer_.erase(0, length + 1);
      scanned_ = 0;
      return End::kLine;
    }
    if (ended_) return End::kEnd;
    scanned_ = buffer_.size();
    pollfd waiting[2] = {{.fd = fd_, .events = POLLIN, .revents = 0},
                         {.fd = interrupt::wake_fd(), .events = POLLIN, .revents = 0}};
    if (::poll(waiting, 2, -1) < 0 && errno != EINTR) {
      error_ = errno;
      return End::kError;
    }
    if (interrupt::signal() != 0) return End::kSignal;
    if (waiting[0].revents == 0) continue;
    const ssize_t count = read_some(fd_, buffer_);
    if (count < 0) {
      error_ = errno;
      return End::kError;
    }
    ended_ = count == 0;
  }
}

}  // namespace spillway::cli
