// SPDX-License-Identifier: Apache-2.0
#pragma once

// SchedulerState: every sequence that has not ended, the order in which they are served, and the scheduler's
// view of the memory. Owned by the scheduler actor; read by the pure functions that decide.

#include <cstdint>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "actors/sequence.hpp"

namespace spillway::actors {

/// Limits of one step.
struct Budget {
  std::uint32_t max_batched_tokens = 0;
  std::uint32_t max_sequences = 0;  // rows
  std::uint32_t block_size = 0;
  std::uint32_t total_blocks = 0;
  std::uint32_t free_blocks = 0;                 // as the block manager last said
  std::uint32_t max_prompt_tokens = UINT32_MAX;  // beside sequences that decode
};

struct SchedulerState {
  using Place = std::pair<std::uint64_t, SequenceId>;  // arrival, id

  std::unordered_map<SequenceId, Sequence> sequences;
  std::set<Place> waiting;  // by arrival: a preempted sequence is in front of all that came after it
  std::set<Place> running;  // admitted, by arrival
  std::vector<gpu::RowId> free_rows;

  [[nodiscard]] const Sequence& at(SequenceId id) const { return sequences.at(id); }
  [[nodiscard]] Sequence& at(SequenceId id) { return sequences.at(id); }
  [[nodiscard]] Sequence* find(SequenceId id) {
    const auto found = sequences.find(id);
    return found == sequences.end() ? nullptr : &found->second;
  }
};

[[nodiscard]] constexpr std::uint32_t blocks_for(std::uint32_t tokens, std::uint32_t block_size) noexcept {
  return (tokens + block_size - 1) / block_size;
}

}  // namespace spillway::actors
