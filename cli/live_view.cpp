// SPDX-License-Identifier: Apache-2.0
#include "cli/live_view.hpp"

#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstdio>
#include <vector>

#include "cli/interrupt.hpp"
#include "cli/output.hpp"

namespace spillway::cli {

namespace load = net::load;

namespace {

constexpr std::size_t kRecentRequests = 500;  // that percentiles are taken of
constexpr std::size_t kHistory = 120;
constexpr double kRateWindow_s = 3;

int columns_of(int fd) {
  winsize size{};
  return ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

[[gnu::format(printf, 1, 2)]] std::string format(const char* pattern, ...) {
  char text[256];
  va_list arguments;
  va_start(arguments, pattern);
  std::vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  return text;
}

/// One block character an entry, the highest being the full one.
std::string sparkline(const std::deque<double>& values, std::size_t cells) {
  constexpr std::array kBars{"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  const std::size_t count = std::min(values.size(), cells);
  double most = 0;
  for (std::size_t i = values.size() - count; i < values.size(); ++i) most = std::max(most, values[i]);
  std::string text;
  for (std::size_t i = values.size() - count; i < values.size(); ++i) {
    const double share = most > 0 ? values[i] / most : 0;
    text += kBars[std::min<std::size_t>(kBars.size() - 1, static_cast<std::size_t>(share * kBars.size()))];
  }
  return text;
}

std::string bar(std::size_t done, std::size_t sent, std::size_t total, std::size_t cells) {
  std::string text;
  for (std::size_t i = 0; i < cells; ++i) {
    const std::size_t at = (i + 1) * total;
    text += at <= done * cells ? "█" : at <= sent * cells ? "▒" : "·";
  }
  return text;
}

}  // namespace

std::string live_text(const LiveFigures& figures, int columns, bool colour) {
  const auto room = static_cast<std::size_t>(std::max(columns - 1, 20));
  const std::string counts = format(" %zu/%zu  %.0f s", figures.done, figures.total, figures.elapsed_s);
  std::vector<std::string> lines;
  const std::size_t cells = std::min<std::size_t>(room - std::min(room - 5, counts.size() + 1), 50);
  lines.emplace_back(bar(figures.done, figures.sent, std::max<std::size_t>(figures.total, 1), cells) +
                     counts);
  const auto plain = [&](const std::string& text) { lines.push_back(text.substr(0, room)); };
  plain(format("in flight %-6zu queued %-6zu failed %-6zu %.1f req/s", figures.in_flight, figures.queued,
               figures.failed, figures.requests_per_s));
  plain(format("TTFT p50 %.1f p99 %.1f ms   ITL p50 %.1f p99 %.1f ms   lag p99 %.2f ms", figures.ttft_p50_ms,
               figures.ttft_p99_ms, figures.itl_p50_ms, figures.itl_p99_ms, figures.lag_p99_ms));
  const std::string rate = format("%.0f tok/s ", figures.tokens_per_s);
  lines.emplace_back(rate + sparkline(figures.tokens_per_s_history, room - std::min(room, rate.size())));
  std::string text;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i != 0) text += '\n';
    const bool dim = colour && i == 2;
    text += (dim ? "\x1b[2m" : "") + lines[i] + (dim ? "\x1b[0m" : "");
  }
  return text;
}

LiveView::LiveView(const load::RunLabel& label, bool wanted)
    : total_(label.num_prompts), shown_(wanted && is_terminal(2)), colour_(wants_colour(2)) {}

bool LiveView::wants_end() { return interrupt::signal() != 0; }

void LiveView::look_at(const load::RunView& view) {
  std::uint64_t tokens = tokens_before_open_;
  std::vector<double> ttft, itl, lag;
  const std::size_t recent = view.sent - std::min(view.sent, kRecentRequests);
  for (std::size_t i = first_open_; i < view.sent && i < view.lines.size(); ++i) {
    const load::Timeline& line = view.lines[i];
    const bool ended = line.ok || !line.error.empty();
    if (ended && i == first_open_) {
      tokens_before_open_ += line.token_ns.size();
      ++first_open_;
    }
    tokens += line.token_ns.size();
  }
  for (std::size_t i = recent; i < view.sent && i < view.lines.size(); ++i) {
    const load::Timeline& line = view.lines[i];
    if (line.sent_ns >= 0) lag.push_back(static_cast<double>(line.sent_ns - line.slot_ns) * 1e-6);
    if (line.token_ns.empty()) continue;
    ttft.push_back(static_cast<double>(line.token_ns.front() - line.sent_ns) * 1e-6);
    const std::size_t newest = line.token_ns.size() - std::min<std::size_t>(line.token_ns.size(), 20);
    for (std::size_t k = std::max<std::size_t>(newest, 1); k < line.token_ns.size(); ++k)
      itl.push_back(static_cast<double>(line.token_ns[k] - line.token_ns[k - 1]) * 1e-6);
  }
  for (std::vector<double>* values : {&ttft, &itl, &lag}) std::sort(values->begin(), values->end());
  figures_.ttft_p50_ms = load::percentile(ttft, 50);
  figures_.ttft_p99_ms = load::percentile(ttft, 99);
  figures_.itl_p50_ms = load::percentile(itl, 50);
  figures_.itl_p99_ms = load::percentile(itl, 99);
  figures_.lag_p99_ms = load::percentile(lag, 99);

  const Tick now{static_cast<double>(view.elapsed_ns) * 1e-9, view.done, tokens};
  if (!ticks_.empty() && now.at_s > ticks_.back().at_s) {
    figures_.tokens_per_s_history.push_back(static_cast<double>(now.tokens - ticks_.back().tokens) /
                                            (now.at_s - ticks_.back().at_s));
    if (figures_.tokens_per_s_history.size() > kHistory) figures_.tokens_per_s_history.pop_front();
  }
  ticks_.push_back(now);
  while (ticks_.size() > 2 && now.at_s - ticks_.front().at_s > kRateWindow_s) ticks_.pop_front();
  const double window_s = now.at_s - ticks_.front().at_s;
  if (window_s > 0) {
    figures_.tokens_per_s = static_cast<double>(now.tokens - ticks_.front().tokens) / window_s;
    figures_.requests_per_s = static_cast<double>(now.done - ticks_.front().done) / window_s;
  }
}

void LiveView::on_tick(const load::RunView& view) {
  if (!shown_) return;
  look_at(view);
  figures_.elapsed_s = static_cast<double>(view.elapsed_ns) * 1e-9;
  figures_.total = total_;
  figures_.sent = view.sent;
  figures_.done = view.done;
  figures_.failed = view.failed;
  figures_.in_flight = view.in_flight;
  figures_.queued = view.queued;
  const std::string text = live_text(figures_, columns_of(2), colour_);
  clear();
  static_cast<void>(write_all(2, text));
  lines_drawn_ = 1 + static_cast<int>(std::count(text.begin(), text.end(), '\n'));
}

void LiveView::clear() {
  if (lines_drawn_ == 0) return;
  std::string text = "\r";
  if (lines_drawn_ > 1) text += "\x1b[" + std::to_string(lines_drawn_ - 1) + "A";
  static_cast<void>(write_all(2, text + "\x1b[J"));
  lines_drawn_ = 0;
}

}  // namespace spillway::cli
