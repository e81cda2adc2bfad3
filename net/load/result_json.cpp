// SPDX-License-Identifier: Apache-2.0
#include "net/load/result_json.hpp"

#include <boost/json.hpp>
#include <cmath>
#include <cstdarg>
#include <cstdio>

namespace spillway::net::load {
namespace {

namespace json = boost::json;

json::value number_or_inf(double value) {
  return std::isinf(value) ? json::value("inf") : json::value(value);
}
json::value text_or_null(const std::string& text) {
  return text.empty() ? json::value(nullptr) : json::value(text);
}

void put_distribution(json::object& result, const std::string& name, const Distribution& values,
                      const ReportOptions& options) {
  result["mean_" + name + "_ms"] = values.mean;
  result["median_" + name + "_ms"] = values.median;
  result["std_" + name + "_ms"] = values.std_deviation;
  for (const double percent : options.percentiles)
    result["p" + percentile_name(percent) + "_" + name + "_ms"] = values.at(percent);
}

void put_details(json::object& result, std::span<const Timeline> lines) {
  json::array input_lens, output_lens, ttfts, itls, texts, errors, starts, latencies, queue_times, scheduled,
      lags;
  for (const Timeline& line : lines) {
    input_lens.emplace_back(line.prompt_tokens);
    output_lens.emplace_back(line.ok ? line.output_tokens : 0);
    ttfts.emplace_back(line.ok ? ttft_ms(line) / 1e3 : 0.0);
    json::array gaps;
    for (std::size_t i = 1; i < line.token_ns.size(); ++i)
      gaps.emplace_back(static_cast<double>(line.token_ns[i] - line.token_ns[i - 1]) * 1e-9);
    itls.emplace_back(std::move(gaps));
    latencies.emplace_back(line.ok ? e2el_ms(line) / 1e3 : 0.0);
    starts.emplace_back(static_cast<double>(line.sent_ns) * 1e-9);
    scheduled.emplace_back(static_cast<double>(line.scheduled_ns) * 1e-9);
    queue_times.emplace_back(static_cast<double>(line.slot_ns - line.scheduled_ns) * 1e-9);
    lags.emplace_back(line.sent_ns < 0 ? 0.0 : static_cast<double>(line.sent_ns - line.slot_ns) * 1e-9);
    texts.emplace_back(line.text);
    errors.emplace_back(line.error);
  }
  result["input_lens"] = std::move(input_lens);
  result["output_lens"] = std::move(output_lens);
  result["ttfts"] = std::move(ttfts);
  result["itls"] = std::move(itls);
  result["latencies"] = std::move(latencies);
  result["start_times"] = std::move(starts);
  result["scheduled_times"] = std::move(scheduled);
  result["queue_times"] = std::move(queue_times);
  result["schedule_lags"] = std::move(lags);
  result["generated_texts"] = std::move(texts);
  result["errors"] = std::move(errors);
}

/// Like printf.
[[gnu::format(printf, 2, 3)]] void add(std::string& text, const char* format, ...) {
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  text += line;
}

void add_rule(std::string& text, std::string title, char fill) {
  if (!title.empty()) title = " " + title + " ";
  const std::size_t room = title.size() < 62 ? 62 - title.size() : 0;
  text += std::string(room / 2, fill) + title + std::string(room - room / 2, fill) + "\n";
}

}  // namespace

std::string percentile_name(double percent) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", percent);
  return text;
}

std::optional<MetricView> metric_view(const Metrics& metrics, std::string_view name) {
  if (name == "ttft")
    return MetricView{&metrics.ttft, &metrics.ttft_scheduled, "Time to First Token", "TTFT"};
  if (name == "tpot")
    return MetricView{&metrics.tpot, nullptr, "Time per Output Token (excl. 1st token)", "TPOT"};
  if (name == "itl") return MetricView{&metrics.itl, nullptr, "Inter-token Latency", "ITL"};
  if (name == "e2el") return MetricView{&metrics.e2el, &metrics.e2el_scheduled, "End-to-end Latency", "E2EL"};
  return {};
}

