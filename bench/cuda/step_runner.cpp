// SPDX-License-Identifier: Apache-2.0
#include "bench/cuda/step_runner.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <utility>

#include "bench/cuda/card.hpp"

namespace spillway::bench {

using namespace gpu;
using Clock = std::chrono::steady_clock;

StepRunner::StepRunner(Device& device, std::uint32_t vocab, std::uint32_t filled)
    : device_(device), vocab_(vocab), filled_(filled) {
  device_.set_sink(&sink_);
}

void StepRunner::add(StepPlan& plan, std::uint32_t index, std::uint32_t first, std::uint32_t tokens,
                     bool samples, bool from_row) const {
  SequenceStep s;
  s.row = RowId{index};
  s.first_position = first;
  s.token_count = tokens;
  s.token_offset = static_cast<std::uint32_t>(plan.tokens.size());
  s.block_offset = static_cast<std::uint32_t>(plan.block_table.size());
  s.block_count = (first + tokens + kBlock - 1) / kBlock;
  s.token_from_row = from_row;
  s.samples = samples;
  s.output_index = first;
  for (std::uint32_t i = 0; i < tokens; ++i)
    plan.tokens.push_back(static_cast<model::TokenId>((index * 7919 + (first + i) * 104729) % vocab_));
  const std::uint32_t blocks = device_.info().num_blocks, stride = 7919;
  const std::uint64_t base = std::uint64_t{index} * (filled_ / kBlock);
  for (std::uint32_t b = 0; b < s.block_count; ++b)
    plan.block_table.push_back(BlockId{static_cast<std::uint32_t>((base + b) * stride % blocks)});
  if (first == 0) {
    RowInit init;
    init.row = s.row;
    init.params.temperature = 0;
    plan.row_inits.push_back(std::move(init));
  }
  plan.sequences.push_back(s);
}

Ticket StepRunner::submit(StepPlan plan) {
  plan.step = ++step_;
  const Result<Ticket> ticket = device_.submit(std::move(plan));
  if (!ticket) fail(ticket.error().message);
  return *ticket;
}

double StepRunner::take(Ticket ticket) {
  const StepResult result = device_.take(ticket);
  if (result.failed) fail(result.message);
  return static_cast<double>(result.device_ns) * 1e-6;
}

double StepRunner::run(StepPlan plan) {
  const Ticket ticket = submit(std::move(plan));
  while (!is_done(ticket)) (void)device_.poll();
  return take(ticket);
}

StepRunner::Times StepRunner::run(const StepPlan& plan, int count) {
  std::vector<double> device_ms;
  std::deque<Ticket> open;
  int submitted = 0, taken = 0;
  Clock::time_point begin = Clock::now();
  const int warm = std::min(4, count - 1);
  while (taken < count) {
    while (submitted < count && submitted - taken < 2) {
      StepPlan copy = plan;
      if (submitted > 0) copy.row_inits.clear();
      open.push_back(submit(std::move(copy)));
      ++submitted;
    }
    while (!is_done(open.front())) (void)device_.poll();
    const double ms = take(open.front());
    open.pop_front();
    if (++taken == warm) begin = Clock::now();
    if (taken > warm) device_ms.push_back(ms);
  }
  const double wall = std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
  return {median(device_ms), wall / std::max(1, count - warm)};
}

Ticket StepRunner::copy(CopyPlan plan) {
  const Result<Ticket> ticket = device_.copy(std::move(plan));
  if (!ticket) fail(ticket.error().message);
  return *ticket;
}

void StepRunner::fail(const std::string& message) {
  std::fprintf(stderr, "%s\n", message.c_str());
  std::exit(1);
}

}  // namespace spillway::bench
