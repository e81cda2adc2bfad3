// SPDX-License-Identifier: Apache-2.0
#pragma once

// The live view of a load run: a few lines on stderr, redrawn in place, only where stderr is a terminal.

#include <cstdint>
#include <deque>
#include <string>

#include "net/load/load_run.hpp"
#include "net/load/result_json.hpp"

namespace spillway::cli {

/// What the view shows.
struct LiveFigures {
  double elapsed_s = 0;
  std::size_t total = 0, sent = 0, done = 0, failed = 0, in_flight = 0, queued = 0;
  double requests_per_s = 0, tokens_per_s = 0;  // over the last seconds
  double ttft_p50_ms = 0, ttft_p99_ms = 0, itl_p50_ms = 0, itl_p99_ms = 0, lag_p99_ms = 0;
  std::deque<double> tokens_per_s_history;  // one entry a tick
};

/// Lines without the last newline, each at most `columns` - 1 cells wide.
[[nodiscard]] std::string live_text(const LiveFigures& figures, int columns, bool colour);

class LiveView final : public net::load::RunObserver {
 public:
  LiveView(const net::load::RunLabel& label, bool wanted);
  ~LiveView() override { clear(); }

  void on_tick(const net::load::RunView& view) override;
  [[nodiscard]] bool wants_end() override;
  /// Takes the view off the screen.
  void clear();

 private:
  /// The newest answers, for percentiles of what happens now.
  void look_at(const net::load::RunView& view);

  std::size_t total_;
  bool shown_, colour_;
  int lines_drawn_ = 0;
  LiveFigures figures_;
  std::size_t first_open_ = 0;            // all requests before it have ended
  std::uint64_t tokens_before_open_ = 0;  // of those
  struct Tick {
    double at_s;
    std::size_t done;
    std::uint64_t tokens;
  };
  std::deque<Tick> ticks_;
};

}  // namespace spillway::cli
