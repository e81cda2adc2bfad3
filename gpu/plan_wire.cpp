// SPDX-License-Identifier: Apache-2.0
#include "gpu/plan_wire.hpp"

namespace spillway::gpu {

template <>
inline constexpr std::int64_t kLastOf<RowId> = kAny;
template <>
inline constexpr std::int64_t kLastOf<BlockId> = kAny;
template <>
inline constexpr std::int64_t kLastOf<model::SparseMethod> = static_cast<int>(model::SparseMethod::kTova);
template <>
inline constexpr std::int64_t kLastOf<model::SparseStrategy> =
    static_cast<int>(model::SparseStrategy::kSparseCopy);
template <>
inline constexpr std::int64_t kLastOf<model::SparseGranularity> =
    static_cast<int>(model::SparseGranularity::kAuto);
template <>
inline constexpr std::int64_t kLastOf<SparseStep::Packing> = static_cast<int>(SparseStep::Packing::kCopy);
template <>
inline constexpr std::int64_t kLastOf<CopyPlan::Direction> =
    static_cast<int>(CopyPlan::Direction::kHostToDevice);

template <class Io, Is<model::SparseKvParams> S>
void fields(Io& io, S& s) {
  auto& [method, strategy, granularity, budget, budget_fraction, num_per_evict, sinks, recent, heavy, window,
         rotate_to_cache, seed] = s;
  io(method, strategy, granularity, budget, budget_fraction, num_per_evict, sinks, recent, heavy, window,
     rotate_to_cache, seed);
}

template <class Io, Is<model::SamplingParams> S>
void fields(Io& io, S& s) {
  auto& [max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty,
         frequency_penalty, seed, stop, stop_token_ids, n, logprobs, ignore_eos, sparse_kv] = s;
  io(max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty,
     seed, stop, stop_token_ids, n, logprobs, ignore_eos, sparse_kv);
}

template <class Io, Is<RowInit> S>
void fields(Io& io, S& s) {
  auto& [row, params, choice, prompt_tokens, output_tokens] = s;
  io(row, params, choice, prompt_tokens, output_tokens);
}

template <class Io, Is<SequenceStep> S>
void fields(Io& io, S& s) {
  auto& [row, first_position, token_count, token_offset, block_offset, block_count, prompt_count,
         token_from_row, samples, output_index, sparse] = s;
  io(row, first_position, token_count, token_offset, block_offset, block_count, prompt_count, token_from_row,
     samples, output_index, sparse);
}

template <class Io, Is<SparseStep> S>
void fields(Io& io, S& s) {
  auto& [params, prompt_length, span, reuse, evict, live, packing, copy_block_offset] = s;
  io(params, prompt_length, span, reuse, evict, live, packing, copy_block_offset);
}

template <class Io, Is<StepPlan> S>
void fields(Io& io, S& s) {
  auto& [step, row_inits, sequences, tokens, block_table, sparse, wait_for_copy] = s;
  io(step, row_inits, sequences, tokens, block_table, sparse, wait_for_copy);
}

template <class Io, Is<CopyPlan::Pair> S>
void fields(Io& io, S& s) {
  auto& [from, to] = s;
  io(from, to);
}

template <class Io, Is<CopyPlan> S>
void fields(Io& io, S& s) {
  auto& [direction, blocks, wait_for_step] = s;
  io(direction, blocks, wait_for_step);
}

void encode(const StepPlan& plan, WireWriter& out) { out(plan); }
void encode(const CopyPlan& plan, WireWriter& out) { out(plan); }

Result<StepPlan> decode_step(std::span<const std::byte> bytes) {
  WireReader in(bytes);
  StepPlan plan;
  in(plan);
  if (Result<void> good = in.finish("a step's plan"); !good) return good.error();
  return plan;
}

Result<CopyPlan> decode_copy(std::span<const std::byte> bytes) {
  WireReader in(bytes);
  CopyPlan plan;
  in(plan);
  if (Result<void> good = in.finish("a copy's plan"); !good) return good.error();
  return plan;
}

}  // namespace spillway::gpu
