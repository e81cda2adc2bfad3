// SPDX-License-Identifier: Apache-2.0
#include "tests/actors/sim_engine.hpp"

#include <algorithm>
#include <memory>
#include <vector>

#include "actors/serving.hpp"
#include "actors/session.hpp"
#include "gpu/sim/sim_device.hpp"
#include "runtime/random.hpp"
#include "runtime/sim_executor.hpp"

namespace spillway::actors {
namespace {

constexpr std::int32_t kVocab = 23;
constexpr TokenId kEos = 5;
constexpr auto kStallLimit = std::chrono::milliseconds(400);

/// What a client does with one request.
struct RequestPlan {
  GenerationRequest request;
  std::uint32_t read_before_pause = ~0u;  // events
  runtime::Duration pause{};
  std::uint32_t read_before_cancel = ~0u;
  bool drop_instead = false;
};

struct ClientPlan {
  runtime::Duration start{};
  std::uint32_t credits = 16;
  bool dies = false;     // leaves with everything open
  bool at_once = false;  // all requests together, read with next_event()
  std::vector<RequestPlan> requests;
};

/// Filled in by the clients; one for each request.
struct RequestReport {
  bool begun = false, accepted = false, refused = false, over = false, dropped = false;
  Error refusal;
  struct Choice {
    std::vector<TokenId> tokens;
    std::uint32_t ends = 0;
    bool failed = false;
    FinishReason reason = FinishReason::kStop;
    Usage usage;
    Error error;
  };
  std::vector<Choice> choices;
  std::string broken;
};

struct Limits {
  std::uint32_t max_model_len = 0, total_blocks = 0, block_size = 0;
};

void record(RequestReport& report, StreamEvent& event) {
  if (report.over) report.broken = "an event came after the end";
  struct Visit {
    RequestReport& report;
    void operator()(ChoiceDelta& delta) {
      RequestReport::Choice& choice = report.choices.at(delta.choice);
      if (choice.ends > 0) report.broken = "a delta came after the choice's end";
      for (const TokenInfo& token : delta.tokens) choice.tokens.push_back(token.token);
    }
    void operator()(ChoiceFinished& end) {
      RequestReport::Choice& choice = report.choices.at(end.choice);
      ++choice.ends;
      choice.reason = end.reason;
      choice.usage = end.usage;
    }
    void operator()(ChoiceFailed& end) {
      RequestReport::Choice& choice = report.choices.at(end.choice);
      ++choice.ends;
      choice.failed = true;
      choice.usage = end.usage;
      choice.error = end.error;
    }
    void operator()(RequestDone&) { report.over = true; }
  };
  std::visit(Visit{report}, event);
}

runtime::Task<void> read_one(runtime::ActorContext<ClientMessage>& self, Session& session, RequestPlan plan,
                             RequestReport* report, bool dies) {
  report->begun = true;
  report->choices.resize(static_cast<std::size_t>(std::max(plan.request.params.n, 1)));
  Result<Stream> stream = co_await session.generate(std::move(plan.request));
  if (!stream.ok()) {
    report->refused = true;
    report->refusal = stream.error();
    co_return;
  }
  report->accepted = true;
  for (std::uint32_t events = 0;; ++events) {
    if (events == plan.read_before_cancel) {
      if (dies || plan.drop_instead) {
        report->dropped = true;
        co_return;
      }
      stream->cancel();
    }
    if (events == plan.read_before_pause) co_await self.sleep_for(plan.pause);
    std::optional<StreamEvent> event = co_await stream->next();
    if (!event) break;
    record(*report, *event);
  }
  report->over = true;
}

runtime::Task<void> client(runtime::ActorContext<ClientMessage>& self, runtime::Address<RouterMessage> router,
                           ClientPlan plan, RequestReport* reports) {
  if (plan.start.count() > 0) co_await self.sleep_for(plan.start);
  Session session(self, router, plan.credits);
  if (plan.at_once) {
    std::vector<Stream> streams;
    std::vector<std::pair<StreamTag, RequestReport*>> tags;
    for (std::size_t i = 0; i < plan.requests.size(); ++i) {
      RequestReport& report = reports[i];
      report.begun = true;
      report.choices.resize(static_cast<std::size_t>(std::max(plan.requests[i].request.params.n, 1)));
      Result<Stream> stream = co_await session.generate(std::move(plan.requests[i].request));
      if (!stream.ok()) {
        report.refused = true;
        report.refusal = stream.error();
        continue;
      }
      report.accepted = true;
      tags.emplace_back(stream->tag(), &report);
      streams.push_back(std::move(*stream));
    }
    while (auto next = co_await session.next_event()) {
      const StreamTag tag = next->first;
      record(*std::ranges::find(tags, tag, &std::pair<StreamTag, RequestReport*>::first)->second,
             next->second);
    }
  } else {
    for (std::size_t i = 0; i < plan.requests.size(); ++i) {
      co_await read_one(self, session, std::move(plan.requests[i]), &reports[i], plan.dies);
      if (plan.dies && reports[i].dropped) co_return;
    }
  }
}

class Dice {
 public:
  explicit Dice(std::uint64_t seed) : random_(seed) {}
  [[nodiscard]] std::uint32_t below(std::uint32_t n) { return static_cast<std::uint32_t>(random_() % n); }
  [[nodiscard]] std::uint32_t between(std::uint32_t a, std::uint32_t b) { return a + below(b - a + 1); }
  [[nodiscard]] bool one_in(std::uint32_t n) { return below(n) == 0; }

