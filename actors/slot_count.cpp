// SPDX-License-Identifier: Apache-2.0
#include "actors/slot_count.hpp"

#include <algorithm>

namespace spillway::actors {

using model::SparseStrategy;
using Packing = gpu::SparseStep::Packing;

namespace {

Packing packing_of(const SlotStep& step, std::uint32_t holes, bool ends_prompt,
                   const model::SparseKvParams& params, std::uint32_t block_size) {
  switch (params.strategy) {
    case SparseStrategy::kSpvllm:
      // A long prompt is packed once; from then on tokens and holes keep each other's balance.
      return ends_prompt && step.evict > params.num_per_evict ? Packing::kInPlace : Packing::kNone;
    case SparseStrategy::kSparseCopy: {
      const auto blocks = [&](std::uint32_t slots) { return (slots + block_size - 1) / block_size; };
      return blocks(step.span - holes) < blocks(step.span) ? Packing::kCopy : Packing::kNone;
    }
    default:
      return Packing::kNone;
  }
}

}  // namespace

SlotStep plan_slots(SlotCount before, std::uint32_t first_position, std::uint32_t tokens,
                    std::uint32_t prompt_length, const model::SparseKvParams& params,
                    std::uint32_t block_size) noexcept {
  const bool in_prompt = first_position < prompt_length;
  const bool ends_prompt = in_prompt && first_position + tokens == prompt_length;
  SlotStep step;
  step.reuse = params.strategy == SparseStrategy::kSpvllm && !in_prompt && before.holes() > 0;
  step.span = before.span + (step.reuse ? 0 : tokens);
  step.live = before.live + tokens;
  if ((ends_prompt || !in_prompt) && step.live + 1 > params.budget)
    step.evict = std::max(params.num_per_evict, step.live + 1 - params.budget);
  const std::uint32_t live = step.live - step.evict;
  if (step.evict > 0) step.packing = packing_of(step, step.span - live, ends_prompt, params, block_size);
  step.after = {step.packing == Packing::kNone ? step.span : live, live};
  return step;
}

std::uint32_t slots_after_prompt(std::uint32_t prompt_length, std::uint32_t length,
                                 const model::SparseKvParams& params) noexcept {
  const bool grows =
      params.strategy == SparseStrategy::kNoOp || params.strategy == SparseStrategy::kFreeBlock;
  if (grows) return length;
  const bool packs_prompt = prompt_length + 1 > params.budget + params.num_per_evict;
  const std::uint32_t kept = params.strategy == SparseStrategy::kSpvllm && !packs_prompt
                                 ? std::max(prompt_length, params.budget)
                                 : params.budget;
  return std::min(length, kept);
}

}  // namespace spillway::actors
