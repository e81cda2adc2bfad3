// SPDX-License-Identifier: Apache-2.0
#include "cli/start_engine.hpp"

#include <cstdio>
#include <memory>
#include <utility>

#include "cli/log.hpp"
#include "cli/progress.hpp"
#include "cli/stats.hpp"
#include "cli/values.hpp"

namespace spillway::cli {

Result<std::unique_ptr<Engine>> start_engine(EngineOptions options, bool keep_stall_limit) {
  // Our reader is a terminal, a file or a pipe: a pager that nobody scrolls is no reason to cut the answer.
  if (!keep_stall_limit) options.stall_limit = std::chrono::hours(24 * 365);
  const double start_s = seconds_since_process_start();
  const auto bar = std::make_shared<WeightsBar>();  // the engine keeps its options
  options.on_weights = [bar](std::uint64_t done_bytes, std::uint64_t all_bytes) {
    bar->update(done_bytes, all_bytes, seconds_since_process_start());
  };
  options.nodes.on_note = [](const std::string& text) { log_warning(text); };
  Result<std::unique_ptr<Engine>> engine = Engine::create(std::move(options));
  bar->clear();
  if (!engine) return engine;
  const model::Model& model = (*engine)->model();
  if (!(*engine)->why_host().empty()) {
    // Who asked for the choice hears of it; who did not may have no GPU and know it.
    const std::string line = "computing on the host: " + (*engine)->why_host();
    (*engine)->options().device ? log_warning(line) : log_info(line);
  }
  const gpu::DeviceInfo& device = (*engine)->device();
  char seconds[16];
  std::snprintf(seconds, sizeof seconds, "%.2f s", seconds_since_process_start() - start_s);
  log_info(model.path().string() + ": " + model.spec().architecture + ", weights of " +
           bytes_text(model.weight_bytes()) + ", ready in " + seconds);
  log_info(device.name + ": KV cache of " + std::to_string(device.num_blocks) + " blocks, " +
           bytes_text(std::uint64_t{device.num_blocks} * device.kv_block_bytes) + "; sequences of up to " +
           std::to_string((*engine)->max_model_len()) + " tokens");
  return engine;
}

}  // namespace spillway::cli
