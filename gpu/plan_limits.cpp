// SPDX-License-Identifier: Apache-2.0
#include "gpu/plan_limits.hpp"

#include <string>
#include <utility>

namespace spillway::gpu {
namespace {

/// What is wrong with a sparsified sequence's step; empty if nothing.
std::string wrong_with_slots(const StepPlan& plan, const SequenceStep& s, const PlanLimits& limits) {
  if (!limits.sparse_kv) return "this device was not opened for sparsified sequences";
  if (s.sparse >= plan.sparse.size()) return "its sparse step is missing";
  const SparseStep& sparse = plan.sparse[s.sparse];
  const std::uint64_t end = std::uint64_t{s.first_position} + s.token_count;
  if (!sparse.params.on()) return "its sparse step has no method";
  if (sparse.params.granularity == model::SparseGranularity::kAuto)
    return "its sparse step does not say who chooses";
  if (sparse.in_prompt(s.first_position)) {
    if (end > sparse.prompt_length) return "a step that begins in the prompt ends behind it";
    if (sparse.span != end || sparse.reuse) return "slots of the prompt are not its positions";
  } else if (s.token_count != 1) {
    return "a step behind the prompt has one token";
  }
  if (sparse.span < s.token_count || sparse.span > end)
    return "its span is shorter or longer than what was written";
  if (std::uint64_t{sparse.evict} + sparse.live > sparse.span) return "it has more tokens than slots";
  if (sparse.packing == SparseStep::Packing::kCopy) {
    const std::uint64_t blocks = (sparse.live + limits.block_size - 1) / limits.block_size;
    if (sparse.copy_block_offset + blocks > plan.block_table.size()) return "blocks to copy to are missing";
  }
  return {};
}

}  // namespace

Result<void> validate_plan(const StepPlan& plan, const PlanLimits& limits) {
  const auto refuse = [&plan](std::string what) {
    return Error{Errc::kInvalidArgument, "step " + std::to_string(plan.step) + ": " + std::move(what)};
  };
  if (plan.sequences.empty()) return refuse("no sequences");
  if (plan.tokens.size() > limits.max_num_batched_tokens) {
    return refuse(std::to_string(plan.tokens.size()) + " tokens, max_num_batched_tokens is " +
                  std::to_string(limits.max_num_batched_tokens));
  }
  if (plan.sequences.size() > limits.max_num_seqs) {
    return refuse(std::to_string(plan.sequences.size()) + " sequences, max_num_seqs is " +
                  std::to_string(limits.max_num_seqs));
  }
  for (const RowInit& init : plan.row_inits) {
    if (static_cast<std::uint32_t>(init.row) >= limits.max_num_seqs)
      return refuse("row_inits: row out of range");
    for (const std::vector<TokenId>* list : {&init.prompt_tokens, &init.output_tokens}) {
      for (const TokenId token : *list) {
        if (token < 0 || static_cast<std::uint32_t>(token) >= limits.vocab_size) {
          return refuse("row_inits: token " + std::to_string(token) + " is outside the vocabulary");
        }
      }
    }
  }
  std::uint32_t next_token = 0;
  for (std::size_t i = 0; i < plan.sequences.size(); ++i) {
    const SequenceStep& s = plan.sequences[i];
    const std::string name = "sequence " + std::to_string(i) + ": ";
    if (static_cast<std::uint32_t>(s.row) >= limits.max_num_seqs) return refuse(name + "row out of range");
    if (s.token_count == 0) return refuse(name + "token_count is 0");
    if (s.token_offset != next_token) return refuse(name + "token_offset must follow the sequence before it");
    if (s.token_count > plan.tokens.size() - next_token)
      return refuse(name + "more tokens than the plan holds");
    if (s.prompt_count > s.token_count) return refuse(name + "prompt_count is more than token_count");
    if (s.token_from_row && s.token_count != 1) return refuse(name + "token_from_row needs token_count = 1");
    next_token += s.token_count;
    const std::uint64_t end = std::uint64_t{s.first_position} + s.token_count;
    if (end > limits.max_model_len) {
      return refuse(name + "position " + std::to_string(end - 1) +
                    " is beyond max_model_len = " + std::to_string(limits.max_model_len));
    }
    if (s.sparsified()) {
      if (std::string wrong = wrong_with_slots(plan, s, limits); !wrong.empty()) return refuse(name + wrong);
    }
    const std::uint64_t covered = s.sparsified() ? plan.sparse[s.sparse].span : end;
    if (std::uint64_t{s.block_offset} + s.block_count > plan.block_table.size() ||
        std::uint64_t{s.block_count} * limits.block_size < covered) {
      return refuse(name + "its blocks do not cover its tokens");
    }
    for (std::uint32_t t = 0; t < s.token_count && !s.token_from_row; ++t) {
      const TokenId token = plan.tokens[s.token_offset + t];
      if (token < 0 || static_cast<std::uint32_t>(token) >= limits.vocab_size) {
        return refuse(name + "token " + std::to_string(token) + " is outside the vocabulary of " +
                      std::to_string(limits.vocab_size));
      }
    }
  }
  if (next_token != plan.tokens.size()) return refuse("tokens that belong to no sequence");
  for (const BlockId block : plan.block_table) {
    if (static_cast<std::uint32_t>(block) >= limits.num_blocks) {
      return refuse("block " + std::to_string(static_cast<std::uint32_t>(block)) + " of " +
                    std::to_string(limits.num_blocks));
    }
  }
  return {};
}

}  // namespace spillway::gpu
