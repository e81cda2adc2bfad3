// SPDX-License-Identifier: Apache-2.0
#pragma once

// One run of one load on one engine: requests all at once or so many at a time, greedy, each to its full
// length, and what that took of time and of KV slots.

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "actors/engine.hpp"
#include "gpu/sim/sim_device.hpp"
#include "net/load/lengths.hpp"

namespace spillway::bench {

struct ServingSetup {
  EngineOptions engine;
  std::optional<gpu::TimingProfile> simulated;  // no device of engine's: this one, on a clock of its own
  std::size_t at_once = SIZE_MAX;               // requests open at a time
  std::function<void(std::size_t done, std::size_t total)> on_progress;  // after each request
};

struct ServingFigures {
  double req_per_s = 0, tok_per_s = 0;  // answer tokens
  double ttft_p50_ms = 0, tpot_p50_ms = 0, itl_p99_ms = 0;
  double frag_p99 = 0, frag_mean = 0;  // over the steps with held slots, 0 to 1
  double held_mean = 0;                // share of the pool's slots, over the same steps
  std::vector<float> fragmentation;    // by step
  actors::ServingStats stats;
  std::uint32_t blocks = 0;  // of the pool
};

/// Prompts are random ids of `seed`, the same for every configuration. Errors: the engine's, or the first
/// request's that did not end.
[[nodiscard]] Result<ServingFigures> run_serving(const ServingSetup& setup,
                                                 const std::vector<net::load::Lengths>& lengths,
                                                 std::uint64_t seed);

/// Mean over the decode steps of all requests of the slots that one holds, in whole blocks; `budget` 0:
/// exact.
[[nodiscard]] double mean_slots_held(const std::vector<net::load::Lengths>& lengths, std::uint32_t budget,
                                     std::uint32_t block_size);

/// The value at share q of [0, 1] of the sorted values; 0 when there are none.
[[nodiscard]] double quantile(std::vector<double> values, double q);

}  // namespace spillway::bench
