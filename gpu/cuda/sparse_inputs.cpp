// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/sparse_inputs.hpp"

#include <algorithm>

#include "gpu/sparse_policy.hpp"

namespace spillway::gpu::cuda {
namespace {

std::uint32_t padded_span(std::uint32_t span) { return (span + 3) / 4 * 4; }

/// Token of the step from which on queries count; its tokens when none does.
std::uint32_t first_scored(const SequenceStep& s, const SparseStep& step) {
  std::uint32_t token = s.token_count;
  while (token > 0 &&
         score_update(step.params, step.prompt_length, s.first_position + token - 1) != ScoreUpdate::kNone)
    --token;
  return token;
}

}  // namespace

SparseSequence sparse_sequence(const SequenceStep& s, const SparseStep& step, std::int32_t table,
                               std::int32_t copy_table, std::uint32_t block_size, SparseShape& shape) {
  const model::SparseKvParams& params = step.params;
  const std::uint32_t newest = s.first_position + s.token_count - 1;
  const EvictableRange range = evictable(params, newest);
  const bool pools = params.method == model::SparseMethod::kSnapKv && newest + 1 == step.prompt_length;
  SparseSequence q;
  q.table = table;
  q.copy_table = copy_table;
  q.row = static_cast<std::int32_t>(s.token_offset);
  q.tokens = static_cast<std::int32_t>(s.token_count);
  q.position = static_cast<std::int32_t>(s.first_position);
  q.span = static_cast<std::int32_t>(step.span);
  q.scratch = static_cast<std::int32_t>(shape.slots);
  q.reuse = step.reuse ? 1 : 0;
  q.one_hole = step.reuse && step.live + step.evict == step.span ? 1 : 0;
  q.state_row = static_cast<std::int32_t>(s.row);
  q.update = static_cast<std::int32_t>(score_update(params, step.prompt_length, newest));
  q.first_scored = static_cast<std::int32_t>(first_scored(s, step));
  q.method = static_cast<std::int32_t>(params.method);
  q.granularity = static_cast<std::int32_t>(params.granularity);
  q.evict = static_cast<std::int32_t>(step.evict);
  q.evicts_early = s.token_count == 1 && step.evict == 1 && !pools &&
                   params.granularity == model::SparseGranularity::kHead;
  q.live = static_cast<std::int32_t>(step.live);
  q.pools = pools ? 1 : 0;
  q.copies = step.packing == SparseStep::Packing::kCopy ? 1 : 0;
  q.frees = params.strategy == model::SparseStrategy::kFreeBlock && step.evict > 0 ? 1 : 0;
  q.first_evictable = range.first;
  q.end_evictable = range.end;
  q.seed = params.seed;

  if (step.packing != SparseStep::Packing::kNone)
    shape.packed.push_back(static_cast<std::int32_t>(shape.sequences));
  if (q.tokens > 1 && q.first_scored < q.tokens) {
    shape.scored.push_back(static_cast<std::int32_t>(shape.sequences));
    shape.scored_span = std::max(shape.scored_span, q.span);
  }
  if (q.evict > 0 && q.evicts_early == 0) shape.evicted_span = std::max(shape.evicted_span, q.span);
  if (q.frees != 0)
    shape.freed_blocks = std::max(shape.freed_blocks, static_cast<std::int32_t>(step.span / block_size));
  shape.rows |= q.tokens == 1;
  if (q.tokens > 1) shape.longest_chunk = std::max(shape.longest_chunk, q.tokens);
  shape.pools |= pools;
  shape.slots += padded_span(step.span);
  ++shape.sequences;
  return q;
}

std::string unsupported_sparse(const StepPlan& plan, std::uint64_t slots_max) {
  std::uint64_t slots = 0;
  for (const SequenceStep& s : plan.sequences) {
    if (!s.sparsified()) continue;
    const SparseStep& step = plan.sparse[s.sparse];
    if (step.params.rotate_to_cache)
      return "rotate_to_cache is not supported on CUDA: keys are kept rotated to their own positions";
    slots += padded_span(step.span);
  }
  if (slots > slots_max) {
    return "sparsified sequences of " + std::to_string(slots) + " slots, the KV cache has " +
           std::to_string(slots_max);
  }
  return {};
}

}  // namespace spillway::gpu::cuda
