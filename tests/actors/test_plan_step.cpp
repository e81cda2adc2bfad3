// SPDX-License-Identifier: Apache-2.0
#include "actors/plan_step.hpp"

#include "tests/support/catch.hpp"

namespace spillway::actors {
namespace {

struct Bench {
  SchedulerState state;
  Budget budget{
      .max_batched_tokens = 16, .max_sequences = 8, .block_size = 4, .total_blocks = 100, .free_blocks = 100};
  std::uint64_t arrivals = 0;

  Bench() {
    for (std::uint32_t row = 0; row < budget.max_sequences; ++row) state.free_rows.push_back(gpu::RowId{row});
  }

  SequenceId add(std::uint32_t prompt, Sequence::Phase phase, std::uint32_t computed, std::uint32_t outputs) {
    const SequenceId id{++arrivals};
    Sequence sequence{.id = id, .arrival = arrivals, .prompt_length = prompt, .length_limit = 1000};
    sequence.tokens.resize(prompt + outputs);
    sequence.params.max_tokens = 100;
    sequence.phase = phase;
    sequence.computed = computed;
    sequence.blocks = blocks_for(computed, budget.block_size);
    (phase == Sequence::Phase::kWaiting ? state.waiting : state.running).insert({sequence.arrival, id});
    state.sequences.emplace(id, sequence);
    return id;
  }
  SequenceId waiting(std::uint32_t prompt) { return add(prompt, Sequence::Phase::kWaiting, 0, 0); }
  SequenceId prefilling(std::uint32_t prompt, std::uint32_t computed = 0) {
    return add(prompt, Sequence::Phase::kRunning, computed, 0);
  }
  SequenceId decoding(std::uint32_t length) {
    return add(length - 1, Sequence::Phase::kRunning, length - 1, 1);
  }
};

TEST_CASE("plan: decodes come first, prompts get what is left of the budget in chunks") {
  Bench bench;
  const auto prompt = bench.prefilling(40);
  const auto answer = bench.decoding(10);
  const StepDecision step = plan_step(bench.state, bench.budget);
  REQUIRE(step.sequences.size() == 2);
  CHECK(step.sequences[0] == PlannedSequence{answer, 9, 1, 0, true, false});
  CHECK(step.sequences[1] == PlannedSequence{prompt, 0, 15, 15, false, false});
}

TEST_CASE("plan: the last chunk of a prompt samples") {
  Bench bench;
  const auto prompt = bench.prefilling(20, 16);
  const StepDecision step = plan_step(bench.state, bench.budget);
  REQUIRE(step.sequences.size() == 1);
  CHECK(step.sequences[0] == PlannedSequence{prompt, 16, 4, 4, true, false});
}

TEST_CASE("plan: a token that is still on the device feeds the next step from there") {
  Bench bench;
  const auto answer = bench.decoding(10);
  Sequence& sequence = bench.state.at(answer);
  sequence.sampling = 1;
  sequence.computed = 10;
  const StepDecision step = plan_step(bench.state, bench.budget);
  REQUIRE(step.sequences.size() == 1);
  CHECK(step.sequences[0] == PlannedSequence{answer, 10, 1, 0, true, true});
}

TEST_CASE("plan: what is computed again keeps apart the tokens of the prompt and those generated") {
  Bench bench;
  bench.budget.max_batched_tokens = 8;
  const auto preempted = bench.add(10, Sequence::Phase::kRunning, 4, 6);
  StepDecision step = plan_step(bench.state, bench.budget);
  REQUIRE(step.sequences.size() == 1);
  CHECK(step.sequences[0] == PlannedSequence{preempted, 4, 8, 6, false, false});
  bench.state.at(preempted).computed = 12;
  step = plan_step(bench.state, bench.budget);
  REQUIRE(step.sequences.size() == 1);
  CHECK(step.sequences[0] == PlannedSequence{preempted, 12, 4, 0, true, false});
}

TEST_CASE("plan: a sequence at its limits gets no further step") {
  Bench bench;
  const auto answer = bench.decoding(10);
  bench.state.at(answer).params.max_tokens = 1;
  CHECK(plan_step(bench.state, bench.budget).sequences.empty());
  bench.state.at(answer).params.max_tokens = 5;
  bench.state.at(answer).length_limit = 10;
  CHECK(plan_step(bench.state, bench.budget).sequences.empty());
}

TEST_CASE("plan: a held sequence is left out") {
  Bench bench;
  bench.state.at(bench.decoding(10)).held = true;
  CHECK(plan_step(bench.state, bench.budget).sequences.empty());
}

TEST_CASE("plan: when blocks run short the last to come gives way, and the first never does") {
  Bench bench;
  const auto first = bench.decoding(9);   // needs a third block
  const auto second = bench.decoding(9);  // needs one too
  bench.budget.free_blocks = 0;
  const StepDecision step = plan_step(bench.state, bench.budget);
  CHECK(step.preempt == std::vector{second});
  REQUIRE(step.sequences.size() == 1);
  CHECK(step.sequences[0].id == first);
}

TEST_CASE("plan: shared blocks of a victim are not counted as won") {
  Bench bench;
  (void)bench.decoding(9);
  const auto middle = bench.decoding(10);
  const auto last = bench.decoding(10);
  bench.state.at(last).shared_blocks = bench.state.at(last).blocks;
  bench.budget.free_blocks = 0;
  const StepDecision step = plan_step(bench.state, bench.budget);
  CHECK(step.preempt == std::vector{last, middle});
}

TEST_CASE("plan: a prompt chunk is cut to the blocks there are before anybody is preempted") {
  Bench bench;
  const auto prompt = bench.prefilling(40);
  bench.budget.free_blocks = 2;
  const StepDecision step = plan_step(bench.state, bench.budget);
  CHECK(step.preempt.empty());
  REQUIRE(step.sequences.size() == 1);
  CHECK(step.sequences[0] == PlannedSequence{prompt, 0, 8, 8, false, false});
}

TEST_CASE("admission: first come first served, as rows and blocks allow") {
  Bench bench;
  const auto a = bench.waiting(8);
  const auto b = bench.waiting(8);
  const auto c = bench.waiting(4);
  CHECK(choose_admissions(bench.state, bench.budget) == std::vector{a, b, c});
  bench.state.free_rows.resize(1);
  CHECK(choose_admissions(bench.state, bench.budget) == std::vector{a});
}

TEST_CASE("admission: a long prompt at the head is not overtaken by short ones") {
  Bench bench;
  (void)bench.decoding(8);
  (void)bench.waiting(80);
  (void)bench.waiting(4);
  bench.budget.free_blocks = 12;
  CHECK(choose_admissions(bench.state, bench.budget).empty());
}

TEST_CASE("admission: alone, a prompt may fill the whole pool") {
  Bench bench;
  bench.budget.total_blocks = bench.budget.free_blocks = 10;
  const auto a = bench.waiting(40);
  CHECK(choose_admissions(bench.state, bench.budget) == std::vector{a});
}

TEST_CASE("admission: a preempted sequence waits until its last token has come back") {
  Bench bench;
  const auto a = bench.waiting(8);
  bench.state.at(a).steps_in_flight = 1;
  (void)bench.waiting(8);
  CHECK(choose_admissions(bench.state, bench.budget).empty());
}

TEST_CASE("admission: budgets may exceed the memory together when one answer ends before another needs its own") {
  Bench bench;  // 4 tokens a block
  bench.budget.total_blocks = 20;
  const auto sparsify = [&bench](SequenceId id, std::int32_t max_tokens) -> Sequence& {
    Sequence& sequence = bench.state.at(id);
    sequence.sparse = {.method = model::SparseMethod::kH2o, .budget = 64};
    sequence.params.max_tokens = max_tokens;
    return sequence;
  };
  // Holds 12 blocks and, with its 64 slots full, 16 of the 20.
  Sequence& running = sparsify(bench.decoding(48), 100);
  running.slots = {47, 47};
  bench.budget.free_blocks = 20 - running.blocks;
  Sequence& next = sparsify(bench.waiting(4), 100);
  CHECK(choose_admissions(bench.state, bench.budget).empty());  // 16 blocks for each in the end
  next.params.max_tokens = 8;
  CHECK(choose_admissions(bench.state, bench.budget) == std::vector{next.id});  // ends with 3
  next.params.max_tokens = 100;
  running.params.max_tokens = 12;  // ends with 15 blocks, when the next one has 4
  CHECK(choose_admissions(bench.state, bench.budget) == std::vector{next.id});
  running.held = true;  // nobody knows for how long
  CHECK(choose_admissions(bench.state, bench.budget).empty());
}

}  // namespace
}  // namespace spillway::actors
