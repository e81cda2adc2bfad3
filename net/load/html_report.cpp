// SPDX-License-Identifier: Apache-2.0
#include "net/load/html_report.hpp"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>

#include "net/load/html_style.hpp"
#include "net/load/svg_plot.hpp"

namespace spillway::net::load {
namespace {

constexpr std::size_t kDotsMax = 4000;      // of a scatter plot
constexpr std::size_t kCdfPoints = 240;     // of a curve
constexpr std::size_t kTimelineRows = 160;  // requests in the timeline
constexpr std::size_t kTimeBins = 120;

[[gnu::format(printf, 1, 2)]] std::string format(const char* pattern, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, pattern);
  std::vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  return text;
}

double seconds(std::int64_t ns) { return static_cast<double>(ns) * 1e-9; }

std::string ms_text(double value) {
  return value >= 1000 ? format("%.0f", value) : value >= 100 ? format("%.1f", value) : format("%.2f", value);
}

std::string tile(const std::string& name, const std::string& value, const char* unit,
                 const std::string& small, const char* css = "") {
  return "<div class=\"tile " + std::string(css) + "\"><span>" + name + "</span><b>" + value + "<i>" + unit +
         "</i></b><small>" + small + "</small></div>\n";
}

std::string tiles(const RunLabel& label, const Metrics& metrics) {
  std::string text = "<div class=\"tiles\">\n";
  text += tile("Output", short_number(metrics.output_throughput), "tok/s",
               "busiest second " + short_number(metrics.peak_output_tokens_per_s));
  text += tile("Requests", short_number(metrics.request_throughput), "req/s",
               format("%zu in %.1f s", metrics.completed, metrics.duration_s));
  text += tile("Time to first token", ms_text(metrics.ttft.median), "ms",
               "p99 " + ms_text(metrics.ttft.at(99)) + " ms");
  text += tile("Inter-token latency", ms_text(metrics.itl.median), "ms",
               "p99 " + ms_text(metrics.itl.at(99)) + " ms");
  text +=
      tile("End to end", ms_text(metrics.e2el.median), "ms", "p99 " + ms_text(metrics.e2el.at(99)) + " ms");
  if (metrics.request_goodput) {
    text += tile("Good requests", format("%.1f", metrics.goodput_share.value_or(0) * 100), "%",
                 short_number(*metrics.request_goodput) + " req/s");
  }
  text += tile("Failed", std::to_string(metrics.failed), "", format("of %zu", label.num_prompts),
               metrics.failed != 0 ? "bad" : "good");
  return text + "</div>\n";
}

std::string percentile_table(const RunLabel& label, const Metrics& metrics) {
  std::string text =
      "<div class=\"card "
      "scroll\"><table><tr><th>ms</th><th>mean</th><th>p50</th><th>p75</th><th>p90</th><th>p95</th>"
      "<th>p99</th><th>p99.9</th><th>max</th></tr>\n";
  const auto row = [&](const char* name, const Distribution& values) {
    if (values.sorted.empty()) return;
    text += std::string("<tr><td>") + name + "</td><td>" + ms_text(values.mean) + "</td>";
    for (const double percent : {50.0, 75.0, 90.0, 95.0, 99.0, 99.9})
      text += "<td>" + ms_text(values.at(percent)) + "</td>";
    text += "<td>" + ms_text(values.max) + "</td></tr>\n";
  };
  const bool has_schedule = label.arrivals != "closed loop";
  row("Time to first token, from the send", metrics.ttft);
  if (has_schedule) row("Time to first token, from the due time", metrics.ttft_scheduled);
  row("Inter-token latency", metrics.itl);
  row("Time per output token", metrics.tpot);
  row("End to end, from the send", metrics.e2el);
  if (has_schedule) row("End to end, from the due time", metrics.e2el_scheduled);
  if (label.max_concurrency != 0 && has_schedule) row("Wait for the concurrency limit", metrics.queue_time);
  row("Schedule lag of the load generator", metrics.lag);
  return text + "</table></div>\n";
}

struct LegendEntry {
  const char *css, *text;
};

std::string card(const std::string& title, const std::string& about, const std::vector<LegendEntry>& legend,
                 const SvgPlot& plot, const char* css = "") {
  std::string text = "<section class=\"card " + std::string(css) + "\"><h3>" + title + "</h3>";
  if (!about.empty()) text += "<p class=\"dim\">" + about + "</p>";
  if (!legend.empty()) {
    text += "<div class=\"legend\">";
    for (const LegendEntry& entry : legend)
      text += std::string("<span><i class=\"") + entry.css + "\"></i>" + entry.text + "</span>";
    text += "</div>";
  }
  return text + plot.svg(title) + "</section>\n";
}

std::vector<PlotPoint> cdf(const Distribution& values) {
  std::vector<PlotPoint> points;
  const std::size_t count = std::min(values.sorted.size(), kCdfPoints);
  for (std::size_t i = 0; i < count; ++i) {
    // Denser towards the tail, where readers look.
    const double x = count == 1 ? 1 : static_cast<double>(i) / static_cast<double>(count - 1);
    const double percent = 100 * (1 - (1 - x) * (1 - x));
    points.push_back({values.at(percent), percent});
  }
  return points;
}

std::string cdf_card(const std::string& title, const Distribution& sent, const Distribution* scheduled) {
  std::vector<double> all = sent.sorted;
  if (scheduled != nullptr) all.insert(all.end(), scheduled->sorted.begin(), scheduled->sorted.end());
  SvgPlot plot(PlotAxis::over(all, "ms", true), {0, 100, "% of requests at most"});
  if (scheduled != nullptr) plot.line(cdf(*scheduled), "c2 dashed");
  plot.line(cdf(sent), "c1");
  if (!sent.sorted.empty()) plot.mark(sent.at(99), "p99 " + ms_text(sent.at(99)), SvgPlot::MarkAt::kBottom);
  std::vector<LegendEntry> legend;
  if (scheduled != nullptr) legend = {{"c1", "from the send"}, {"c2", "from the due time"}};
  return card(title, "", legend, plot);
}

std::string itl_card(const Metrics& metrics) {
  const std::vector<double>& values = metrics.itl.sorted;
  constexpr std::size_t kBins = 60;
  // Gaps of pieces that came in one packet are microseconds: they would stretch the axis over decades.
  const double floor = std::max(metrics.itl.at(99.9) * 1e-3, 1e-3);
  PlotAxis x = PlotAxis::over(values, "ms", true);
  x.min = std::max(x.min, floor);
  x.max = std::max(x.max, x.min * 2);
  std::vector<double> counts(kBins, 0);
  const double width = std::log(x.max / x.min) / kBins;
  for (const double value : values) {
    const double at = std::log(std::max(value, x.min) / x.min) / width;
    counts[std::min(kBins - 1, static_cast<std::size_t>(std::max(at, 0.0)))] += 1;
  }
  SvgPlot plot(x, PlotAxis::over(counts, "gaps"));
  for (std::size_t i = 0; i < kBins; ++i) {
    if (counts[i] == 0) continue;
    const double low = x.min * std::exp(width * static_cast<double>(i)), high = low * std::exp(width);
    plot.bar(low, high, 0, counts[i], "c1", format("%.3g to %.3g ms: %.0f", low, high, counts[i]));
  }
  if (!values.empty()) {
    plot.mark(metrics.itl.median, "p50 " + ms_text(metrics.itl.median));
    plot.mark(metrics.itl.at(99), "p99 " + ms_text(metrics.itl.at(99)), SvgPlot::MarkAt::kBottom);
  }
  return card("Inter-token latency", "", {}, plot);
}

/// Per bin of time: pieces of text a second, and requests in flight on average.
struct OverTime {
  std::vector<PlotPoint> tokens, in_flight;
};

OverTime over_time(std::span<const Timeline> lines, double duration_s) {
  const double width = std::max(duration_s, 1e-3) / kTimeBins;
  std::vector<double> tokens(kTimeBins, 0), busy_s(kTimeBins, 0);
  const auto bin = [&](double at_s) {
    return static_cast<std::size_t>(std::clamp(at_s / width, 0.0, static_cast<double>(kTimeBins - 1)));
  };
  for (const Timeline& line : lines) {
    // A piece may hold several tokens, so pieces are weighed: the sum is what the server counted.
    const double weight = line.token_ns.empty() ? 0
                                                : std::max<double>(line.output_tokens, 1) /
                                                      static_cast<double>(line.token_ns.size());
    for (const std::int64_t at_ns : line.token_ns) tokens[bin(seconds(at_ns))] += line.ok ? weight : 1;
    if (line.sent_ns < 0 || line.end_ns < 0) continue;
    const double from_s = seconds(line.sent_ns), to_s = seconds(line.end_ns);
    for (std::size_t i = bin(from_s); i <= bin(to_s); ++i) {
      const double low = static_cast<double>(i) * width;
      busy_s[i] += std::max(0.0, std::min(to_s, low + width) - std::max(from_s, low));
    }
  }
  OverTime result;
  for (std::size_t i = 0; i < kTimeBins; ++i) {
    const double at_s = (static_cast<double>(i) + 0.5) * width;
    result.tokens.push_back({at_s, tokens[i] / width});
    result.in_flight.push_back({at_s, busy_s[i] / width});
  }
  return result;
}

std::string over_time_cards(std::span<const Timeline> lines, double duration_s) {
  const OverTime series = over_time(lines, duration_s);
  const PlotAxis time{0, std::max(duration_s, 1e-3), "seconds"};
  const auto axis = [](const std::vector<PlotPoint>& points, const char* label) {
    std::vector<double> values;
    for (const PlotPoint& point : points) values.push_back(point.y);
    return PlotAxis::over(values, label);
  };
  SvgPlot tokens(time, axis(series.tokens, "tokens/s"));
  tokens.area(series.tokens, "c1");
  SvgPlot in_flight(time, axis(series.in_flight, "requests"));
  in_flight.area(series.in_flight, "c2");
  return card("Output over time", "", {}, tokens) + card("Requests in flight", "", {}, in_flight);
}

std::string scatter_card(std::span<const Timeline> lines, double duration_s, bool by_length) {
  std::vector<PlotPoint> good, failed;
  std::vector<double> xs, ys;
  const std::size_t stride = lines.size() / kDotsMax + 1;
  for (std::size_t i = 0; i < lines.size(); i += stride) {
    const Timeline& line = lines[i];
    const double x = by_length ? line.prompt_tokens : seconds(line.scheduled_ns);
    if (line.ok) {
      good.push_back({x, ttft_ms(line)});
      ys.push_back(good.back().y);
      xs.push_back(x);
    } else if (line.scheduled_ns >= 0) {
      failed.push_back({x, 0});
      xs.push_back(x);
    }
  }
  PlotAxis x = PlotAxis::over(xs, by_length ? "prompt, tokens" : "due at, seconds");
  if (!by_length) x.max = std::max(x.max, std::min(duration_s, x.max * 1.05));
  SvgPlot plot(x, PlotAxis::over(ys, "ms"));
  plot.dots(good, "c1");
  plot.dots(failed, "c4");
  std::vector<LegendEntry> legend;
  if (!failed.empty()) legend = {{"c1", "time to first token"}, {"c4", "failed"}};
  return card(by_length ? "Time to first token by prompt length" : "Time to first token over time", "",
              legend, plot);
}

std::string timeline_card(std::span<const Timeline> lines, double duration_s) {
  const std::size_t stride = (lines.size() + kTimelineRows - 1) / kTimelineRows;
  std::vector<const Timeline*> rows;
  for (std::size_t i = 0; i < lines.size(); i += std::max<std::size_t>(stride, 1)) {
    if (lines[i].sent_ns >= 0 && lines[i].end_ns >= 0) rows.push_back(&lines[i]);
  }
  const auto count = static_cast<double>(std::max<std::size_t>(rows.size(), 1));
  SvgPlot plot({0, std::max(duration_s, 1e-3), "seconds"}, {0, count, ""}, 1140,
               std::clamp(70 + count * 5, 130.0, 620.0));
  plot.hide_y_ticks();
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Timeline& line = *rows[i];
    const double top = count - static_cast<double>(i), bottom = top - 0.8;
    const double first_s = line.token_ns.empty() ? seconds(line.end_ns) : seconds(line.token_ns.front());
    if (line.sent_ns - line.scheduled_ns > 1'000'000)
      plot.bar(seconds(line.scheduled_ns), seconds(line.sent_ns), bottom, top, "c3");
    const std::string about = format("%u in, %u out; first token after %.0f ms, whole after %.0f ms",
                                     line.prompt_tokens, line.output_tokens, ttft_ms(line), e2el_ms(line));
    if (!line.ok) {
      plot.bar(seconds(line.sent_ns), seconds(line.end_ns), bottom, top, "c4", line.error);
    } else {
      plot.bar(seconds(line.sent_ns), first_s, bottom, top, "c2", about);
      plot.bar(first_s, seconds(line.end_ns), bottom, top, "c1", about);
    }
  }
  const std::string about = stride > 1
                                ? format("One request in %zu, in the order of their due times.", stride)
                                : "One row a request, in the order of their due times.";
  return card("Timeline", about,
              {{"c3", "due, not sent yet"},
               {"c2", "sent, until the first token"},
               {"c1", "answer"},
               {"c4", "failed"}},
              plot, "wide");
}

