// SPDX-License-Identifier: Apache-2.0
// spillway inspect: what a model is made of.

#include "model/inspect.hpp"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <memory>

#include "cli/command.hpp"
#include "cli/options.hpp"
#include "cli/output.hpp"
#include "cli/report.hpp"
#include "model/loader.hpp"

namespace spillway::cli {
namespace {

struct InspectOptions {
  std::filesystem::path model;
  bool json = false;
};

int run(const InspectOptions& options) {
  const Result<model::Model> model = model::Model::load(options.model);
  if (!model) return complain(model.error());
  Output out;
  out.write(options.json ? model::inspect_json(*model) + "\n" : model::inspect_text(*model));
  return out.finish();
}

}  // namespace

Run make_inspect(CLI::App& command) {
  const auto options = std::make_shared<InspectOptions>();
  add_model(command, options->model);
  command.add_flag("--json", options->json, "one JSON object instead of tables");
  return [options] { return run(*options); };
}

}  // namespace spillway::cli
