// SPDX-License-Identifier: Apache-2.0
// spillway bench: the measuring commands.

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <memory>
#include <vector>

#include "cli/bench.hpp"
#include "cli/command.hpp"
#include "cli/report.hpp"

namespace spillway::cli {

Run make_bench(CLI::App& command) {
  struct Entry {
    CLI::App* app;
    Run run;
  };
  auto entries = std::make_shared<std::vector<Entry>>();
  const std::string footer = command.get_footer();
  const auto add = [&](const char* name, const char* about, Run (*make)(CLI::App&)) {
    CLI::App* app = command.add_subcommand(name, about);
    app->footer(footer);
    entries->push_back({app, make(*app)});
  };
  add("serve", "load a server, this one or any OpenAI-compatible one, and measure its answers",
      &make_bench_serve);
  add("throughput", "tokens a second of the embedded engine, all requests at once, no server",
      &make_bench_throughput);
  add("latency", "time of one batch on the embedded engine, over and over, no server", &make_bench_latency);
  return [entries] {
    for (const Entry& entry : *entries) {
      if (entry.app->parsed()) return entry.run();
    }
    return complain("which bench? serve, throughput or latency; see spillway bench --help", kWrongInput);
  };
}

}  // namespace spillway::cli
