// SPDX-License-Identifier: Apache-2.0
#include "bench/sparse/serving_run.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "bench/sparse/offered_load.hpp"
#include "bench/sparse/simulated_run.hpp"

namespace spillway::bench {
namespace {

using runtime::TimePoint;

double ms_between(TimePoint from, TimePoint to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

void add_times(const OfferedLoad& load, ServingFigures& figures) {
  const double seconds = ms_between(load.began, load.ended) / 1000;
  std::vector<double> ttft, tpot, itl;
  std::size_t tokens = 0;
  for (std::size_t r = 0; r < load.times.size(); ++r) {
    const std::vector<TimePoint>& times = load.times[r];
    if (times.empty()) continue;
    tokens += times.size();
    ttft.push_back(ms_between(load.sent[r], times.front()));
    if (times.size() > 1)
      tpot.push_back(ms_between(times.front(), times.back()) / static_cast<double>(times.size() - 1));
    for (std::size_t t = 1; t < times.size(); ++t) itl.push_back(ms_between(times[t - 1], times[t]));
  }
  figures.req_per_s = static_cast<double>(load.times.size()) / seconds;
  figures.tok_per_s = static_cast<double>(tokens) / seconds;
  figures.ttft_p50_ms = quantile(std::move(ttft), 0.5);
  figures.tpot_p50_ms = quantile(std::move(tpot), 0.5);
  figures.itl_p99_ms = quantile(std::move(itl), 0.99);
}

void add_slots(const ServedLoad& served, ServingFigures& figures) {
  std::vector<double> by_step;
  double held = 0;
  for (const actors::SlotTotals& totals : served.slots) {
    by_step.push_back(totals.fragmentation());
    held += static_cast<double>(totals.slots);
  }
  figures.fragmentation.assign(by_step.begin(), by_step.end());
  if (!by_step.empty()) {
    const auto steps = static_cast<double>(by_step.size());
    figures.frag_mean = std::accumulate(by_step.begin(), by_step.end(), 0.0) / steps;
    figures.held_mean = held / steps / (static_cast<double>(served.blocks) * served.block_size);
  }
  figures.frag_p99 = quantile(std::move(by_step), 0.99);
}

Result<ServedLoad> serve_on_engine(EngineOptions options, const std::vector<net::load::Lengths>& lengths,
                                   std::uint64_t seed, OfferedLoad& load) {
  ServedLoad served{.block_size = options.block_size};
  options.on_slots = [&served](const actors::SlotTotals& totals) {  // on one worker, gone after shutdown()
    if (totals.slots != 0) served.slots.push_back(totals);
  };
  Result<std::unique_ptr<Engine>> engine = Engine::create(options);
  if (!engine) return std::move(engine).error();
  add_requests(lengths, (*engine)->model().spec().vocab_size, seed, load);
  (*engine)->start(&run_load, &load).wait();
  served.stats = (*engine)->stats();
  served.blocks = (*engine)->device().num_blocks;
  (*engine)->shutdown();
  return served;
}

}  // namespace

double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  const auto rank =
      std::min(values.size() - 1, static_cast<std::size_t>(q * static_cast<double>(values.size())));
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(rank), values.end());
  return values[rank];
}

double mean_slots_held(const std::vector<net::load::Lengths>& lengths, std::uint32_t budget,
                       std::uint32_t block_size) {
  double slots = 0, steps = 0;
  for (const net::load::Lengths& each : lengths) {
    for (std::uint32_t t = 1; t <= each.output; ++t) {
      const std::uint32_t live = budget == 0 ? each.input + t : std::min(budget, each.input + t);
      slots += (live + block_size - 1) / block_size * block_size;
    }
    steps += each.output;
  }
  return steps == 0 ? 0 : slots / steps;
}

Result<ServingFigures> run_serving(const ServingSetup& setup, const std::vector<net::load::Lengths>& lengths,
                                   std::uint64_t seed) {
  OfferedLoad load{.at_once = setup.at_once, .on_progress = setup.on_progress};
  Result<ServedLoad> served = setup.simulated
                                  ? serve_simulated(setup.engine, *setup.simulated, lengths, seed, load)
                                  : serve_on_engine(setup.engine, lengths, seed, load);
  if (!served) return std::move(served).error();
  if (load.error) return *load.error;
  ServingFigures figures{.stats = served->stats, .blocks = served->blocks};
  add_times(load, figures);
  add_slots(*served, figures);
  return figures;
}

}  // namespace spillway::bench
