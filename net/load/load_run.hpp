// SPDX-License-Identifier: Apache-2.0
#pragma once

// A load run: sends prepared requests when they are due and waits for their answers. The calling thread does
// all of it. Open loop: absolute times, whatever the server does. With max_concurrency, a due request waits
// for a free slot; that wait is the client's queue and counts in the latency from the due time. Closed loop:
// no times, each request is due when its slot comes free.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "net/load/timeline.hpp"
#include "net/load/transport.hpp"

namespace spillway::net::load {

struct PreparedRequest {
  std::int64_t at_ns = 0;
  std::string body;
  std::uint32_t prompt_tokens = 0;
};

struct RunOptions {
  TransportOptions transport;
  std::size_t max_concurrency = 0;  // 0: no limit
  bool closed_loop = false;         // needs max_concurrency
  std::size_t warm_ups = 0;         // copies of the first request, before the run, not measured
  NowNs now_ns = nullptr;
};

struct RunView {
  std::int64_t elapsed_ns;
  std::size_t sent, done, failed, in_flight, queued;
  std::span<const Timeline> lines;
};

class RunObserver {
 public:
  virtual ~RunObserver() = default;
  /// Five times a second, on the I/O thread: be quick.
  virtual void on_tick(const RunView& view) = 0;
  /// Asked as often: true ends the run, and what is open counts as failed.
  [[nodiscard]] virtual bool wants_end() = 0;
};

struct RunResult {
  std::vector<Timeline> lines;  // of the requests, in order
  double duration_s = 0;        // from the start to the last answer's end
  bool interrupted = false;
  std::size_t connections_opened = 0;
};

/// Errors: the target cannot be looked up, or every warm-up failed (with the reason).
[[nodiscard]] Result<RunResult> run_load(std::vector<PreparedRequest> requests, RunOptions options,
                                         RunObserver& observer);

}  // namespace spillway::net::load
