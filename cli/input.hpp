// SPDX-License-Identifier: Apache-2.0
#pragma once

// Reading whole files and lines, by descriptor: nothing is read ahead that poll() would then not see.

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>

#include "runtime/result.hpp"

namespace spillway::cli {

/// The bytes of a file, or of stdin for "-". Errors: kNotFound, kInvalidArgument (a directory), kIo.
[[nodiscard]] Result<std::string> read_input(const std::filesystem::path& path);

/// Without its last line end, which an editor or `echo` put there.
[[nodiscard]] std::string without_last_line_end(std::string text);

/// Lines of a descriptor, without their line ends.
class LineReader {
 public:
  explicit LineReader(int fd) : fd_(fd) {}

  enum class End { kLine, kEnd, kSignal, kError };
  /// Waits for the next line; a last one may lack its newline. kSignal: interrupt::signal() is set, and what
  /// was typed stays with the terminal.
  [[nodiscard]] End next(std::string& line);
  [[nodiscard]] int error() const noexcept { return error_; }  // errno, after kError

 private:
  int fd_;
  int error_ = 0;
  bool ended_ = false;
  std::string buffer_;
  std::size_t scanned_ = 0;  // of buffer_, has no newline
};

}  // namespace spillway::cli
