// SPDX-License-Identifier: Apache-2.0
#pragma once

// The scheduler's decisions, as plain functions of its state.

#include <cstdint>
#include <vector>

#include "actors/scheduler_state.hpp"

namespace spillway::actors {

struct PlannedSequence {
  SequenceId id{};
  std::uint32_t first_position = 0;
  std::uint32_t token_count = 0;
  std::uint32_t prompt_count = 0;  // leading tokens that belong to the prompt
  bool samples = false;
  bool token_from_row = false;  // the input is still on the device

  friend bool operator==(const PlannedSequence&, const PlannedSequence&) = default;
};

struct StepDecision {
  std::vector<PlannedSequence> sequences;  // decodes first, then prefill chunks, each by arrival
  std::vector<SequenceId> preempt;         // give up their blocks before the step is prepared
};

/// Which sequences run in the next step and how many tokens of each.
///  1. Every running sequence that decodes gets its one token: a running answer never waits behind a prompt.
///  2. What is left of the token budget goes to prompts by arrival, in chunks; beside running answers at most
///     budget.max_prompt_tokens.
///  3. Where blocks run short, the sequence that came last gives up its blocks (held ones first), never one
///  that
///     came before the sequence in need; so the oldest always finishes.
[[nodiscard]] StepDecision plan_step(const SchedulerState& state, const Budget& budget);

/// How many sequences would decode in the next step, memory permitting, and how many wait for their first
/// token.
struct Demand {
  std::uint32_t decodes = 0, prompts = 0;
};
[[nodiscard]] Demand demand(const SchedulerState& state);

/// Which waiting sequences to admit now, first come first served: each needs a row, and free blocks for all
/// of its tokens besides what running prompts still need and one spare block for each running sequence.
/// Sparsified ones whose slots their budgets bound need no spare block: all that they will hold at any time
/// is counted (memory_forecast.hpp). The first that does not fit stops the queue, so that a long prompt is
/// never starved by short ones.
[[nodiscard]] std::vector<SequenceId> choose_admissions(const SchedulerState& state, const Budget& budget);

}  // namespace spillway::actors
