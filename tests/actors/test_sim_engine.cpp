// SPDX-License-Identifier: Apache-2.0
// The whole engine under random schedules and faults. Each failure prints its seed; run one alone with
//   SPILLWAY_SIM_SEED=N test_actors_sim
#include <cstdlib>
#include <set>

#include "tests/actors/sim_engine.hpp"
#include "tests/support/catch.hpp"

namespace spillway::actors {
namespace {

struct Seeds {
  std::uint64_t first = 1, count = 0;
};

Seeds seeds(std::uint64_t count) {
  if (const char* one = std::getenv("SPILLWAY_SIM_SEED")) return {std::strtoull(one, nullptr, 10), 1};
  if (const char* many = std::getenv("SPILLWAY_SIM_SEEDS")) return {1, std::strtoull(many, nullptr, 10)};
  return {1, count};
}

TEST_CASE(
    "sim engine: nothing is lost, answered twice, leaked or wrong over 10,000 random schedules with faults") {
  const auto [first, count] = seeds(10'000);
  SimOutcome total;
  std::set<std::uint64_t> traces;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    const SimOutcome run = run_sim_engine({.seed = seed});
    INFO("seed " << seed << ": " << run.broken);
    REQUIRE(run.broken.empty());
    traces.insert(run.trace_hash);
    total.requests += run.requests;
    total.refused += run.refused;
    total.finished += run.finished;
    total.cancelled += run.cancelled;
    total.failed += run.failed;
    total.cut += run.cut;
    total.preemptions += run.preemptions;
    total.prefix_hits += run.prefix_hits;
    total.forks += run.forks;
    total.copies += run.copies;
    total.failed_steps += run.failed_steps;
    total.denials += run.denials;
    total.evicted += run.evicted;
    total.reused += run.reused;
    total.compactions += run.compactions;
    total.blocks_copied += run.blocks_copied;
    total.blocks_emptied += run.blocks_emptied;
    total.sparse_preemptions += run.sparse_preemptions;
  }
  if (count < 1000) return;
  // The schedules must have been to all these places, else the test has lost its teeth.
  UNSCOPED_INFO("requests " << total.requests << " refused " << total.refused << " finished "
                            << total.finished << " cancelled " << total.cancelled << " failed "
                            << total.failed << " cut " << total.cut << " preemptions " << total.preemptions
                            << " prefix hits " << total.prefix_hits << " forks " << total.forks << " copies "
                            << total.copies << " failed steps " << total.failed_steps << " denials "
                            << total.denials << " evicted " << total.evicted << " reused " << total.reused
                            << " compactions " << total.compactions << " blocks copied "
                            << total.blocks_copied << " emptied " << total.blocks_emptied
                            << " sparse preemptions " << total.sparse_preemptions);
  CHECK(traces.size() == count);
  CHECK(total.finished > count);
  CHECK(total.refused > 0);
  CHECK(total.cancelled > 0);
  CHECK(total.failed > 0);
  CHECK(total.cut > 0);
  CHECK(total.preemptions > 0);
  CHECK(total.prefix_hits > 0);
  CHECK(total.copies > 0);
  CHECK(total.failed_steps > 0);
  CHECK(total.evicted > 0);
  CHECK(total.reused > 0);
  CHECK(total.compactions > 0);
  CHECK(total.blocks_copied > 0);
  CHECK(total.blocks_emptied > 0);
  CHECK(total.sparse_preemptions > 0);
}

TEST_CASE("sim engine: when a serving actor dies, every request still gets its one last word") {
  const auto [first, count] = seeds(2'000);
  std::uint64_t crashes = 0;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    const SimOutcome run = run_sim_engine({.seed = seed, .crashes = true});
    INFO("seed " << seed << ": " << run.broken);
    REQUIRE(run.broken.empty());
    crashes += run.crashes;
  }
  if (count >= 1000) CHECK(crashes > count / 10);
}

TEST_CASE("sim engine: a seed replays to the same trace") {
  const auto [first, count] = seeds(200);
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    INFO("seed " << seed);
    REQUIRE(run_sim_engine({.seed = seed}).trace_hash == run_sim_engine({.seed = seed}).trace_hash);
  }
}

}  // namespace
}  // namespace spillway::actors
