// SPDX-License-Identifier: Apache-2.0
#include "actors/plan_step.hpp"

#include <algorithm>
#include <unordered_set>

#include "actors/memory_forecast.hpp"

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

/// Blocks to have in hand for one whose memory grows without bound: those of its tokens so far.
std::uint32_t blocks_wanted(const Sequence& sequence, std::uint32_t block_size) {
  if (!sequence.sparsified()) return blocks_for(sequence.length() + 1, block_size);
  const bool prompt_done = sequence.computed >= sequence.prompt_length;
  return prompt_done ? sequence.blocks + 1 : blocks_for(sequence.prompt_length + 1, block_size);
}

/// Steps between a sequence's last one and its blocks' return, at most.
constexpr std::uint32_t kReturnSteps = 2;
constexpr std::uint32_t kNeverEnds = UINT32_MAX / 2;

/// `prompt_steps`: until its prompt is computed.
MemoryCourse course_of(const Sequence& sequence, std::uint32_t prompt_steps, std::uint32_t block_size) {
  const std::uint32_t prompt = sequence.prompt_length;
  const auto answer = static_cast<std::uint32_t>(sequence.params.max_tokens);
  const std::uint32_t end = std::max(sequence.length(), std::min(prompt + answer, sequence.length_limit));
  const std::uint32_t from = std::max(sequence.computed, prompt);
  MemoryCourse course{.prompt_steps = sequence.computed < prompt ? prompt_steps : 0,
                      .prompt_blocks = blocks_for(prompt, block_size),
                      .slots = slots_after_prompt(prompt, from, sequence.sparse),
                      .slots_max = slots_after_prompt(prompt, end, sequence.sparse)};
  // Without room for a copy, holes stay for a while.
  course.slots = std::max(course.slots, sequence.slots.span);
  course.slots_max = std::max(course.slots_max, course.slots);
  course.steps = course.prompt_steps + (end - from) + kReturnSteps;
  if (sequence.held) {  // it may stay as it is, or go on at any time
    course.slots = course.slots_max;
    course.steps = kNeverEnds;
  }
  return course;
}

/// Tells when prompts will be computed, each behind those that came before it.
class PromptQueue {
 public:
  PromptQueue(const SchedulerState& state, const Budget& budget) {
    std::uint32_t decodes = 0;
    for (const auto& [arrival, id] : state.running) decodes += state.at(id).decodes() ? 1 : 0;
    const std::uint32_t rest = budget.max_batched_tokens - std::min(decodes, budget.max_batched_tokens);
    tokens_a_step_ = std::max(1U, std::min(rest, budget.max_prompt_tokens));
  }

  /// Puts the sequence behind the others; steps until it is computed.
  std::uint32_t join(const Sequence& sequence) {
    if (sequence.computed < sequence.prompt_length) tokens_ += sequence.prompt_length - sequence.computed;
    const std::uint64_t steps = (tokens_ + tokens_a_step_ - 1) / tokens_a_step_;
    return static_cast<std::uint32_t>(std::min<std::uint64_t>(steps, kNeverEnds / 2));
  }

 private:
  std::uint64_t tokens_ = 0, tokens_a_step_ = 1;
};

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
  std::size_t rows = state.free_rows.size();
  if (rows == 0 || state.waiting.empty()) return chosen;
  std::uint64_t room = budget.free_blocks;  // for all bounded ones
  std::uint64_t promised = 0;               // to the others
  std::size_t admitted = 0, growing = 0;
  PromptQueue prompts(state, budget);
  std::vector<MemoryCourse> courses;
  for (const auto& [arrival, id] : state.running) {
    const Sequence& sequence = state.at(id);
    const std::uint32_t prompt_steps = prompts.join(sequence);
    ++admitted;
    if (is_bounded(sequence)) {
      courses.push_back(course_of(sequence, prompt_steps, budget.block_size));
      room += sequence.blocks;
      continue;
    }
    ++growing;
    const std::uint32_t total = blocks_wanted(sequence, budget.block_size);
    promised += total > sequence.blocks ? total - sequence.blocks : 0;
  }
  MemoryForecast forecast(courses, budget.block_size);
  for (const auto& [arrival, id] : state.waiting) {
    const Sequence& sequence = state.at(id);
    if (rows == 0) break;
    if (sequence.steps_in_flight > 0) break;  // a token of its earlier life is still to come
    if (sequence.held) continue;
    const bool bounded = is_bounded(sequence);
    const std::uint32_t prompt_steps = prompts.join(sequence);
    const MemoryCourse course =
        bounded ? course_of(sequence, prompt_steps, budget.block_size) : MemoryCourse{};
    const std::uint32_t need =
        bounded ? 0 : std::min(blocks_wanted(sequence, budget.block_size), budget.total_blocks);
    // Alone it may use everything; beside others it leaves each that grows a block to grow into.
    const std::uint64_t spare = admitted == 0 ? 0 : growing + (bounded ? 0 : 1);
    const std::uint64_t peak =
        std::min<std::uint64_t>(forecast.peak_with(course), admitted == 0 ? budget.total_blocks : UINT64_MAX);
    if (peak + promised + need + spare > room) break;
    forecast.join(course);
    promised += need;
    ++admitted;
    growing += bounded ? 0 : 1;
    --rows;
    chosen.push_back(id);
  }
  return chosen;
}

}  // namespace spillway::actors
