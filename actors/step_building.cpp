// SPDX-License-Identifier: Apache-2.0
#include "actors/step_building.hpp"

namespace spillway::actors {
namespace {

/// Its place in step.sparse.
std::uint32_t add_sparse(const Sequence& sequence, gpu::StepPlan& step) {
  if (!sequence.sparsified()) return gpu::SequenceStep::kExact;
  step.sparse.push_back({.params = sequence.sparse, .prompt_length = sequence.prompt_length});
  return static_cast<std::uint32_t>(step.sparse.size() - 1);
}

gpu::RowInit row_init(const Sequence& sequence) {
  gpu::RowInit init{.row = sequence.row, .params = sequence.params, .choice = sequence.choice};
  if (sequence.params.has_penalties()) {
    const auto prompt_end = sequence.tokens.begin() + sequence.prompt_length;
    init.prompt_tokens.assign(sequence.tokens.begin(), prompt_end);
    init.output_tokens.assign(prompt_end, sequence.tokens.end());
  }
  return init;
}

}  // namespace

void add_to_step(const Sequence& sequence, const PlannedSequence& planned, gpu::StepPlan& step) {
  if (!sequence.row_ready) step.row_inits.push_back(row_init(sequence));
  step.sequences.push_back({.row = sequence.row,
                            .first_position = planned.first_position,
                            .token_count = planned.token_count,
                            .token_offset = step.total_tokens(),
                            .prompt_count = planned.prompt_count,
                            .token_from_row = planned.token_from_row,
                            .samples = planned.samples,
                            .output_index = sequence.outputs(),
                            .sparse = add_sparse(sequence, step)});
  const auto first = sequence.tokens.begin() + planned.first_position;
  if (planned.token_from_row) {
    step.tokens.push_back(0);
  } else {
    step.tokens.insert(step.tokens.end(), first, first + planned.token_count);
  }
}

}  // namespace spillway::actors
