// SPDX-License-Identifier: Apache-2.0
#pragma once

// The requests of one run and when their tokens came: the client's side, whatever serves it.

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "actors/block_tables.hpp"
#include "actors/serving.hpp"
#include "actors/session.hpp"
#include "net/load/lengths.hpp"

namespace spillway::bench {

struct OfferedLoad {
  std::vector<actors::GenerationRequest> requests;
  std::size_t at_once = SIZE_MAX;  // requests open at a time; the next follows when one is done
  std::function<void(std::size_t done, std::size_t total)> on_progress;
  runtime::TimePoint began{}, ended{};
  std::vector<runtime::TimePoint> sent;                // of each request
  std::vector<std::vector<runtime::TimePoint>> times;  // of each request's tokens
  std::optional<Error> error;                          // of the first that did not run to its end
};

/// What the engine says of a run.
struct ServedLoad {
  actors::ServingStats stats;
  std::vector<actors::SlotTotals> slots;  // by step
  std::uint32_t blocks = 0, block_size = 0;
};

/// Fills in the requests: random ids of `seed`, greedy, each answer to its full length.
void add_requests(const std::vector<net::load::Lengths>& lengths, std::int32_t vocabulary, std::uint64_t seed,
                  OfferedLoad& load);

/// Sends all of it, in order. `load` outlives the session.
[[nodiscard]] runtime::Task<void> run_load(actors::Session& session, OfferedLoad* load);

}  // namespace spillway::bench
