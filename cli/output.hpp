// SPDX-License-Identifier: Apache-2.0
#pragma once

// Writing to stdout and stderr. Unbuffered: every write is out when it returns. Used by one thread at a time.

#include <string>
#include <string_view>

namespace spillway::cli {

/// Writes everything, or returns the errno that stopped it (0: none).
[[nodiscard]] int write_all(int fd, std::string_view bytes);

/// stdout. After a failure nothing more is written: a closed pipe ends a command quietly, anything else (a
/// full disk, say) is an error.
class Output {
 public:
  Output();
  /// False once writing has failed.
  bool write(std::string_view text);
  /// The same, for text that a model wrote: on a terminal, control characters cannot reach the terminal's own
  /// ears.
  bool write_text(std::string_view text);
  [[nodiscard]] bool good() const noexcept { return error_ == 0; }
  [[nodiscard]] bool is_terminal() const noexcept { return is_terminal_; }
  /// The exit code that stdout's state asks for: 0, or 1 after saying what is wrong.
  [[nodiscard]] int finish() const;

 private:
  int error_ = 0;
  bool is_terminal_ = false;
};

/// Makes descriptors 0, 1 and 2 exist, so that no file or pipe of ours takes their place, and has a closed
/// pipe answer with EPIPE instead of a signal. Call first.
void prepare_standard_streams();

/// Control characters other than newline and tab as U+FFFD. Multi-byte characters pass, C1 controls excepted.
[[nodiscard]] std::string without_controls(std::string_view text);

[[nodiscard]] bool is_terminal(int fd);
/// Colour where `fd` is a terminal that can show it and NO_COLOR is not set.
[[nodiscard]] bool wants_colour(int fd);

}  // namespace spillway::cli
