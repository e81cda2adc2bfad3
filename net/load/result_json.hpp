// SPDX-License-Identifier: Apache-2.0
#pragma once

// What a run reports: the JSON that `vllm bench serve --save-result` writes, with more keys of ours, and the
// table for the terminal. docs/benchmarking.md lists every key.

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "net/load/metrics.hpp"

namespace spillway::net::load {

/// What was run, as far as a reader of the results wants to know.
struct RunLabel {
  std::string date;  // YYYYMMDD-HHMMSS
  std::string backend, label, model, tokenizer, dataset, base_url;
  std::size_t num_prompts = 0;
  double request_rate = 0, burstiness = 1;  // may be infinite
  std::size_t max_concurrency = 0;          // 0: none
  std::uint64_t seed = 0;
  std::string arrivals;  // "poisson", "gamma", "constant", "all at once", "closed loop", "trace"
  std::vector<std::pair<std::string, std::string>> metadata;  // --metadata KEY=VALUE
  bool interrupted = false;
  std::size_t connections_opened = 0;
};

struct ReportOptions {
  std::vector<std::string> metrics{"ttft", "tpot", "itl"};  // --percentile-metrics
  std::vector<double> percentiles{99};                      // --metric-percentiles
  bool detailed = false;                                    // --save-detailed: a list entry for each request
};

/// "99" or "99.9": a percentile as it stands in a key.
[[nodiscard]] std::string percentile_name(double percent);

/// One JSON object, one line.
[[nodiscard]] std::string result_json(const RunLabel& label, const Metrics& metrics,
                                      std::span<const Timeline> lines, const ReportOptions& options);

/// The lines that a person reads when the run is over.
[[nodiscard]] std::string result_text(const RunLabel& label, const Metrics& metrics,
                                      const ReportOptions& options);

/// The metric of that name (ttft, tpot, itl, e2el), its title, its abbreviation; null for another name.
struct MetricView {
  const Distribution* values;
  const Distribution* scheduled;  // the same from the due time; null: means nothing there
  const char *title, *abbreviation;
};
[[nodiscard]] std::optional<MetricView> metric_view(const Metrics& metrics, std::string_view name);

}  // namespace spillway::net::load
