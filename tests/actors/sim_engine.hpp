// SPDX-License-Identifier: Apache-2.0
#pragma once

// A whole engine under the deterministic executor: random clients, random limits, random faults, from one
// seed. The simulated device answers with tokens that only a right KV cache gives, so outputs are checked as
// well.

#include <cstdint>
#include <string>

namespace spillway::actors {

struct SimOutcome {
  std::string broken;  // the first invariant that did not hold; empty if all did
  std::uint64_t trace_hash = 0;
  // What happened, so that a test can tell that the schedules reach what they should.
  std::uint64_t requests = 0, refused = 0, finished = 0, cancelled = 0, failed = 0, cut = 0;
  std::uint64_t preemptions = 0, prefix_hits = 0, forks = 0, copies = 0, failed_steps = 0, denials = 0,
                crashes = 0;
  std::uint64_t evicted = 0, reused = 0, compactions = 0, blocks_copied = 0, blocks_emptied = 0,
                sparse_preemptions = 0;  // of choices that had evicted tokens and were finished
};

struct SimScenario {
  std::uint64_t seed = 1;
  bool crashes = false;  // serving actors fail at random, too
};

[[nodiscard]] SimOutcome run_sim_engine(SimScenario scenario);

}  // namespace spillway::actors
