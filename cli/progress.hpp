// SPDX-License-Identifier: Apache-2.0
#pragma once

// Progress bars, of a batch and of the weights' way to the device: one line on stderr, and only where stderr
// is a terminal.

#include <cstdint>
#include <string>

namespace spillway::cli {

/// "[=====>    ]  12/100  345 tokens/s  0:12 left", at most `columns` wide.
[[nodiscard]] std::string progress_text(std::size_t done, std::size_t total, std::uint64_t tokens,
                                        double elapsed_s, int columns);

/// "[=====>    ] 3.2/13.5 GB of weights", at most `columns` wide.
[[nodiscard]] std::string weights_text(std::uint64_t done_bytes, std::uint64_t all_bytes, int columns);

class WeightsBar {
 public:
  WeightsBar();

  /// Draws anew, at most ten times a second.
  void update(std::uint64_t done_bytes, std::uint64_t all_bytes, double now_s);
  void clear();

 private:
  bool shown_ = false, drawn_ = false;
  double drawn_s_ = 0;
};

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
