// SPDX-License-Identifier: Apache-2.0
#include "actors/plan_step.hpp"

#include <algorithm>
#include <unordered_set>

namespace spillway::actors {
namespace {

bool ready(const Sequence& sequence) {
  return sequence.phase == Sequence::Phase::kRunning && !sequence.held && sequence.wants_step();
}

/// Goes once more through output that was computed before a preemption.
bool replays(const Sequence& sequence) {
  return sequence.sparsified() && sequence.computed >= sequence.prompt_length;
}

/// Tokens that one step may compute of it.
std::uint32_t uncomputed(const Sequence& sequence) {
  if (replays(sequence)) return 1;
  const std::uint32_t end = sequence.sparsified() ? sequence.prompt_length : sequence.length();
  return end - sequence.computed;
}

/// Its slots never exceed what its budget and its longest answer say, so that all of them can be promised at
/// once.
bool is_bounded(const Sequence& sequence) {
  const auto& sparse = sequence.sparse;
  return sparse.on() && (sparse.strategy == model::SparseStrategy::kSpvllm ||
                         sparse.strategy == model::SparseStrategy::kSparseCopy);
}

/// Blocks to have in hand for it: all that a bounded one will ever use, of any other those of its tokens so
/// far.
std::uint32_t blocks_wanted(const Sequence& sequence, std::uint32_t block_size) {
  if (!sequence.sparsified()) return blocks_for(sequence.length() + 1, block_size);
  const bool prompt_done = sequence.computed >= sequence.prompt_length;
  if (!is_bounded(sequence)) {
    return prompt_done ? sequence.blocks + 1 : blocks_for(sequence.prompt_length + 1, block_size);
  }
  const auto answer = static_cast<std::uint32_t>(sequence.params.max_tokens);
  const std::uint32_t end =
      std::max(sequence.length(), std::min(sequence.prompt_length + answer, sequence.length_limit));
  const std::uint32_t kept = slots_after_prompt(sequence.prompt_length, end, sequence.sparse);
  return blocks_for(prompt_done ? kept : std::max(kept, sequence.prompt_length), block_size);
}

/// Tracks free blocks while a step is put together, and takes blocks from late comers when they run short.
class Memory {
 public:
  Memory(const SchedulerState& state, const Budget& budget)
      : state_(state), budget_(budget), free_(budget.free_blocks) {}

  [[nodiscard]] bool gave_up(SequenceId id) const { return gone_.contains(id); }
  [[nodiscard]] bool planned(SequenceId id) const { return planned_.contains(id); }

  /// Reserves what `sequence` lacks to compute positions up to `end`.
  bool reserve(const Sequence& sequence, std::uint32_t end, std::vector<SequenceId>& preempt) {
    const std::uint32_t wanted = blocks_for(slots_for(sequence, end), budget_.block_size);
    const std::uint32_t lacking = wanted > sequence.blocks ? wanted - sequence.blocks : 0;
    while (lacking > free_) {
      const Sequence* victim = last_behind(sequence);
      if (victim == nullptr) return false;
      gone_.insert(victim->id);
      preempt.push_back(victim->id);
      // Shared blocks may stay with another sequence: count only what surely comes back.
      free_ += victim->blocks - victim->shared_blocks;
    }
    free_ -= lacking;
    planned_.insert(sequence.id);
    return true;
  }

  /// The most tokens, up to `tokens`, whose blocks are there without taking any from others.
  [[nodiscard]] std::uint32_t fit(const Sequence& sequence, std::uint32_t tokens) const {
    return std::min(tokens, (sequence.blocks + free_) * budget_.block_size);
  }

 private:
  [[nodiscard]] std::uint32_t slots_for(const Sequence& sequence, std::uint32_t end) const {
    if (!sequence.sparsified()) return end;
    return plan_slots(sequence.slots, sequence.computed, end - sequence.computed, sequence.prompt_length,
                      sequence.sparse, budget_.block_size)
        .span;
  }

  /// The last of those behind `sequence` that hold blocks and are not in this step: held ones first.
  [[nodiscard]] const Sequence* last_behind(const Sequence& sequence) const {
    const Sequence* last = nullptr;
    for (auto place = state_.running.rbegin(); place != state_.running.rend(); ++place) {
      const Sequence& other = state_.at(place->second);
      if (other.phase != Sequence::Phase::kRunning || gone_.contains(other.id) || planned_.contains(other.id))
        continue;
      if (other.blocks == 0 || other.id == sequence.id) continue;
      if (other.held) return &other;  // its client is not reading: nobody notices
      if (last == nullptr && other.arrival > sequence.arrival) last = &other;
    }
    return last;
  }

