// SPDX-License-Identifier: Apache-2.0
#include "bench/sparse/serving_run.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include "runtime/random.hpp"

namespace spillway::bench {
namespace {

using runtime::TimePoint;

double ms_between(TimePoint from, TimePoint to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

struct Load {
  std::vector<GenerationRequest> requests;
  TimePoint began{}, ended{};
  std::vector<std::vector<TimePoint>> times;  // of each request's tokens
  std::optional<Error> error;                 // of the first that did not run to its end
};

Load make_load(const std::vector<net::load::Lengths>& lengths, std::int32_t vocabulary, std::uint64_t seed) {
  constexpr std::uint64_t kFirstId = 3;  // the special ones are below
  runtime::Random random(seed);
  Load load;
  for (const net::load::Lengths& each : lengths) {
    GenerationRequest request;
    for (std::uint32_t i = 0; i < each.input; ++i) {
      request.prompt.push_back(static_cast<model::TokenId>(
          kFirstId + random.below(static_cast<std::uint64_t>(vocabulary) - kFirstId)));
    }
    request.params.max_tokens = static_cast<std::int32_t>(each.output);
    request.params.temperature = 0;
    request.params.ignore_eos = true;
    load.requests.push_back(std::move(request));
  }
  load.times.resize(lengths.size());
  return load;
}

Task<void> run_load(Session& session, Load* load) {
  std::map<StreamTag, std::size_t> request_of;
  std::vector<Stream> streams;
  load->began = session.now();
  for (std::size_t i = 0; i < load->requests.size(); ++i) {
    GenerationRequest request = load->requests[i];
    Result<Stream> stream = co_await session.generate(std::move(request));
    if (!stream) {
      load->error = stream.error();
      co_return;
    }
    request_of[stream->tag()] = i;
    streams.push_back(std::move(*stream));
  }
  while (auto event = co_await session.next_event()) {
    auto& [tag, what] = *event;
    if (const auto* delta = std::get_if<ChoiceDelta>(&what)) {
      auto& times = load->times[request_of[tag]];
      times.insert(times.end(), delta->tokens.size(), session.now());
    } else if (const auto* failed = std::get_if<ChoiceFailed>(&what)) {
      if (!load->error) load->error = failed->error;
    }
  }
  load->ended = session.now();
}

void add_times(const Load& load, ServingFigures& figures) {
  const double seconds = ms_between(load.began, load.ended) / 1000;
  std::vector<double> ttft, tpot, itl;
  std::size_t tokens = 0;
  for (const std::vector<TimePoint>& times : load.times) {
    if (times.empty()) continue;
    tokens += times.size();
    ttft.push_back(ms_between(load.began, times.front()));
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

Result<ServingFigures> run_serving(const EngineOptions& options,
                                   const std::vector<net::load::Lengths>& lengths, std::uint64_t seed) {
  ServingFigures figures;
  EngineOptions watched = options;
  watched.on_slots = [&figures](const actors::SlotTotals& totals) {  // on one worker, gone after shutdown()
    if (totals.slots != 0) figures.fragmentation.push_back(static_cast<float>(totals.fragmentation()));
  };
  Result<std::unique_ptr<Engine>> engine = Engine::create(watched);
  if (!engine) return std::move(engine).error();
  Load load = make_load(lengths, (*engine)->model().spec().vocab_size, seed);
  (*engine)->start(&run_load, &load).wait();
  figures.stats = (*engine)->stats();
  figures.blocks = (*engine)->device().num_blocks;
  (*engine)->shutdown();
  if (load.error) return *load.error;
  add_times(load, figures);
  const std::vector<double> by_step(figures.fragmentation.begin(), figures.fragmentation.end());
  figures.frag_p99 = quantile(by_step, 0.99);
  if (!by_step.empty())
    figures.frag_mean =
        std::accumulate(by_step.begin(), by_step.end(), 0.0) / static_cast<double>(by_step.size());
  return figures;
}

}  // namespace spillway::bench
