// SPDX-License-Identifier: Apache-2.0
#include "actors/step_pace.hpp"

#include <algorithm>
#include <memory>
#include <vector>

#include "actors/serving.hpp"
#include "actors/session.hpp"
#include "gpu/sim/sim_device.hpp"
#include "runtime/random.hpp"
#include "runtime/sim_executor.hpp"
#include "tests/support/catch.hpp"

namespace spillway::actors {
namespace {

/// A device whose steps take base + 50 us a decode + `token_ns` a prompt token, some steps in flight.
struct Machine {
  StepPace pace{1.7};
  double base_ns = 10e6, token_ns = 400e3, begin_ns = 0;
  std::uint32_t prompts = 1;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> in_flight;  // decodes, prompt tokens

  double time_of(std::uint32_t decodes, std::uint32_t tokens) const {
    return base_ns + 50e3 * decodes + token_ns * tokens + (tokens > 0 ? begin_ns : 0);
  }
  std::uint32_t step(std::uint32_t decodes, std::uint32_t prompt_left) {
    const std::uint32_t tokens = std::min({prompt_left, pace.prompt_tokens(decodes, prompts), 512u});
    in_flight.emplace_back(decodes, tokens);
    if (in_flight.size() > 2) {
      const auto [d, t] = in_flight.front();
      in_flight.erase(in_flight.begin());
      pace.measured(d, t, static_cast<std::int64_t>(time_of(d, t)));
    }
    return tokens;
  }
};

TEST_CASE("step pace: no limit without a stretch or without anybody who decodes") {
  CHECK(StepPace(0).prompt_tokens(16, 1) == StepPace::kUnlimited);
  CHECK(StepPace(1.7).prompt_tokens(0, 1) == StepPace::kUnlimited);
}

TEST_CASE("step pace: a long prompt moves on, and no step exceeds the stretch once its cost is known") {
  for (const std::uint32_t decodes : {1u, 16u, 64u}) {
    for (const double token_ns : {10e3, 400e3, 3e6}) {
      Machine machine;
      machine.token_ns = token_ns;
      std::uint32_t left = 4000, steps = 0, mixed = 0;
      double longest = 0;
      while (left > 0 && steps < 20000) {
        const std::uint32_t tokens = machine.step(decodes, left);
        left -= tokens;
        ++steps;
        mixed += tokens > 0 ? 1 : 0;
        if (mixed > 3)
          longest = std::max(longest, machine.time_of(decodes, tokens) / machine.time_of(decodes, 0));
      }
      INFO(decodes << " decode, " << token_ns << " ns a token, " << steps << " steps");
      CHECK(left == 0);
      // Four tokens a step are the least; where one costs this much they are too many.
      const double least = 1 + 4 * token_ns / machine.time_of(decodes, 0);
      CHECK(longest <= std::max(1.71, least));
      if (token_ns < 1e6) CHECK(steps < 4000);
    }
  }
}

TEST_CASE("step pace: what a chunk costs is told apart into its beginning and its tokens") {
  ChunkCost cost;
  CHECK_FALSE(cost.known());
  cost.add(16, 16 * 300.0);
  CHECK(cost.begin_ns() == Approx(0).margin(1e-6));  // one length tells nothing: all is by token
  CHECK(cost.token_ns() == Approx(300));
  for (int i = 0; i < 60; ++i) {
    const std::uint32_t tokens = i % 8 == 0 ? 12 : 24;
    cost.add(tokens, 5000 + tokens * 200.0);
  }
  CHECK(cost.begin_ns() == Approx(5000).epsilon(0.05));
  CHECK(cost.token_ns() == Approx(200).epsilon(0.05));
  cost.add(24, 1e9);  // held up by something else
  CHECK(cost.begin_ns() + 24 * cost.token_ns() < 1.5 * (5000 + 24 * 200.0));
  for (int i = 0; i < 60; ++i) cost.add(24, 24 * 100.0);  // cheaper than its beginning was thought to be
  CHECK(cost.begin_ns() >= 0);
  CHECK(cost.begin_ns() + 24 * cost.token_ns() == Approx(2400).epsilon(0.05));
}

TEST_CASE("step pace: a chunk that is dear to begin is long enough to be worth it, within 1.8 times a step") {
  for (const double begin_ns : {1e6, 4e6, 7e6, 30e6}) {
    Machine machine;
    machine.pace = StepPace(1.4);
    machine.token_ns = 200e3;
    machine.begin_ns = begin_ns;
    double tokens = 0, steps = 0;
    for (int i = 0; i < 1500; ++i) {
      const std::uint32_t chunk = machine.step(16, 1'000'000);
      if (i < 300 || chunk == 0) continue;
      tokens += chunk, ++steps;
      // Four tokens are the least, where even they take longer.
      CHECK(machine.time_of(16, chunk) <= std::max(1.85 * machine.time_of(16, 0), machine.time_of(16, 4)));
    }
    INFO("begin " << begin_ns << " ns, mean chunk " << tokens / steps);
    const double alone = machine.time_of(16, 0);
    const double worthwhile = std::min(begin_ns, 0.8 * alone - begin_ns) / 200e3;
    const double stretch = (0.4 * alone - begin_ns) / 200e3;
    CHECK(tokens / steps >= 0.85 * std::max({4.0, worthwhile, stretch}));
  }
}

TEST_CASE("step pace: where several wait, prompts get more of a step") {
  const auto largest_chunk = [](std::uint32_t decodes, std::uint32_t prompts) {
    Machine machine;
    machine.prompts = prompts;
    std::uint32_t chunk = 0;
    for (int step = 0; step < 60; ++step) chunk = std::max(chunk, machine.step(decodes, 1'000'000));
    return static_cast<double>(chunk);
  };
  const double alone = largest_chunk(16, 1);
  CHECK(alone > 0);
  CHECK(largest_chunk(16, 2) == alone);  // one more weighs less than sixteen readers
  CHECK(largest_chunk(16, 3) == alone);
  CHECK(largest_chunk(16, 9) == Approx(4 * alone).epsilon(0.1));
  CHECK(largest_chunk(16, 17) == Approx(8 * alone).epsilon(0.1));
  CHECK(largest_chunk(1, 1) == Approx(largest_chunk(2, 1)).epsilon(0.1));  // a single newcomer never pushes
}

TEST_CASE("step pace: it follows a prompt token that becomes dearer") {
  Machine machine;
  std::uint32_t worst_at_end = 0;
  for (int i = 0; i < 600; ++i) {
    machine.token_ns = 300e3 * (1 + i / 300.0);
    const std::uint32_t tokens = machine.step(16, 1'000'000);
    if (i > 10) {
      const double stretch = machine.time_of(16, tokens) / machine.time_of(16, 0);
      CHECK(stretch < 1.8);
      worst_at_end = std::max(worst_at_end, tokens);
    }
  }
  CHECK(worst_at_end > 8);
}

TEST_CASE("step pace: noise neither stops a prompt nor lets it jump") {
  Machine machine;
  runtime::Random luck(7);
  std::uint32_t last = 16;
  for (int i = 0; i < 2000; ++i) {
    const std::uint32_t tokens = machine.step(8, 1'000'000);
    machine.base_ns = 10e6 * (luck() % 10 == 0 ? 0.3 : 1 + (luck() % 100) / 300.0);
    if (tokens == 0) continue;
    CHECK(tokens >= 4);
    CHECK(tokens <= std::max(16u, 2 * last) * 4);  // steps in flight see an older one
    last = tokens;
  }
}

/// Passes everything on to a simulated device and remembers how long its steps took.
class Watched final : public gpu::Device {
 public:
  explicit Watched(gpu::SimDevice& device) : device_(device) {}
  [[nodiscard]] const gpu::DeviceInfo& info() const noexcept override { return device_.info(); }
  void set_sink(gpu::CompletionSink* sink) noexcept override { device_.set_sink(sink); }
  [[nodiscard]] Result<gpu::Ticket> submit(gpu::StepPlan plan) override {
    Step step;
    for (const gpu::SequenceStep& sequence : plan.sequences) {
      (sequence.token_from_row ? step.decodes : step.prompt_tokens) += sequence.token_count;
    }
    steps.push_back(step);
    Result<gpu::Ticket> ticket = device_.submit(std::move(plan));
    REQUIRE(ticket.ok());
    REQUIRE(*ticket == steps.size());
    return ticket;
  }
  [[nodiscard]] gpu::StepResult take(gpu::Ticket ticket) override {
    gpu::StepResult result = device_.take(ticket);
    steps[ticket - 1].ns = result.device_ns;
    return result;
  }
  [[nodiscard]] Result<gpu::Ticket> copy(gpu::CopyPlan plan) override {
    return device_.copy(std::move(plan));
  }

