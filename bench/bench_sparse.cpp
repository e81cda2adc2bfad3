// SPDX-License-Identifier: Apache-2.0
// KV sparsification under a memory-bound load: one engine after the other, exact first, with the same
// requests and the same memory for KV. One JSON line a configuration; bench/sparse/run.py makes tables and
// plots of them.

#include <algorithm>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "bench/sparse/random_opt.hpp"
#include "bench/sparse/serving_run.hpp"

namespace spillway::bench {
namespace {

namespace json = boost::json;
namespace load = net::load;

constexpr const char* kUsage =
    "usage: bench_sparse [--model PATH|opt-125m] [--device host|cuda|sim] [--dataset "
    "sharegpt|sharegpt-8k|...]\n"
    "  [--num-prompts N] [--methods LIST] [--strategies LIST] [--granularities LIST] [--budgets LIST]\n"
    "  [--kv-cache-memory-mib N] [--max-num-seqs N] [--block-size N] [--threads N] [--seed N]\n"
    "  [--step-us N (device sim)] [--length-share X] [--iterations FILE]\n"
    "opt-125m: that shape with random weights, written to build/models/. LIST: words between commas.\n";

struct Options {
  EngineOptions engine;
  std::string model = "models/SmolLM2-135M-Instruct.Q4_1.gguf", dataset = "sharegpt";
  std::vector<std::string> methods = {"h2o"}, granularities = {"head"},
                           strategies = {"spvllm", "free-block", "sparse-copy", "no-op"};
  std::vector<std::uint32_t> budgets = {256, 512, 1024};
  std::uint32_t prompts = 128, step_us = 2000;
  std::uint64_t seed = 1;
  double length_share = 1;  // of the dataset's lengths
  std::string iterations;   // file
};

[[noreturn]] void refuse(const std::string& message) {
  std::cerr << "bench_sparse: " << message << "\n" << kUsage;
  std::exit(2);
}

template <class T>
T number(std::string_view option, std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    refuse(std::string(option) + " wants a number, not '" + std::string(text) + "'");
  return value;
}

std::vector<std::string> words(std::string_view text) {
  std::vector<std::string> list;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(','), text.size());
    list.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return list;
}

void set_device(EngineOptions& engine, std::string_view name) {
  if (name != "host" && name != "cuda" && name != "sim") refuse("--device is host, cuda or sim");
  engine.device = name == "cuda" ? DeviceKind::kCuda : DeviceKind::kHost;
  engine.simulate_device = name == "sim";
}

Options parse(int argc, char** argv) {
  Options options;
  options.engine.enable_prefix_caching = false;
  options.engine.max_num_seqs = 64;
  options.engine.kv_cache_memory_bytes = std::size_t{64} << 20;
  set_device(options.engine, "host");
  for (int i = 1; i < argc; i += 2) {
    const std::string_view name = argv[i], value = i + 1 < argc ? argv[i + 1] : "";
    if (name == "--model")
      options.model = value;
    else if (name == "--device")
      set_device(options.engine, value);
    else if (name == "--dataset")
      options.dataset = value;
    else if (name == "--num-prompts")
      options.prompts = number<std::uint32_t>(name, value);
    else if (name == "--methods")
      options.methods = words(value);
    else if (name == "--strategies")
      options.strategies = words(value);
    else if (name == "--granularities")
      options.granularities = words(value);
    else if (name == "--budgets") {
      options.budgets.clear();
      for (const std::string& word : words(value))
        options.budgets.push_back(number<std::uint32_t>(name, word));
    } else if (name == "--kv-cache-memory-mib")
      options.engine.kv_cache_memory_bytes = number<std::size_t>(name, value) << 20;
    else if (name == "--max-num-seqs")
      options.engine.max_num_seqs = number<std::uint32_t>(name, value);
    else if (name == "--block-size")
      options.engine.block_size = number<std::uint32_t>(name, value);
    else if (name == "--threads")
      options.engine.threads = number<std::uint32_t>(name, value);
    else if (name == "--seed")
      options.seed = number<std::uint64_t>(name, value);
    else if (name == "--step-us")
      options.step_us = number<std::uint32_t>(name, value);
    else if (name == "--length-share")
      options.length_share = number<double>(name, value);
    else if (name == "--iterations")
      options.iterations = value;
    else
      refuse("unknown option '" + std::string(name) + "'");
  }
  options.engine.simulated_step = std::chrono::microseconds(options.step_us);
  return options;
}

template <class T>
T known(const Result<T>& result) {
  if (!result) refuse(result.error().message);
  return *result;
}

/// method none first: the others are measured against it.
std::vector<model::SparseKvParams> configurations(const Options& options) {
  std::vector<model::SparseKvParams> all(1);
  for (const std::string& method : options.methods) {
    for (const std::uint32_t budget : options.budgets) {
      for (const std::string& granularity : options.granularities) {
        for (const std::string& strategy : options.strategies) {
          all.push_back({.method = known(model::parse_sparse_method(method)),
                         .strategy = known(model::parse_sparse_strategy(strategy)),
                         .granularity = known(model::parse_sparse_granularity(granularity)),
                         .budget = budget});
        }
      }
    }
  }
  return all;
}

/// What the keys mean: docs/sparsification.md. bound_ratio is null for the exact engine.
json::object line(const model::SparseKvParams& params, const std::string& dataset,
                  const ServingFigures& figures, json::value bound_ratio) {
  const bool on = params.on();
  const auto word = [on](std::string_view text) { return on ? json::value(text) : json::value(nullptr); };
  return {{"method", model::name_of(params.method)},
          {"strategy", word(model::name_of(params.strategy))},
          {"granularity", word(model::name_of(params.granularity))},
          {"budget", on ? json::value(params.budget) : json::value(nullptr)},
          {"workload", dataset},
          {"frag_p99", figures.frag_p99},
          {"frag_mean", figures.frag_mean},
          {"req_per_s", figures.req_per_s},
          {"tok_per_s", figures.tok_per_s},
          {"ttft_p50_ms", figures.ttft_p50_ms},
          {"tpot_p50_ms", figures.tpot_p50_ms},
          {"itl_p99_ms", figures.itl_p99_ms},
          {"preemptions", figures.stats.scheduler.preemptions},
          {"slots_reused", figures.stats.block_manager.slots_reused},
          {"blocks_copied", figures.stats.block_manager.blocks_copied},
          {"perplexity", nullptr},
          {"bound_ratio", std::move(bound_ratio)}};
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

std::vector<load::Lengths> lengths_of(const Options& options) {
  runtime::Random random(options.seed);
  std::vector<load::Lengths> lengths =
      load::draw_lengths(known(load::length_table(options.dataset)), options.prompts, random);
  for (load::Lengths& each : lengths) {
    each.input = std::max(1U, static_cast<std::uint32_t>(each.input * options.length_share));
    each.output = std::max(1U, static_cast<std::uint32_t>(each.output * options.length_share));
  }
  return lengths;
}

int run(Options options) {
  options.engine.model = options.model;
  if (options.model == "opt-125m") {
    options.engine.model = "build/models/opt-125m-random";
    if (Result<void> written = write_random_opt(options.engine.model, 1); !written)
      refuse(written.error().message);
  }
  const std::vector<load::Lengths> lengths = lengths_of(options);
  std::ofstream iterations(options.iterations);
  double exact_req_per_s = 0;
  for (const model::SparseKvParams& params : configurations(options)) {
    EngineOptions engine = options.engine;
    engine.sparse_kv = params;
    const Result<ServingFigures> figures = run_serving(engine, lengths, options.seed);
    if (!figures) {
      std::cerr << "bench_sparse: " << model::name_of(params.method) << ", budget " << params.budget << ": "
                << figures.error().message << "\n";
      return 1;
    }
    json::value ratio = nullptr;
    if (params.on()) {
      const double bound = mean_slots_held(lengths, 0, engine.block_size) /
                           mean_slots_held(lengths, params.budget, engine.block_size);
      ratio = figures->req_per_s / exact_req_per_s / bound;
      std::cerr << figures->blocks << " blocks; speed-up " << figures->req_per_s / exact_req_per_s << " of "
                << bound << "\n";
    } else {
      exact_req_per_s = figures->req_per_s;
    }
    const json::object figures_line = line(params, options.dataset, *figures, std::move(ratio));
    std::cout << json::serialize(figures_line) << std::endl;
    if (iterations.is_open()) write_iterations(iterations, figures_line, figures->fragmentation);
  }
  return 0;
}

}  // namespace
}  // namespace spillway::bench

int main(int argc, char** argv) { return spillway::bench::run(spillway::bench::parse(argc, argv)); }
