// SPDX-License-Identifier: Apache-2.0
#pragma once

// From timelines to figures. Definitions are those of `vllm bench serve`: latencies of successful requests
// only, counted from the send, percentiles linear between ranks (as numpy does). Beside them, the same
// latencies counted from when a request was due, which a slow client or a full --max-concurrency cannot
// flatter.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "net/load/timeline.hpp"

namespace spillway::net::load {

/// Linear between ranks: rank (n - 1) * percent / 100 of the sorted values. 0 without values.
[[nodiscard]] double percentile(std::span<const double> sorted, double percent);

/// Values in ascending order, with what is asked of them. All ms.
struct Distribution {
  std::vector<double> sorted;
  double mean = 0, median = 0, std_deviation = 0, min = 0,
         max = 0;  // population deviation; all 0 without values

  [[nodiscard]] static Distribution of(std::vector<double> values);
  [[nodiscard]] double at(double percent) const { return percentile(sorted, percent); }
};

/// Latency limits of a good request, ms.
struct Goodput {
  std::optional<double> ttft_ms, tpot_ms, e2el_ms;

  [[nodiscard]] bool asked() const noexcept { return ttft_ms || tpot_ms || e2el_ms; }
};

struct ErrorCount {
  std::string error;
  std::size_t count;
};

struct Metrics {
  double duration_s = 0;  // from the start of the run to the end of the last answer
  std::size_t completed = 0, failed = 0;
  std::uint64_t input_tokens = 0, output_tokens = 0;  // of completed requests
  std::size_t counted_by_server = 0;                  // completed requests whose server reported its usage
  double request_throughput = 0, output_throughput = 0, total_token_throughput = 0;  // per second
  std::optional<double> request_goodput, goodput_share;  // per second; of all requests, failed ones included
  double peak_output_tokens_per_s = 0;                   // pieces of text in the busiest whole second
  std::size_t peak_concurrency = 0;                      // completed requests open at once

  Distribution ttft, tpot, itl, e2el;           // from the send
  Distribution ttft_scheduled, e2el_scheduled;  // from the due time
  Distribution queue_time;                      // due -> let go by --max-concurrency
  Distribution lag;                // let go -> sent, of all requests that were sent: our own fault
  std::vector<ErrorCount> errors;  // most frequent first
};

[[nodiscard]] Metrics compute_metrics(std::span<const Timeline> timelines, double duration_s,
                                      const Goodput& goodput);

// Of one completed request, ms.
[[nodiscard]] double ttft_ms(const Timeline& line);
[[nodiscard]] double e2el_ms(const Timeline& line);
/// (e2el - ttft) / (tokens - 1); 0 for a single token.
[[nodiscard]] double tpot_ms(const Timeline& line);

}  // namespace spillway::net::load