  struct Step {
    std::uint32_t decodes = 0, prompt_tokens = 0;
    std::int64_t ns = 0;
  };
  std::vector<Step> steps;

 private:
  gpu::SimDevice& device_;
};

runtime::Task<void> ask(runtime::ActorContext<ClientMessage>& self, runtime::Address<RouterMessage> router,
                        runtime::Duration start, std::uint32_t prompt, std::int32_t answer,
                        std::uint32_t* done) {
  if (start.count() > 0) co_await self.sleep_for(start);
  Session session(self, router, 16);
  GenerationRequest request;
  request.prompt.assign(prompt, 3);
  request.params.max_tokens = answer;
  request.params.ignore_eos = true;
  Result<Stream> stream = co_await session.generate(std::move(request));
  REQUIRE(stream.ok());
  for (std::optional<StreamEvent> event = co_await stream->next(); event; event = co_await stream->next()) {
    if (std::holds_alternative<ChoiceFinished>(*event)) ++*done;
  }
}

/// 16 answers of 400 tokens; 100 ms later a prompt of 4096.
struct Arrival {
  std::uint32_t done = 0;
  std::vector<Watched::Step> steps;

  explicit Arrival(double max_itl_stretch) {
    gpu::DeviceOptions options{.block_size = 16,
                               .kv_cache_memory_bytes = 1024 * 16,
                               .max_num_seqs = 32,
                               .max_num_batched_tokens = 512,
                               .max_model_len = 8192,
                               .max_steps_in_flight = 2};
    runtime::SimExecutor executor(runtime::SimOptions{.seed = 11});
    runtime::Random luck(5);
    const gpu::TimingProfile profile{.step_ns = 8'000'000, .prefill_token_ns = 400'000};
    gpu::SimDevice device(options, 1, 23, profile, {},
                          {.now_ns = [&] { return runtime::to_ns(executor.now()); },
                           .call_at =
                               [&](std::int64_t ns, std::function<void()> call) {
                                 executor.call_at(0, runtime::TimePoint(runtime::Duration(ns)),
                                                  std::move(call));
                               },
                           .random = [&] { return luck(); }});
    Watched watched(device);
    Serving serving(executor, {.device = &watched,
                               .device_options = options,
                               .vocab_size = 23,
                               .max_model_len = options.max_model_len,
                               .prefix_caching = false,
                               .max_itl_stretch = max_itl_stretch,
                               .check_invariants = true});
    for (int i = 0; i < 16; ++i) {
      executor.spawn<ClientMessage>({.name = "reader"}, ask, serving.router(), runtime::Duration{}, 20u, 400,
                                    &done);
    }
    executor.spawn<ClientMessage>({.name = "newcomer"}, ask, serving.router(), std::chrono::milliseconds(400),
                                  4096u, 8, &done);
    executor.run_until_idle(5'000'000);
    steps = std::move(watched.steps);
  }

  /// The longest and the median step that decodes for all 16, ns.
  std::pair<std::int64_t, std::int64_t> decode_times() const {
    std::vector<std::int64_t> times;
    for (const Watched::Step& step : steps) {
      if (step.decodes >= 16) times.push_back(step.ns);
    }
    std::ranges::sort(times);
    return {times.back(), times[times.size() / 2]};
  }
};

TEST_CASE("step pace: sixteen answers keep their pace while a prompt of 4096 tokens arrives") {
  const Arrival paced(1.7);
  CHECK(paced.done == 17);
  const auto [longest, median] = paced.decode_times();
  INFO("longest step " << longest << " ns, median " << median);
  CHECK(longest <= 2 * median);

  const Arrival free(0);
  CHECK(free.done == 17);
  CHECK(free.decode_times().first > 10 * free.decode_times().second);
}

}  // namespace
}  // namespace spillway::actors
