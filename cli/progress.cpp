// SPDX-License-Identifier: Apache-2.0
#include "cli/progress.hpp"

#include <sys/ioctl.h>

#include <algorithm>
#include <cstdio>

#include "cli/output.hpp"

namespace spillway::cli {
namespace {

int columns_of(int fd) {
  winsize size{};
  return ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

/// A bar as long as fits before `right`.
std::string with_bar(std::uint64_t done, std::uint64_t total, const std::string& right, int columns) {
  const int room = std::min(columns - 1 - static_cast<int>(right.size()) - 2, 40);
  std::string text;
  if (room >= 5) {
    const auto cells = static_cast<std::size_t>(room);
    const std::size_t full = total == 0 ? cells : cells * std::min(done, total) / total;
    text =
        "[" + std::string(full, '=') + (full < cells ? ">" + std::string(cells - full - 1, ' ') : "") + "]";
  }
  text += right;
  return text.substr(0, static_cast<std::size_t>(std::max(columns - 1, 0)));
}

}  // namespace

std::string progress_text(std::size_t done, std::size_t total, std::uint64_t tokens, double elapsed_s,
                          int columns) {
  char right[96];
  int length = std::snprintf(right, sizeof right, " %zu/%zu", done, total);
  if (elapsed_s > 0.5) {  // rates of less say nothing
    length += std::snprintf(right + length, sizeof right - static_cast<std::size_t>(length),
                            "  %.0f tokens/s", static_cast<double>(tokens) / elapsed_s);
    if (done > 0 && done < total) {
      const double left_s = elapsed_s / static_cast<double>(done) * static_cast<double>(total - done);
      const auto left = static_cast<long long>(std::min(left_s, 359999.0) + 0.5);
      length += left < 3600
                    ? std::snprintf(right + length, sizeof right - static_cast<std::size_t>(length),
                                    "  %lld:%02lld left", left / 60, left % 60)
                    : std::snprintf(right + length, sizeof right - static_cast<std::size_t>(length),
                                    "  %lld:%02lld:%02lld left", left / 3600, left / 60 % 60, left % 60);
    }
  }
  return with_bar(done, total, right, columns);
}

std::string weights_text(std::uint64_t done_bytes, std::uint64_t all_bytes, int columns) {
  char right[64];
  const bool large = all_bytes >= 1'000'000'000;
  const double unit = large ? 1e9 : 1e6;
  std::snprintf(right, sizeof right, " %.*f/%.*f %s of weights", large ? 1 : 0,
                static_cast<double>(done_bytes) / unit, large ? 1 : 0, static_cast<double>(all_bytes) / unit,
                large ? "GB" : "MB");
  return with_bar(done_bytes, all_bytes, right, columns);
}

WeightsBar::WeightsBar() : shown_(is_terminal(2)) {}

void WeightsBar::clear() {
  if (drawn_) static_cast<void>(write_all(2, "\r\x1b[K"));
  drawn_ = false;
}

void WeightsBar::update(std::uint64_t done_bytes, std::uint64_t all_bytes, double now_s) {
  if (!shown_ || (drawn_ && now_s - drawn_s_ < 0.1)) return;
  static_cast<void>(write_all(2, "\r" + weights_text(done_bytes, all_bytes, columns_of(2)) + "\x1b[K"));
  drawn_ = true;
  drawn_s_ = now_s;
}

ProgressBar::ProgressBar(std::size_t total) : shown_(is_terminal(2)), total_(total) {}

void ProgressBar::update(double now_s) {
  if (!shown_) return;
  if (start_s_ < 0) start_s_ = now_s;
  if (drawn_ && now_s - drawn_s_ < 0.1) return;
  // "\x1b[K" erases what a longer bar left.
  const std::string bar =
      "\r" + progress_text(done_, total_, tokens_, now_s - start_s_, columns_of(2)) + "\x1b[K";
  static_cast<void>(write_all(2, bar));
  drawn_ = true;
  drawn_s_ = now_s;
}

void ProgressBar::clear() {
  if (!drawn_) return;
  static_cast<void>(write_all(2, "\r\x1b[K"));
  drawn_ = false;
  drawn_s_ = 0;
}

}  // namespace spillway::cli
