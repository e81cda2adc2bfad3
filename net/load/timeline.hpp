// SPDX-License-Identifier: Apache-2.0
#pragma once

// Timeline: when what happened to one request. Written by the run and its transport on the I/O thread, read
// after. All times are on one monotonic clock, ns from the start of the run; -1: has not happened.

#include <cstdint>
#include <string>
#include <vector>

namespace spillway::net::load {

/// Reads a monotonic clock, ns. The programs bring it; nothing in net/ reads one.
using NowNs = std::int64_t (*)();

struct Timeline {
  std::int64_t scheduled_ns = -1;  // when it was due
  std::int64_t slot_ns = -1;       // when --max-concurrency let it go; scheduled_ns if that did not hold it
  std::int64_t sent_ns =
      -1;  // when the transport took it; setting a connection up counts as the server's time
  std::vector<std::int64_t> token_ns;  // arrivals of pieces of text, ascending
  std::int64_t end_ns = -1;            // the answer is whole, or has failed

  std::uint32_t prompt_tokens = 0;  // the dataset's figure, then the server's if it gives one
  std::uint32_t output_tokens = 0;  // the server's figure, or the pieces of text
  bool counted_by_server = false;
  bool ok = false;
  std::string error;  // why it failed: a kind that many requests share, e.g. "HTTP 429: The queue is full."
  std::string text;   // the answer, only where it is asked for
};

}  // namespace spillway::net::load
