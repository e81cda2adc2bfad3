// SPDX-License-Identifier: Apache-2.0
#pragma once

// Where a bench's results go: options, the JSON and HTML files, the terminal.

#include <filesystem>
#include <string>
#include <vector>

#include "net/load/load_run.hpp"
#include "net/load/metrics.hpp"
#include "net/load/result_json.hpp"

namespace CLI {
class App;
}

namespace spillway::cli {

struct ReportFiles {
  bool save = false, append = false, detailed = false;
  std::filesystem::path directory, file, html;
  std::vector<std::string> metadata;  // KEY=VALUE
  std::string metrics = "ttft,tpot,itl,e2el", percentiles = "99";
  std::vector<std::string> goodput;  // ttft:200
};

void add_report_options(CLI::App& command, ReportFiles& files);

/// Refuses what the options say wrongly, before anything runs.
[[nodiscard]] Result<void> validate(const ReportFiles& files);

/// "ttft:200 tpot:50" as limits, ms. Errors: kInvalidArgument, naming --goodput.
[[nodiscard]] Result<net::load::Goodput> parse_goodput(const std::vector<std::string>& pairs);
/// "50,90,99.9": numbers from 0 to 100.
[[nodiscard]] Result<std::vector<double>> parse_percentiles(std::string_view list);
[[nodiscard]] Result<std::vector<std::string>> parse_metrics(std::string_view list);

/// YYYYMMDD-HHMMSS, local time.
[[nodiscard]] std::string date_now();

/// Where the result is saved: --result-filename, or a name made of rate, concurrency, model and date.
[[nodiscard]] std::filesystem::path result_path(const ReportFiles& files, const net::load::RunLabel& label);

/// Prints the table, writes the files; the process's exit code.
[[nodiscard]] int report_run(const ReportFiles& files, net::load::RunLabel label,
                             const net::load::RunResult& result);

}  // namespace spillway::cli