 private:
  runtime::Random random_;
};

model::SparseKvParams random_sparse(Dice& dice) {
  model::SparseKvParams sparse;
  sparse.method = static_cast<model::SparseMethod>(dice.between(1, 5));
  sparse.strategy = static_cast<model::SparseStrategy>(dice.below(4));
  sparse.granularity = static_cast<model::SparseGranularity>(dice.below(3));
  sparse.num_per_evict = dice.one_in(2) ? 1 : dice.between(2, 16);
  sparse.sinks = dice.below(4);
  sparse.window = dice.between(1, 8);
  if (dice.one_in(2)) sparse.recent = dice.below(6);
  const std::uint32_t least =
      sparse.sinks + std::max<std::uint32_t>(1, sparse.recent.value_or(1)) + sparse.num_per_evict;
  if (dice.one_in(4)) {
    sparse.budget_fraction = 0.1 * dice.between(1, 9);
  } else {
    sparse.budget = least + dice.below(24);
  }
  return sparse;
}

RequestPlan random_request(Dice& dice, bool sparse_kv) {
  RequestPlan plan;
  auto& params = plan.request.params;
  // A few common beginnings, so that prefixes meet.
  const std::uint32_t family = dice.below(3);
  const std::uint32_t length =
      dice.one_in(12) ? dice.between(30, 70) : dice.between(dice.one_in(20) ? 0 : 1, 24);
  for (std::uint32_t i = 0; i < length; ++i) {
    plan.request.prompt.push_back(
        static_cast<TokenId>(i < 12 ? (family * 7 + i) % kVocab : dice.below(kVocab)));
  }
  if (dice.one_in(40)) plan.request.prompt.push_back(kVocab + 3);
  params.max_tokens = static_cast<std::int32_t>(dice.one_in(10) ? 0 : dice.between(1, 14));
  params.n = static_cast<std::int32_t>(dice.one_in(3) ? dice.between(2, 4) : 1);
  params.temperature = dice.one_in(2) ? 0.0f : 1.0f;
  params.seed = dice.below(5);
  params.ignore_eos = dice.one_in(3);
  if (sparse_kv && dice.one_in(2)) {
    params.sparse_kv = random_sparse(dice);
    params.max_tokens += static_cast<std::int32_t>(dice.below(20));
  }
  if (dice.one_in(4)) params.stop_token_ids = {static_cast<TokenId>(dice.below(kVocab))};
  if (dice.one_in(5)) params.logprobs = static_cast<std::int32_t>(dice.below(4));
  if (dice.one_in(6)) params.presence_penalty = 0.5f;
  if (dice.one_in(6)) {
    plan.read_before_pause = dice.below(6);
    plan.pause = std::chrono::milliseconds(dice.one_in(2) ? 5 : 2000);
  }
  if (dice.one_in(5)) {
    plan.read_before_cancel = dice.below(8);
    plan.drop_instead = dice.one_in(3);
  }
  return plan;
}

std::string wrong_with_choice(const RequestPlan& plan, const RequestReport::Choice& choice,
                              std::uint32_t index, const Limits& limits) {
  const auto& params = plan.request.params;
  const auto prompt_length = static_cast<std::uint32_t>(plan.request.prompt.size());
  const std::uint32_t limit = std::min(limits.max_model_len, limits.total_blocks * limits.block_size);
  const std::uint32_t count =
      std::min(static_cast<std::uint32_t>(params.max_tokens), limit - std::min(limit, prompt_length));
  std::vector<TokenId> stops = params.stop_token_ids;
  if (!params.ignore_eos) stops.push_back(kEos);
  model::SamplingParams resolved = params;
  if (params.sparse_kv) {
    resolved.sparse_kv = *model::resolve(*params.sparse_kv, prompt_length);
    resolved.sparse_kv->seed = params.seed;
  }
  const std::vector<TokenId> expected =
      gpu::reference_answer(plan.request.prompt, resolved, index, kVocab, count, stops);
  if (choice.tokens.size() > expected.size() ||
      !std::equal(choice.tokens.begin(), choice.tokens.end(), expected.begin())) {
    const auto list = [](const std::vector<TokenId>& tokens) {
      std::string text;
      for (const TokenId token : tokens) text += " " + std::to_string(token);
      return text;
    };
    return "choice " + std::to_string(index) + " has tokens" + list(choice.tokens) + ", right were" +
           list(expected) + "; prompt " + std::to_string(prompt_length) + " tokens, " +
           std::to_string(choice.usage.preemptions) + " preemptions, " +
           std::to_string(choice.usage.cached_tokens) + " cached";
  }
  if (choice.usage.completion_tokens != choice.tokens.size()) return "usage does not count the tokens";
  if (choice.failed || choice.reason == FinishReason::kCancelled) return {};
  if (choice.tokens.size() != expected.size())
    return "the answer is too short: " + std::to_string(choice.tokens.size()) + " of " +
           std::to_string(expected.size());
  const bool stopped = !expected.empty() && std::ranges::find(stops, expected.back()) != stops.end();
  if (stopped != (choice.reason == FinishReason::kStop)) return "wrong finish reason";
  if (choice.usage.prompt_tokens != prompt_length) return "usage does not count the prompt";
  return {};
}

}  // namespace

SimOutcome run_sim_engine(SimScenario scenario) {
  Dice dice(scenario.seed * 0x9e3779b97f4a7c15ULL + 1);
  SimOutcome outcome;

  runtime::SimOptions sim{.seed = scenario.seed};
  if (dice.one_in(2)) {
    sim.faults.delay_probability = 0.1 * dice.below(4);
    sim.faults.delay_max = std::chrono::microseconds(dice.between(1, 3000));
  }
  if (dice.one_in(3)) sim.faults.full_probability = 0.05;
  if (scenario.crashes) {
    sim.faults.crash_probability = 0.002 * dice.between(1, 5);
    sim.faults.crash_only = {"router", "scheduler", "block manager", "decoder", "transfer engine"};
    sim.faults.crashes_max = 1;
  }

  gpu::DeviceOptions device_options;
  device_options.block_size = dice.one_in(4) ? 1 : dice.between(2, 6);
  device_options.max_num_seqs = dice.between(1, 6);
  device_options.max_num_batched_tokens = device_options.max_num_seqs + dice.below(20);
  device_options.max_steps_in_flight = dice.between(1, 3);
  device_options.max_model_len = dice.between(20, 60);
  device_options.kv_cache_memory_bytes = std::size_t{dice.between(3, 40)} * device_options.block_size;

  device_options.sparse_kv = dice.one_in(2);

  // The plans live outside the run so that the checks can read them; the clients get copies.
  std::vector<ClientPlan> plans(dice.between(1, 5));
  std::vector<std::vector<RequestReport>> reports;
  for (ClientPlan& plan : plans) {
    plan.start = std::chrono::milliseconds(dice.one_in(2) ? 0 : dice.below(30));
    plan.credits = dice.between(1, 12);
    plan.dies = dice.one_in(8);
    plan.at_once = dice.one_in(3);
    plan.requests.resize(dice.between(1, 5));
    for (RequestPlan& request : plan.requests) request = random_request(dice, device_options.sparse_kv);
    reports.emplace_back(plan.requests.size());
  }
  gpu::SimFaults faults;
  if (dice.one_in(3)) faults.step_fails = 0.02 * dice.between(1, 5);
  if (dice.one_in(3)) faults.copy_fails = 0.3;
  const bool prefix_caching = !dice.one_in(4);
  const std::uint32_t tokens_behind = dice.between(1, 4);
  const double max_itl_stretch = dice.one_in(2) ? 1.5 : 0;
  const std::uint32_t usual_blocks = dice.one_in(2) ? dice.between(1, 8) : ~0u;

  runtime::SimExecutor executor(sim);
  runtime::Random device_luck(scenario.seed ^ 0x5bd1e995);
  gpu::SimDevice device(device_options, 1, kVocab, {}, faults,
                        {.now_ns = [&] { return runtime::to_ns(executor.now()); },
                         .call_at =
                             [&](std::int64_t ns, std::function<void()> call) {
                               executor.call_at(0, runtime::TimePoint(runtime::Duration(ns)),
                                                std::move(call));
                             },
                         .random = [&] { return device_luck(); }});
  Serving serving(executor, {.device = &device,
                             .device_options = device_options,
                             .vocab_size = kVocab,
                             .max_model_len = device_options.max_model_len,
                             .eos_ids = {kEos},
                             .prefix_caching = prefix_caching,
                             .usual_blocks = usual_blocks,
                             .max_itl_stretch = max_itl_stretch,
                             .check_invariants = true,
                             .tokens_behind_max = tokens_behind,
                             .stall_limit = kStallLimit});
  for (std::size_t i = 0; i < plans.size(); ++i) {
    executor.spawn<ClientMessage>({.name = "client"}, client, serving.router(), plans[i], reports[i].data());
  }

  constexpr std::uint64_t kStepsMax = 2'000'000;
  const std::uint64_t steps = executor.run_until_idle(kStepsMax);
  const ServingStats stats = serving.stats();
  outcome.trace_hash = executor.trace_hash();
  outcome.crashes = executor.crash_count();
  outcome.preemptions = stats.scheduler.preemptions;
  outcome.prefix_hits = stats.block_manager.prefix_hits_tokens;
  outcome.forks = stats.block_manager.forks;
  outcome.copies = stats.block_manager.copies;
  outcome.denials = stats.block_manager.denials;
  outcome.evicted = stats.block_manager.tokens_evicted;
  outcome.reused = stats.block_manager.slots_reused;
  outcome.compactions = stats.block_manager.compactions;
  outcome.blocks_copied = stats.block_manager.blocks_copied;
  outcome.blocks_emptied = stats.block_manager.blocks_emptied;
  outcome.failed_steps = stats.scheduler.failed_steps;
  outcome.cut = stats.router.cut;

  const auto fail = [&](std::string what) {
    if (outcome.broken.empty()) outcome.broken = std::move(what);
  };
  if (steps >= kStepsMax) fail("the run does not end");
  if (executor.crash_count() == 0) {
    if (executor.failure_count() > 0) fail("an actor threw");
    if (!stats.block_manager.broken.empty()) fail("blocks: " + stats.block_manager.broken);
    if (stats.block_manager.held != 0) fail(std::to_string(stats.block_manager.held) + " blocks leaked");
    if (stats.block_manager.tables != 0) fail(std::to_string(stats.block_manager.tables) + " tables leaked");
    if (stats.block_manager.unknown_releases != 0) fail("a lease was released twice");
    if (stats.router.open != 0) fail(std::to_string(stats.router.open) + " requests are still open");
    if (stats.scheduler.running + stats.scheduler.waiting != 0) fail("the scheduler still has sequences");
  }
  const Limits limits{device_options.max_model_len, device.info().num_blocks, device_options.block_size};
  for (std::size_t c = 0; c < plans.size(); ++c) {
    bool left = false;
    for (std::size_t r = 0; r < plans[c].requests.size(); ++r) {
      const RequestReport& report = reports[c][r];
      const std::string where = "client " + std::to_string(c) + " request " + std::to_string(r) + ": ";
      ++outcome.requests;
      if (left) continue;
      if (!report.broken.empty()) fail(where + report.broken);
      if (!report.begun) fail(where + "never begun");
      if (report.refused) {
        ++outcome.refused;
        continue;
      }
      if (report.dropped) {
        left = plans[c].dies;
        continue;
      }
      if (!report.over) {
        fail(where + "no end came");
        continue;
      }
      for (std::uint32_t j = 0; j < report.choices.size(); ++j) {
        const RequestReport::Choice& choice = report.choices[j];
        if (choice.usage.evicted_tokens > 0 && !choice.failed)
          outcome.sparse_preemptions += choice.usage.preemptions;
        if (choice.ends != 1) fail(where + "a choice ended " + std::to_string(choice.ends) + " times");
        (choice.failed                               ? outcome.failed
         : choice.reason == FinishReason::kCancelled ? outcome.cancelled
                                                     : outcome.finished)++;
        const bool planned_to_fail =
            executor.crash_count() > 0 || faults.step_fails > 0 || plans[c].requests[r].pause > kStallLimit;
        if (choice.failed && !planned_to_fail)
          fail(where + "failed without a fault: " + choice.error.message);
        if (std::string wrong = wrong_with_choice(plans[c].requests[r], choice, j, limits); !wrong.empty())
          fail(where + wrong);
      }
    }
  }
  executor.shutdown(std::chrono::milliseconds(1));
  return outcome;
}

}  // namespace spillway::actors