std::string facts(const RunLabel& label, const Metrics& metrics, const Goodput& goodput) {
  std::string text = "<div class=\"card\"><table class=\"facts\">\n";
  const auto row = [&](const char* name, const std::string& value) {
    if (!value.empty())
      text += std::string("<tr><td>") + name + "</td><td>" + html_escaped(value) + "</td></tr>\n";
  };
  row("Server", label.base_url);
  row("API", label.backend);
  row("Model", label.model);
  row("Dataset", label.dataset + format(", %zu requests, seed %llu", label.num_prompts,
                                        static_cast<unsigned long long>(label.seed)));
  std::string arrivals = label.arrivals;
  if (std::isfinite(label.request_rate)) arrivals += format(", %g requests/s", label.request_rate);
  if (label.arrivals == "gamma") arrivals += format(", burstiness %g", label.burstiness);
  if (label.max_concurrency != 0) arrivals += format(", at most %zu in flight", label.max_concurrency);
  row("Arrivals", arrivals);
  row("Tokens", format("%llu in, %llu out", static_cast<unsigned long long>(metrics.input_tokens),
                       static_cast<unsigned long long>(metrics.output_tokens)) +
                    (metrics.counted_by_server < metrics.completed
                         ? format("; %zu answers counted by pieces of text, as the server reported no usage",
                                  metrics.completed - metrics.counted_by_server)
                         : "; as the server counted them"));
  row("Connections opened", std::to_string(label.connections_opened));
  row("Most requests in flight", std::to_string(metrics.peak_concurrency));
  std::string limits;
  const auto limit = [&](const char* name, const std::optional<double>& value) {
    if (value) limits += (limits.empty() ? "" : ", ") + std::string(name) + format(" at most %g ms", *value);
  };
  limit("TTFT", goodput.ttft_ms);
  limit("TPOT", goodput.tpot_ms);
  limit("E2EL", goodput.e2el_ms);
  row("A good request", limits);
  for (const auto& [key, value] : label.metadata) row(html_escaped(key).c_str(), value);
  return text + "</table></div>\n";
}