std::string result_json(const RunLabel& label, const Metrics& metrics, std::span<const Timeline> lines,
                        const ReportOptions& options) {
  json::object result;
  result["date"] = label.date;
  result["endpoint_type"] = label.backend;
  result["backend"] = label.backend;
  result["label"] = text_or_null(label.label);
  result["model_id"] = label.model;
  result["tokenizer_id"] = text_or_null(label.tokenizer);
  result["num_prompts"] = label.num_prompts;
  for (const auto& [key, value] : label.metadata) result[key] = value;
  result["request_rate"] = number_or_inf(label.request_rate);
  result["burstiness"] = number_or_inf(label.burstiness);
  result["max_concurrency"] =
      label.max_concurrency == 0 ? json::value(nullptr) : json::value(label.max_concurrency);
  result["dataset_name"] = label.dataset;
  result["arrivals"] = label.arrivals;
  result["seed"] = label.seed;
  result["interrupted"] = label.interrupted;
  result["connections_opened"] = label.connections_opened;

  result["duration"] = metrics.duration_s;
  result["completed"] = metrics.completed;
  result["failed"] = metrics.failed;
  result["total_input_tokens"] = metrics.input_tokens;
  result["total_output_tokens"] = metrics.output_tokens;
  result["request_throughput"] = metrics.request_throughput;
  result["request_goodput"] =
      metrics.request_goodput ? json::value(*metrics.request_goodput) : json::value(nullptr);
  result["goodput_share"] =
      metrics.goodput_share ? json::value(*metrics.goodput_share) : json::value(nullptr);
  result["output_throughput"] = metrics.output_throughput;
  result["total_token_throughput"] = metrics.total_token_throughput;
  result["max_output_tokens_per_s"] = metrics.peak_output_tokens_per_s;
  result["max_concurrent_requests"] = metrics.peak_concurrency;
  result["counted_by_server"] = metrics.counted_by_server;
  json::array errors;
  for (const ErrorCount& each : metrics.errors)
    errors.push_back({{"error", each.error}, {"count", each.count}});
  result["error_counts"] = std::move(errors);

  for (const std::string& name : options.metrics) {
    const std::optional<MetricView> view = metric_view(metrics, name);
    if (!view) continue;
    put_distribution(result, name, *view->values, options);
    if (view->scheduled != nullptr)
      put_distribution(result, name + "_from_schedule", *view->scheduled, options);
  }
  if (label.max_concurrency != 0) put_distribution(result, "client_queue_time", metrics.queue_time, options);
  put_distribution(result, "schedule_lag", metrics.lag, options);
  result["max_schedule_lag_ms"] = metrics.lag.max;
  if (options.detailed) put_details(result, lines);
  return json::serialize(result);
}

std::string result_text(const RunLabel& label, const Metrics& metrics, const ReportOptions& options) {
  std::string text;
  add_rule(text, "Serving Benchmark Result", '=');
  const auto count = [&](const char* name, std::uint64_t value) {
    add(text, "%-44s %-12llu\n", name, static_cast<unsigned long long>(value));
  };
  const auto real = [&](const char* name, double value) { add(text, "%-44s %-12.2f\n", name, value); };
  count("Successful requests:", metrics.completed);
  count("Failed requests:", metrics.failed);
  if (label.max_concurrency != 0) count("Maximum request concurrency:", label.max_concurrency);
  if (std::isfinite(label.request_rate)) real("Request rate configured (RPS):", label.request_rate);
  real("Benchmark duration (s):", metrics.duration_s);
  count("Total input tokens:", metrics.input_tokens);
  count("Total generated tokens:", metrics.output_tokens);
  real("Request throughput (req/s):", metrics.request_throughput);
  if (metrics.request_goodput) real("Request goodput (req/s):", *metrics.request_goodput);
  if (metrics.goodput_share) real("Share of good requests (%):", *metrics.goodput_share * 100);
  real("Output token throughput (tok/s):", metrics.output_throughput);
  real("Peak output token throughput (tok/s):", metrics.peak_output_tokens_per_s);
  count("Peak concurrent requests:", metrics.peak_concurrency);
  real("Total token throughput (tok/s):", metrics.total_token_throughput);

  for (const std::string& name : options.metrics) {
    const std::optional<MetricView> view = metric_view(metrics, name);
    if (!view) continue;
    add_rule(text, view->title, '-');
    const std::string abbreviation = view->abbreviation;
    const auto line = [&](const std::string& what, double value, std::optional<double> scheduled) {
      add(text, "%-44s %-12.2f", (what + " " + abbreviation + " (ms):").c_str(), value);
      if (scheduled) add(text, " from schedule %.2f", *scheduled);
      text += '\n';
    };
    const Distribution* scheduled = label.arrivals == "closed loop" ? nullptr : view->scheduled;
    const auto beside = [&](double value) { return scheduled ? std::optional(value) : std::nullopt; };
    line("Mean", view->values->mean, beside(scheduled ? scheduled->mean : 0));
    line("Median", view->values->median, beside(scheduled ? scheduled->median : 0));
    for (const double percent : options.percentiles)
      line("P" + percentile_name(percent), view->values->at(percent),
           beside(scheduled ? scheduled->at(percent) : 0));
  }
  add_rule(text, "The load generator itself", '-');
  add(text, "%-44s %-12.3f\n", "Median schedule lag (ms):", metrics.lag.median);
  add(text, "%-44s %-12.3f\n", "P99 schedule lag (ms):", metrics.lag.at(99));
  add(text, "%-44s %-12.3f\n", "Max schedule lag (ms):", metrics.lag.max);
  if (label.max_concurrency != 0 && label.arrivals != "closed loop")
    real("P99 wait for --max-concurrency (ms):", metrics.queue_time.at(99));
  if (metrics.counted_by_server < metrics.completed)
    add(text, "Tokens of %zu answers counted as pieces of text: the server reported no usage.\n",
        metrics.completed - metrics.counted_by_server);
  if (!metrics.errors.empty()) {
    add_rule(text, "Errors", '-');
    constexpr std::size_t kShown = 10;
    for (std::size_t i = 0; i < metrics.errors.size() && i < kShown; ++i)
      add(text, "%8zu x  %s\n", metrics.errors[i].count, metrics.errors[i].error.c_str());
    if (metrics.errors.size() > kShown)
      add(text, "         and %zu more kinds\n", metrics.errors.size() - kShown);
  }
  add_rule(text, "", '=');
  return text;
}

}  // namespace spillway::net::load
