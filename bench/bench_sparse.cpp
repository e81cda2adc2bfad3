// SPDX-License-Identifier: Apache-2.0
// KV sparsification under a memory-bound load: one engine after the other, exact first, with the same
// requests and the same memory for KV. One JSON line a configuration; bench/sparse/run.py makes tables and
// plots of them.

#include <algorithm>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "bench/shapes.hpp"
#include "bench/sparse/option_reader.hpp"
#include "bench/sparse/random_opt.hpp"
#include "bench/sparse/result_line.hpp"
#include "bench/sparse/serving_run.hpp"

namespace spillway::bench {
namespace {

namespace json = boost::json;
namespace load = net::load;

constexpr const char* kUsage =
    "usage: bench_sparse [--model PATH|opt-125m|llama-7b|mistral-7b|llama-3-8b] [--device host|cuda|sim]\n"
    "  [--dataset sharegpt|sharegpt-8k|...]\n"
    "  [--num-prompts N] [--methods LIST] [--strategies LIST] [--granularities LIST] [--budgets LIST]\n"
    "  [--skip LIST of STRATEGY@BUDGET]\n"
    "  [--kv-cache-memory-mib N] [--max-num-seqs N] [--max-num-batched-tokens N] [--block-size N]\n"
    "  [--max-concurrency N (0: all requests at once)] [--max-itl-stretch X] [--threads N] [--seed N]\n"
    "  [--length-share X] [--iterations FILE]\n"
    "  device sim: [--step-us N] [--prompt-token-us N] [--sequence-us N] [--kv-token-ns N], what a step\n"
    "  takes, and each prompt token, decoding sequence and slot attended to adds\n"
    "opt-125m: that shape with random weights, written to build/models/; the other names: random weights "
    "too,\n"
    "made on the GPU. LIST: words between commas.\n";

struct Options {
  EngineOptions engine;
  std::string model = "models/SmolLM2-135M-Instruct.Q4_1.gguf", device = "host", dataset = "sharegpt";
  SparseGrid grid{.methods = {"h2o"},
                  .granularities = {"head"},
                  .strategies = {"spvllm", "free-block", "sparse-copy", "no-op"}};
  std::vector<std::uint32_t> budgets = {256, 512, 1024};
  std::vector<std::string> skipped;  // strategy@budget
  std::uint32_t concurrency = 0, prompts = 128, kv_mib = 64, step_us = 10000, prompt_token_us = 0,
                sequence_us = 0, kv_token_ns = 0;
  std::uint64_t seed = 1;
  double length_share = 1;  // of the dataset's lengths
  std::string iterations;   // file
};

/// `options` is filled by read().
void add_options(OptionReader& reader, Options& options) {
  options.grid.add_to(reader);
  reader.add("--model", options.model);
  reader.add("--device", options.device);
  reader.add("--dataset", options.dataset);
  reader.add("--num-prompts", options.prompts);
  reader.add("--max-concurrency", options.concurrency);
  reader.add("--budgets", options.budgets);
  reader.add("--skip", options.skipped);
  reader.add("--kv-cache-memory-mib", options.kv_mib);
  reader.add("--max-num-seqs", options.engine.max_num_seqs);
  reader.add("--max-num-batched-tokens", options.engine.max_num_batched_tokens);
  reader.add("--block-size", options.engine.block_size);
  reader.add("--max-itl-stretch", options.engine.max_itl_stretch);
  reader.add("--threads", options.engine.threads);
  reader.add("--seed", options.seed);
  reader.add("--step-us", options.step_us);
  reader.add("--prompt-token-us", options.prompt_token_us);
  reader.add("--sequence-us", options.sequence_us);
  reader.add("--kv-token-ns", options.kv_token_ns);
  reader.add("--length-share", options.length_share);
  reader.add("--iterations", options.iterations);
}

/// method none first: the others are measured against it.
std::vector<model::SparseKvParams> configurations(const Options& options, const OptionReader& reader) {
  std::vector<model::SparseKvParams> all(1);
  for (const std::uint32_t budget : options.budgets) {
    for (model::SparseKvParams params : options.grid.all(reader)) {
      params.budget = budget;
      const std::string name = std::string(model::name_of(params.strategy)) + "@" + std::to_string(budget);
      if (std::ranges::find(options.skipped, name) == options.skipped.end()) all.push_back(params);
    }
  }
  return all;
}

/// bound_ratio is null for the exact engine.
json::object line(const model::SparseKvParams& params, const Options& options, const ServingFigures& figures,
                  double bound, double speed_up) {
  json::object line = result_line(params, options.dataset);
  line["device"] = options.device;
  line["frag_p99"] = figures.frag_p99;
  line["frag_mean"] = figures.frag_mean;
  line["req_per_s"] = figures.req_per_s;
  line["tok_per_s"] = figures.tok_per_s;
  line["ttft_p50_ms"] = figures.ttft_p50_ms;
  line["tpot_p50_ms"] = figures.tpot_p50_ms;
  line["itl_p99_ms"] = figures.itl_p99_ms;
  line["preemptions"] = figures.stats.scheduler.preemptions;
  line["slots_reused"] = figures.stats.block_manager.slots_reused;
  line["blocks_copied"] = figures.stats.block_manager.blocks_copied;
  if (params.on()) line["bound_ratio"] = speed_up / bound;
  line["bound"] = bound;
  line["speed_up"] = speed_up;
  line["blocks"] = figures.blocks;
  line["held_mean"] = figures.held_mean;
  line["running_peak"] = figures.stats.scheduler.running_peak;
  line["steps"] = figures.stats.scheduler.steps;
  return line;
}

/// Fragmentation by step, at most 400 points: each the mean of its share of the steps.
void write_iterations(std::ostream& out, const json::object& about, const std::vector<float>& by_step) {
  constexpr std::size_t kPoints = 400;
  const std::size_t points = std::min(kPoints, by_step.size());
  json::array means;
  for (std::size_t p = 0; p < points; ++p) {
    const std::size_t begin = p * by_step.size() / points, end = (p + 1) * by_step.size() / points;
    double sum = 0;
    for (std::size_t i = begin; i < end; ++i) sum += static_cast<double>(by_step[i]);
    means.push_back(sum / static_cast<double>(end - begin));
  }
  out << json::serialize(json::object{{"method", about.at("method")},
                                      {"strategy", about.at("strategy")},
                                      {"budget", about.at("budget")},
                                      {"steps", by_step.size()},
                                      {"fragmentation", std::move(means)}})
      << std::endl;
}

std::vector<load::Lengths> lengths_of(const Options& options, const OptionReader& reader) {
  runtime::Random random(options.seed);
  std::vector<load::Lengths> lengths =
      load::draw_lengths(reader.known(load::length_table(options.dataset)), options.prompts, random);
  for (load::Lengths& each : lengths) {
    each.input = std::max(1U, static_cast<std::uint32_t>(each.input * options.length_share));
    each.output = std::max(1U, static_cast<std::uint32_t>(each.output * options.length_share));
  }
  return lengths;
}

/// A path, or what a name stands for: a directory that this writes.
void set_model(const Options& options, const OptionReader& reader, EngineOptions& engine) {
  engine.model = options.model;
  Result<void> written = {};
  if (options.model == "opt-125m") {
    engine.model = "build/models/opt-125m-random";
    written = write_random_opt(engine.model, 1);
  } else if (const Result<model::ModelSpec> shape = find_shape(options.model); shape) {
    engine.model = "build/models/" + options.model + "-shape";
    engine.load_format = model::LoadFormat::kDummy;
    written = write_config(*shape, engine.model);
  } else if (!std::filesystem::exists(options.model)) {
    reader.refuse("--model: no such file; " + shape.error().message + ", or opt-125m");
  }
  if (!written) reader.refuse(written.error().message);
}

/// Everything but what is sparsified.
ServingSetup setup_of(const Options& options, const OptionReader& reader) {
  ServingSetup setup{.engine = options.engine};
  if (options.concurrency != 0) setup.at_once = options.concurrency;
  setup.engine.kv_cache_memory_bytes = std::size_t{options.kv_mib} << 20;
  set_model(options, reader, setup.engine);
  if (options.device == "sim") {
    setup.simulated = {.step_ns = std::int64_t{options.step_us} * 1000,
                       .prefill_token_ns = std::int64_t{options.prompt_token_us} * 1000,
                       .decode_sequence_ns = std::int64_t{options.sequence_us} * 1000,
                       .attended_token_ns = options.kv_token_ns};
  } else if (options.device == "host" || options.device == "cuda") {
    setup.engine.device = options.device == "cuda" ? DeviceKind::kCuda : DeviceKind::kHost;
  } else {
    reader.refuse("--device is host, cuda or sim");
  }
  return setup;
}

std::string name_of(const model::SparseKvParams& params) {
  if (!params.on()) return "exact";
  return std::string(model::name_of(params.method)) + ", " + std::string(model::name_of(params.strategy)) +
         ", " + std::string(model::name_of(params.granularity)) + ", budget " + std::to_string(params.budget);
}

/// Tells on stderr, every quarter of a run, how far it is.
auto progress_of(const std::string& name) {
  return [name, quarter = std::size_t{0}](std::size_t done, std::size_t total) mutable {
    if (4 * done / total == quarter) return;
    quarter = 4 * done / total;
    std::cerr << name << ": " << done << " of " << total << " requests" << std::endl;
  };
}

int run(int argc, char** argv) {
  Options options;
  options.engine.enable_prefix_caching = false;
  options.engine.max_num_seqs = 64;
  options.engine.max_num_batched_tokens = 512;
  OptionReader reader("bench_sparse", kUsage);
  add_options(reader, options);
  reader.read(argc, argv);
  ServingSetup setup = setup_of(options, reader);
  const std::vector<load::Lengths> lengths = lengths_of(options, reader);
  std::ofstream iterations(options.iterations);
  const double exact_slots = mean_slots_held(lengths, 0, options.engine.block_size);
  double exact_req_per_s = 0;
  for (const model::SparseKvParams& params : configurations(options, reader)) {
    setup.engine.sparse_kv = params;
    setup.on_progress = progress_of(name_of(params));
    const Result<ServingFigures> figures = run_serving(setup, lengths, options.seed);
    if (!figures) {
      std::cerr << "bench_sparse: " << name_of(params) << ": " << figures.error().message << "\n";
      return 1;
    }
    if (!params.on()) exact_req_per_s = figures->req_per_s;
    const double bound =
        params.on() ? exact_slots / mean_slots_held(lengths, params.budget, options.engine.block_size) : 1;
    const json::object figures_line =
        line(params, options, *figures, bound, figures->req_per_s / exact_req_per_s);
    std::cout << json::serialize(figures_line) << std::endl;
    if (iterations.is_open()) write_iterations(iterations, figures_line, figures->fragmentation);
  }
  return 0;
}

}  // namespace
}  // namespace spillway::bench

int main(int argc, char** argv) { return spillway::bench::run(argc, argv); }
