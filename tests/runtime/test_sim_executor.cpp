// SPDX-License-Identifier: Apache-2.0
#include <set>

#include "tests/runtime/probe.hpp"
#include "tests/support/catch.hpp"

namespace spillway::runtime {
namespace {

using namespace probe;
using namespace std::chrono_literals;

struct Go {};

Task<void> numbered_sender(ActorContext<Go>& self, Address<ProbeMessage> to, int from, int count) {
  for (int i = from; i < from + count; ++i) {
    if (i % 3 == 0) {
      to.post(Put{i});
    } else {
      (void)co_await to.send(Put{i});
    }
    if (self.random().chance(0.3)) co_await self.yield();
  }
}

struct Run {
  std::uint64_t hash = 0;
  std::vector<int> values;
};

Run run_crowd(std::uint64_t seed, FaultPlan faults) {
  Log log;
  SimExecutor sim(SimOptions{.seed = seed, .faults = std::move(faults), .workers = 3});
  const auto to = sim.spawn<ProbeMessage>({.name = "log", .mailbox_capacity = 4}, recorder, &log);
  for (int s = 0; s < 4; ++s) sim.spawn<Go>({.name = "sender"}, numbered_sender, to, s * 100, 30);
  sim.run_until_idle();
  return Run{sim.trace_hash(), log.values};
}

FaultPlan all_faults() {
  return FaultPlan{.delay_probability = 0.5,
                   .delay_max = 2ms,
                   .crash_probability = 0.02,
                   .crash_only = {"sender"},
                   .full_probability = 0.2};
}

}  // namespace

TEST_CASE("simulation: a seed replays to the same hash and the same values") {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    for (const bool faults : {false, true}) {
      const Run first = run_crowd(seed, faults ? all_faults() : FaultPlan{});
      const Run second = run_crowd(seed, faults ? all_faults() : FaultPlan{});
      CHECK(first.hash == second.hash);
      CHECK(first.values == second.values);
    }
  }
}

TEST_CASE("simulation: different seeds walk through different orders") {
  std::set<std::uint64_t> hashes;
  std::set<std::vector<int>> orders;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    const Run run = run_crowd(seed, {});
    CHECK(run.values.size() == 120);
    hashes.insert(run.hash);
    orders.insert(run.values);
  }
  CHECK(hashes.size() == 50);
  CHECK(orders.size() == 50);
}

TEST_CASE("simulation: delays reorder senders, never one sender's own messages") {
  bool interleaved = false;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    const Run run = run_crowd(seed, FaultPlan{.delay_probability = 0.7, .delay_max = 5ms, .full_probability = 0.3});
    CHECK(run.values.size() == 120);
    std::vector<std::vector<int>> by_sender(4);
    for (const int v : run.values) by_sender[static_cast<std::size_t>(v / 100)].push_back(v);
    for (int s = 0; s < 4; ++s) CHECK(by_sender[static_cast<std::size_t>(s)] == range(s * 100, s * 100 + 30));
    interleaved |= !std::is_sorted(run.values.begin(), run.values.end());
  }
  CHECK(interleaved);
}

TEST_CASE("simulation: injected crashes hit only whom they may, no more often than allowed") {
  std::uint32_t crashes = 0;
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    Log log;
    SimExecutor sim(SimOptions{
        .seed = seed, .faults = {.crash_probability = 0.1, .crash_only = {"sender"}, .crashes_max = 2}});
    const auto to = sim.spawn<ProbeMessage>({.name = "log"}, recorder, &log);
    for (int s = 0; s < 4; ++s) sim.spawn<Go>({.name = "sender"}, numbered_sender, to, s * 100, 30);
    sim.run_until_idle();
    CHECK(to.alive());
    CHECK(sim.crash_count() <= 2);
    CHECK(sim.failure_count() == sim.crash_count());
    crashes += sim.crash_count();
  }
  CHECK(crashes > 20);
}

TEST_CASE("simulation: mailboxes may claim to be full") {
  Log log;
  struct Trier {
    static Task<void> run(ActorContext<Go>&, Address<ProbeMessage> to, int* refused) {
      for (int i = 0; i < 200; ++i) {
        if (to.try_send(Put{i}) == SendStatus::kFull) ++*refused;
      }
      co_return;
    }
  };
  int refused = 0;
  SimExecutor sim(SimOptions{.seed = 9, .faults = {.full_probability = 0.25}});
  const auto to = sim.spawn<ProbeMessage>({.mailbox_capacity = 1000}, recorder, &log);
  sim.spawn<Go>({}, Trier::run, to, &refused);
  sim.run_until_idle();
  CHECK(refused > 20);
  CHECK(refused < 80);
  CHECK(log.values.size() == 200 - static_cast<std::size_t>(refused));
}

TEST_CASE("simulation: time passes only as far as it is asked to") {
  Log log;
  SimExecutor sim;
  const auto to = sim.spawn<ProbeMessage>({}, recorder, &log);
  for (int i = 1; i <= 5; ++i) sim.call_at(0, TimePoint{} + i * 10ms, [to, i] { to.post(Put{i}); });
  sim.run_for(25ms);
  CHECK(log.values == range(1, 3));
  CHECK(sim.now() == TimePoint{} + 25ms);
  sim.run_for(5ms);
  CHECK(log.values == range(1, 4));
  CHECK(sim.run_until_idle(1) == 1);
  sim.run_until_idle();
  CHECK(log.values == range(1, 6));
  CHECK(sim.now() == TimePoint{} + 50ms);
  CHECK_FALSE(sim.step());
}

TEST_CASE("simulation: a poller is looked at in every step") {
  struct CountPolls final : Poller {
    bool poll() noexcept override {
      ++polls;
      return true;
    }
    int polls = 0;
  };
  CountPolls poller;
  Log log;
  SimExecutor sim;
  sim.add_poller(0, &poller);
  const auto to = sim.spawn<ProbeMessage>({}, recorder, &log);
  to.post(Put{1});
  sim.run_until_idle();
  CHECK(poller.polls >= 2);
  sim.remove_poller(0, &poller);
  const int before = poller.polls;
  to.post(Put{1});
  sim.run_until_idle();
  CHECK(poller.polls == before);
}

}  // namespace spillway::runtime
