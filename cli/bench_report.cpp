// SPDX-License-Identifier: Apache-2.0
#include "cli/bench_report.hpp"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>

#include "cli/interrupt.hpp"
#include "cli/option_values.hpp"
#include "cli/output.hpp"
#include "cli/report.hpp"
#include "cli/values.hpp"
#include "net/load/html_report.hpp"

namespace spillway::cli {

namespace load = net::load;

namespace {

std::vector<std::string> split(std::string_view list) {
  std::vector<std::string> parts;
  for (;;) {
    const std::size_t comma = std::min(list.find(','), list.size());
    parts.emplace_back(list.substr(0, comma));
    if (comma == list.size()) return parts;
    list.remove_prefix(comma + 1);
  }
}

Result<void> write_file(const std::filesystem::path& path, const std::string& text, bool append) {
  std::error_code ignored;
  if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path(), ignored);
  std::ofstream file(path, append ? std::ios::app : std::ios::trunc);
  file << text;
  file.close();
  if (!file) return Error{Errc::kIo, path.string() + ": " + std::strerror(errno)};
  return {};
}

}  // namespace

void add_report_options(CLI::App& command, ReportFiles& files) {
  const OptionGroup group(command, "Results");
  add_text(command, "--percentile-metrics", "LIST", "of ttft, tpot, itl and e2el: which to report [all]",
           files.metrics);
  add_text(command, "--metric-percentiles", "LIST", "which percentiles of them, such as 50,90,99.9 [99]",
           files.percentiles);
  command
      .add_option_function<std::vector<std::string>>(
          "--goodput", [&files](const std::vector<std::string>& pairs) { files.goodput = pairs; },
          "limits of a good request, ms: any of ttft:X tpot:X e2el:X [none]")
      ->type_name("NAME:MS ...")
      ->expected(1, 3);
  command.add_flag("--save-result", files.save,
                   "write the results as JSON, with the keys of vllm bench serve");
  command.add_flag("--append-result", files.append, "add them as a line to the file instead");
  command.add_flag("--save-detailed", files.detailed,
                   "with times, lengths, texts and errors of each request");
  add_text(command, "--result-dir", "DIR", "where to [the current directory]", files.directory);
  add_text(command, "--result-filename", "FILE", "its name [from backend, rate, model and date]", files.file);
  add_text(command, "--report", "FILE.html", "a page with plots, complete in itself", files.html);
  add_texts(command, "--metadata", "KEY=VALUE", "goes into the JSON; may be given several times",
            files.metadata);
}

Result<load::Goodput> parse_goodput(const std::vector<std::string>& pairs) {
  load::Goodput goodput;
  for (const std::string& pair : pairs) {
    const std::size_t colon = std::min(pair.find(':'), pair.size());
    const std::string name = pair.substr(0, colon);
    std::optional<double>* limit = name == "ttft"   ? &goodput.ttft_ms
                                   : name == "tpot" ? &goodput.tpot_ms
                                   : name == "e2el" ? &goodput.e2el_ms
                                                    : nullptr;
    if (limit == nullptr || colon == pair.size())
      return Error{Errc::kInvalidArgument, "--goodput: '" + pair + "' is not ttft:MS, tpot:MS or e2el:MS"};
    const Result<double> value = parse_decimal(pair.substr(colon + 1), 0, 1e12);
    if (!value) return Error{value.error().code, "--goodput: " + value.error().message};
    *limit = *value;
  }
  return goodput;
}

Result<std::vector<double>> parse_percentiles(std::string_view list) {
  std::vector<double> percentiles;
  for (const std::string& part : split(list)) {
    const Result<double> value = parse_decimal(part, 0, 100);
    if (!value) return Error{value.error().code, "--metric-percentiles: " + value.error().message};
    percentiles.push_back(*value);
  }
  return percentiles;
}

Result<std::vector<std::string>> parse_metrics(std::string_view list) {
  std::vector<std::string> metrics = split(list);
  for (const std::string& name : metrics) {
    if (name != "ttft" && name != "tpot" && name != "itl" && name != "e2el")
      return Error{Errc::kInvalidArgument,
                   "--percentile-metrics: '" + name + "' is not ttft, tpot, itl or e2el"};
  }
  return metrics;
}

Result<void> validate(const ReportFiles& files) {
  if (const auto goodput = parse_goodput(files.goodput); !goodput) return goodput.error();
  if (const auto percentiles = parse_percentiles(files.percentiles); !percentiles) return percentiles.error();
  if (const auto metrics = parse_metrics(files.metrics); !metrics) return metrics.error();
  for (const std::string& pair : files.metadata) {
    if (pair.find('=') == std::string::npos || pair.front() == '=')
      return Error{Errc::kInvalidArgument, "--metadata: '" + pair + "' is not KEY=VALUE"};
  }
  return {};
}

std::string date_now() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  ::localtime_r(&now, &local);
  char text[32];
  std::strftime(text, sizeof text, "%Y%m%d-%H%M%S", &local);
  return text;
}

std::filesystem::path result_path(const ReportFiles& files, const load::RunLabel& label) {
  std::filesystem::path name = files.file;
  if (name.empty()) {
    char rate[32];
    std::snprintf(rate, sizeof rate, "%gqps", label.request_rate);
    std::string text = (label.label.empty() ? label.backend : label.label) + "-" + rate;
    if (label.max_concurrency != 0) text += "-concurrency" + std::to_string(label.max_concurrency);
    text += "-" + label.model.substr(label.model.rfind('/') + 1) + "-" + label.date + ".json";
    std::replace(text.begin(), text.end(), '/', '_');
    name = text;
  }
  return files.directory / name;
}

int report_run(const ReportFiles& files, load::RunLabel label, const load::RunResult& result) {
  for (const std::string& pair : files.metadata) {
    const std::size_t equals = pair.find('=');
    label.metadata.emplace_back(pair.substr(0, equals), pair.substr(equals + 1));
  }
  const load::Goodput goodput = parse_goodput(files.goodput).value();
  const load::ReportOptions options{parse_metrics(files.metrics).value(),
                                    parse_percentiles(files.percentiles).value(), files.detailed};
  const load::Metrics metrics = load::compute_metrics(result.lines, result.duration_s, goodput);
  Output out;
  out.write(load::result_text(label, metrics, options));
  const auto save = [&](const std::filesystem::path& path, const std::string& text, bool append) {
    const Result<void> written = write_file(path, text, append);
    if (!written) return complain(written.error().message, kFailed);
    out.write("wrote " + path.string() + "\n");
    return 0;
  };
  int code = 0;
  if (files.save || files.append) {
    code = save(result_path(files, label), load::result_json(label, metrics, result.lines, options) + "\n",
                files.append);
  }
  if (!files.html.empty() && code == 0)
    code = save(files.html, load::html_report(label, metrics, result.lines, goodput), false);
  if (interrupt::signal() != 0) return 128 + interrupt::signal();
  if (const int stdout_code = out.finish(); stdout_code != 0) return stdout_code;
  return code != 0 || metrics.failed != 0 ? kFailed : code;
}

}  // namespace spillway::cli
