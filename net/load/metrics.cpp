// SPDX-License-Identifier: Apache-2.0
#include "net/load/metrics.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

namespace spillway::net::load {
namespace {

constexpr double kMsPerNs = 1e-6;

double between_ms(std::int64_t from_ns, std::int64_t to_ns) {
  return static_cast<double>(to_ns - from_ns) * kMsPerNs;
}

std::int64_t first_ns(const Timeline& line) {
  return line.token_ns.empty() ? line.end_ns : line.token_ns.front();
}

bool is_good(const Timeline& line, const Goodput& goodput) {
  return (!goodput.ttft_ms || ttft_ms(line) <= *goodput.ttft_ms) &&
         (!goodput.tpot_ms || tpot_ms(line) <= *goodput.tpot_ms) &&
         (!goodput.e2el_ms || e2el_ms(line) <= *goodput.e2el_ms);
}

/// Most intervals [sent, end) that overlap.
std::size_t peak_concurrency(std::span<const Timeline> timelines) {
  std::vector<std::pair<std::int64_t, int>> events;
  for (const Timeline& line : timelines) {
    if (!line.ok) continue;
    events.emplace_back(line.sent_ns, 1);
    events.emplace_back(line.end_ns, -1);
  }
  std::sort(events.begin(), events.end());  // at the same time, ends come first
  int open = 0, peak = 0;
  for (const auto& [at, change] : events) peak = std::max(peak, open += change);
  return static_cast<std::size_t>(peak);
}

double peak_tokens_per_s(std::span<const Timeline> timelines) {
  std::map<std::int64_t, std::size_t> seconds;
  std::size_t peak = 0;
  for (const Timeline& line : timelines) {
    if (!line.ok) continue;
    for (const std::int64_t at_ns : line.token_ns) peak = std::max(peak, ++seconds[at_ns / 1'000'000'000]);
  }
  return static_cast<double>(peak);
}

std::vector<ErrorCount> count_errors(std::span<const Timeline> timelines) {
  std::map<std::string, std::size_t> counts;
  for (const Timeline& line : timelines) {
    if (!line.ok) ++counts[line.error];
  }
  std::vector<ErrorCount> errors;
  for (const auto& [error, count] : counts) errors.push_back({error, count});
  std::stable_sort(errors.begin(), errors.end(),
                   [](const ErrorCount& a, const ErrorCount& b) { return a.count > b.count; });
  return errors;
}

}  // namespace

double percentile(std::span<const double> sorted, double percent) {
  if (sorted.empty()) return 0;
  const double rank = static_cast<double>(sorted.size() - 1) * std::clamp(percent, 0.0, 100.0) / 100;
  const auto below = static_cast<std::size_t>(rank);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (rank - static_cast<double>(below));
}

Distribution Distribution::of(std::vector<double> values) {
  Distribution result;
  if (values.empty()) return result;
  std::sort(values.begin(), values.end());
  const auto count = static_cast<double>(values.size());
  result.mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  double squares = 0;
  for (const double value : values) squares += (value - result.mean) * (value - result.mean);
  result.std_deviation = std::sqrt(squares / count);
  result.min = values.front();
  result.max = values.back();
  result.sorted = std::move(values);
  result.median = result.at(50);
  return result;
}

double ttft_ms(const Timeline& line) { return between_ms(line.sent_ns, first_ns(line)); }
double e2el_ms(const Timeline& line) { return between_ms(line.sent_ns, line.end_ns); }
double tpot_ms(const Timeline& line) {
  return line.output_tokens > 1 ? between_ms(first_ns(line), line.end_ns) / (line.output_tokens - 1) : 0;
}

Metrics compute_metrics(std::span<const Timeline> timelines, double duration_s, const Goodput& goodput) {
  Metrics metrics;
  metrics.duration_s = duration_s;
  std::vector<double> ttft, tpot, itl, e2el, ttft_scheduled, e2el_scheduled, queue_time, lag;
  std::size_t good = 0;
  for (const Timeline& line : timelines) {
    if (line.sent_ns >= 0) lag.push_back(between_ms(line.slot_ns, line.sent_ns));
    if (!line.ok) {
      ++metrics.failed;
      continue;
    }
    ++metrics.completed;
    metrics.input_tokens += line.prompt_tokens;
    metrics.output_tokens += line.output_tokens;
    metrics.counted_by_server += line.counted_by_server ? 1 : 0;
    ttft.push_back(ttft_ms(line));
    e2el.push_back(e2el_ms(line));
    if (line.output_tokens > 1) tpot.push_back(tpot_ms(line));
    for (std::size_t i = 1; i < line.token_ns.size(); ++i)
      itl.push_back(between_ms(line.token_ns[i - 1], line.token_ns[i]));
    ttft_scheduled.push_back(between_ms(line.scheduled_ns, first_ns(line)));
    e2el_scheduled.push_back(between_ms(line.scheduled_ns, line.end_ns));
    queue_time.push_back(between_ms(line.scheduled_ns, line.slot_ns));
    if (is_good(line, goodput)) ++good;
  }
  const auto per_second = [&](auto count) {
    return duration_s > 0 ? static_cast<double>(count) / duration_s : 0;
  };
  metrics.request_throughput = per_second(metrics.completed);
  metrics.output_throughput = per_second(metrics.output_tokens);
  metrics.total_token_throughput = per_second(metrics.input_tokens + metrics.output_tokens);
  if (goodput.asked()) {
    metrics.request_goodput = per_second(good);
    metrics.goodput_share =
        timelines.empty() ? 0 : static_cast<double>(good) / static_cast<double>(timelines.size());
  }
  metrics.peak_output_tokens_per_s = peak_tokens_per_s(timelines);
  metrics.peak_concurrency = peak_concurrency(timelines);
  metrics.ttft = Distribution::of(std::move(ttft));
  metrics.tpot = Distribution::of(std::move(tpot));
  metrics.itl = Distribution::of(std::move(itl));
  metrics.e2el = Distribution::of(std::move(e2el));
  metrics.ttft_scheduled = Distribution::of(std::move(ttft_scheduled));
  metrics.e2el_scheduled = Distribution::of(std::move(e2el_scheduled));
  metrics.queue_time = Distribution::of(std::move(queue_time));
  metrics.lag = Distribution::of(std::move(lag));
  metrics.errors = count_errors(timelines);
  return metrics;
}

}  // namespace spillway::net::load