std::string error_table(const Metrics& metrics) {
  if (metrics.errors.empty()) return {};
  std::string text = "<h2>Errors</h2><div class=\"card\"><table class=\"facts\">\n";
  for (const ErrorCount& each : metrics.errors)
    text += format("<tr><td>%zu requests</td><td>", each.count) + html_escaped(each.error) + "</td></tr>\n";
  return text + "</table></div>\n";
}

}  // namespace

std::string html_report(const RunLabel& label, const Metrics& metrics, std::span<const Timeline> lines,
                        const Goodput& goodput) {
  const bool has_schedule = label.arrivals != "closed loop";
  const std::string title = html_escaped(label.label.empty() ? label.model : label.label);
  std::string date = label.date;
  if (date.size() == 15)
    date = date.substr(0, 4) + "-" + date.substr(4, 2) + "-" + date.substr(6, 2) + " " + date.substr(9, 2) +
           ":" + date.substr(11, 2);
  std::string page =
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>" +
      title + " under load</title>\n<style>" + std::string(kReportStyle) + "</style></head>\n<body><main>\n";
  page += "<h1>" + title + "</h1>\n<p class=\"dim\">" + html_escaped(label.base_url) + " &middot; " +
          html_escaped(label.backend) + " &middot; " + html_escaped(label.dataset) + " &middot; " +
          html_escaped(date) + (label.interrupted ? " &middot; <b>interrupted</b>" : "") + "</p>\n";
  page += tiles(label, metrics);
  page += "<h2>Latency</h2>\n" + percentile_table(label, metrics);
  page += "<h2>Over time</h2>\n<div class=\"plots\">\n" + over_time_cards(lines, metrics.duration_s) +
          timeline_card(lines, metrics.duration_s) + "</div>\n";
  page += "<h2>Distributions</h2>\n<div class=\"plots\">\n";
  page += cdf_card("Time to first token", metrics.ttft, has_schedule ? &metrics.ttft_scheduled : nullptr);
  page += itl_card(metrics);
  page += cdf_card("End to end", metrics.e2el, has_schedule ? &metrics.e2el_scheduled : nullptr);
  page += cdf_card("Schedule lag of the load generator", metrics.lag, nullptr);
  page += scatter_card(lines, metrics.duration_s, false) + scatter_card(lines, metrics.duration_s, true) +
          "</div>\n";
  page += error_table(metrics);
  page += "<h2>The run</h2>\n" + facts(label, metrics, goodput);
  page +=
      "<p class=\"dim\">Latencies are of successful requests. &ldquo;From the send&rdquo; starts when the "
      "load "
      "generator sent the request; &ldquo;from the due time&rdquo; when the schedule wanted it sent, so that "
      "waiting "
      "in the client counts too. The lag is the difference that the load generator itself is to blame "
      "for.</p>\n"
      "</main></body></html>\n";
  return page;
}

}  // namespace spillway::net::load
