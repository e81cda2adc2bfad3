// SPDX-License-Identifier: Apache-2.0
#pragma once

// A batch's progress bar: one line on stderr, and only where stderr is a terminal.

#include <cstdint>
#include <string>

namespace spillway::cli {

/// "[=====>    ]  12/100  345 tokens/s  0:12 left", at most `columns` wide.
[[nodiscard]] std::string progress_text(std::size_t done, std::size_t total, std::uint64_t tokens,
                                        double elapsed_s, int columns);

class ProgressBar {
 public:
  explicit ProgressBar(std::size_t total);
  ~ProgressBar() { clear(); }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void tokens_came(std::size_t count) { tokens_ += count; }
  void request_done() { ++done_; }
  /// Draws anew, at most ten times a second.
  void update(double now_s);
  /// Takes the bar off the screen, before something else is written there.
  void clear();

 private:
  bool shown_ = false, drawn_ = false;
  std::size_t done_ = 0, total_ = 0;
  std::uint64_t tokens_ = 0;
  double start_s_ = -1, drawn_s_ = 0;
};

}  // namespace spillway::cli