  const SchedulerState& state_;
  const Budget& budget_;
  std::uint32_t free_;
  std::unordered_set<SequenceId> gone_, planned_;
};

}  // namespace

Demand demand(const SchedulerState& state) {
  Demand demand;
  for (const auto& [arrival, id] : state.running) {
    const Sequence& sequence = state.at(id);
    if (!ready(sequence)) continue;
    ++(sequence.decodes() ? demand.decodes : demand.prompts);
  }
  for (const auto& [arrival, id] : state.waiting) demand.prompts += state.at(id).held ? 0 : 1;
  return demand;
}

StepDecision plan_step(const SchedulerState& state, const Budget& budget) {
  StepDecision decision;
  Memory memory(state, budget);
  std::uint32_t tokens_left = budget.max_batched_tokens;

  for (const auto& [arrival, id] : state.running) {
    const Sequence& sequence = state.at(id);
    if (tokens_left == 0) break;
    if (!ready(sequence) || !sequence.decodes() || memory.gave_up(id)) continue;
    if (!memory.reserve(sequence, sequence.computed + 1, decision.preempt)) continue;
    --tokens_left;
    decision.sequences.push_back({.id = id,
                                  .first_position = sequence.computed,
                                  .token_count = 1,
                                  .samples = true,
                                  .token_from_row = sequence.sampling > 0});
  }

  if (!decision.sequences.empty()) tokens_left = std::min(tokens_left, budget.max_prompt_tokens);
  for (const auto& [arrival, id] : state.running) {
    const Sequence& sequence = state.at(id);
    if (tokens_left == 0) break;
    if (!ready(sequence) || sequence.decodes() || memory.gave_up(id)) continue;
    std::uint32_t end = sequence.computed + std::min(uncomputed(sequence), tokens_left);
    if (!replays(sequence)) end = memory.fit(sequence, end);
    if (end <= sequence.computed) end = sequence.computed + 1;  // one token, at another's cost
    if (!memory.reserve(sequence, end, decision.preempt)) continue;
    const std::uint32_t count = end - sequence.computed;
    tokens_left -= count;
    decision.sequences.push_back(
        {.id = id,
         .first_position = sequence.computed,
         .token_count = count,
         .prompt_count = sequence.computed < sequence.prompt_length
                             ? std::min(count, sequence.prompt_length - sequence.computed)
                             : 0,
         .samples = end == sequence.length() && sequence.params.max_tokens > 0,
         .token_from_row = false});
  }
  return decision;
}

std::vector<SequenceId> choose_admissions(const SchedulerState& state, const Budget& budget) {
  std::vector<SequenceId> chosen;
  std::uint64_t promised = 0;
  std::size_t admitted = 0, growing = 0;
  for (const auto& [arrival, id] : state.running) {
    const Sequence& sequence = state.at(id);
    ++admitted;
    growing += is_bounded(sequence) ? 0 : 1;
    const std::uint32_t total = blocks_wanted(sequence, budget.block_size);
    promised += total > sequence.blocks ? total - sequence.blocks : 0;
  }
  std::size_t rows = state.free_rows.size();
  for (const auto& [arrival, id] : state.waiting) {
    const Sequence& sequence = state.at(id);
    if (rows == 0) break;
    if (sequence.steps_in_flight > 0) break;  // a token of its earlier life is still to come
    if (sequence.held) continue;
    const std::uint32_t need = blocks_wanted(sequence, budget.block_size);
    // Alone it may use everything; beside others it leaves each that grows a block to grow into.
    const std::uint64_t spare = admitted == 0 ? 0 : growing + (is_bounded(sequence) ? 0 : 1);
    const std::uint32_t bounded = std::min(need, budget.total_blocks);
    if (promised + bounded + spare > budget.free_blocks && !(admitted == 0 && bounded <= budget.free_blocks))
      break;
    promised += bounded;
    ++admitted;
    growing += is_bounded(sequence) ? 0 : 1;
    --rows;
    chosen.push_back(id);
  }
  return chosen;
}

}  // namespace spillway::actors
