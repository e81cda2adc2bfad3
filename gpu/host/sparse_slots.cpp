// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/sparse_slots.hpp"

#include <algorithm>
#include <numeric>

#include "gpu/host/slot_packing.hpp"
#include "gpu/sparse_policy.hpp"

namespace spillway::gpu::host {
namespace {

using model::SparseGranularity;
using model::SparseMethod;

constexpr float kReported = -2.0f;  // a hole of a block that was reported as emptied

std::uint32_t whole_groups(std::uint32_t slots) { return (slots + 15) / 16 * 16; }

}  // namespace

SparseSlots::SparseSlots(const KvLayout& layout, const AttentionKernels& kernels, std::uint32_t group,
                         std::uint32_t window, std::uint32_t threads, std::uint32_t max_model_len)
    : layout_(&layout), kernels_(&kernels), group_(group), window_(window), scratch_(threads) {
  const std::size_t partitions = (std::size_t{max_model_len} + kPartitionSlots - 1) / kPartitionSlots;
  const std::size_t rows = std::max(group, kBlockRows);
  for (Scratch& scratch : scratch_) {
    scratch.sink_q.resize(std::size_t{group} * layout.head_dim);
    scratch.weights.resize(rows * partitions * (kPartitionSlots + 2));
    scratch.positions.resize(whole_groups(max_model_len) + 16);
    scratch.scores.resize(scratch.positions.size());
  }
}

std::uint32_t SparseSlots::add(const StepPlan& plan, std::uint32_t index) {
  const SequenceStep& step = plan.sequences[index];
  const SparseStep& sparse = plan.sparse[step.sparse];
  const BlockId* table = plan.block_table.data();
  sequences_.push_back({&sparse, table + step.block_offset, table + sparse.copy_block_offset, index,
                        step.first_position, step.token_count, step.token_offset, step.token_offset,
                        sparse.in_prompt(step.first_position)});
  return static_cast<std::uint32_t>(sequences_.size() - 1);
}

void SparseSlots::place_last_rows(const StepPlan& plan) {
  if (sequences_.empty()) return;
  std::vector<std::uint32_t> sampled(plan.sequences.size());
  std::uint32_t samples = 0;
  for (std::size_t i = 0; i < plan.sequences.size(); ++i)
    sampled[i] = plan.sequences[i].samples ? samples++ : UINT32_MAX;
  for (Sequence& sequence : sequences_) {
    const std::uint32_t sample = sampled[sequence.index];
    sequence.last_row = sample != UINT32_MAX ? sample : samples++;
  }
}

float* SparseSlots::fields(std::byte* pool, const Sequence& sequence, std::uint32_t slot,
                           std::uint32_t unit) const {
  const auto block = static_cast<std::size_t>(sequence.blocks[slot / layout_->block_size]);
  return reinterpret_cast<float*>(
      pool + block * layout_->block_bytes +
      layout_->position_offset(unit / layout_->num_kv_heads, unit % layout_->num_kv_heads));
}

SlotPlace SparseSlots::take_slot(std::byte* pool, std::uint32_t number, std::uint32_t position,
                                 std::uint32_t layer, std::uint32_t kv_head) const {
  const Sequence& sequence = sequences_[number];
  const std::uint32_t size = layout_->block_size, unit = layer * layout_->num_kv_heads + kv_head;
  std::uint32_t slot = sequence.in_prompt ? position : sequence.step->span - 1;
  if (sequence.step->reuse) {
    // There is always a hole, unless a step before failed; then the answer is void and the last slot will do.
    for (std::uint32_t first = 0; first < sequence.step->span; first += size) {
      const float* positions = fields(pool, sequence, first, unit);
      const float* end = positions + std::min(size, sequence.step->span - first);
      const float* hole = std::find_if(positions, end, [](float p) { return p < 0; });
      if (hole == end) continue;
      slot = first + static_cast<std::uint32_t>(hole - positions);
      break;
    }
  }
  float* at = fields(pool, sequence, slot, unit);
  at[slot % size] = static_cast<float>(position);
  at[size + slot % size] = 0;
  const auto block = static_cast<std::size_t>(sequence.blocks[slot / size]);
  return {pool + block * layout_->block_bytes, slot % size};
}

void SparseSlots::attend(TeamMember& member, std::byte* pool, std::uint32_t layer, const Rows& rows,
                         const ScratchView& view) {
  if (sequences_.empty()) return;
  const std::uint32_t heads = layout_->num_kv_heads;
  const std::size_t width = std::size_t{group_} * layout_->head_dim;
  Scratch& scratch = scratch_[member.index()];
  member.for_chunks(static_cast<std::uint32_t>(sequences_.size()) * heads, [&](std::uint32_t i) {
    const Sequence& sequence = sequences_[i / heads];
    const std::uint32_t head = i % heads;
    if (sequence.in_prompt) {
      const float* q = rows.q + sequence.row * rows.q_stride + head * width;
      score_prompt(sequence, pool, layer, head, q, rows.q_stride, scratch, view);
    } else {
      attend_token(sequence, pool, layer, head, rows, scratch, view);
    }
  });
}

void SparseSlots::attend_token(const Sequence& sequence, std::byte* pool, std::uint32_t layer,
                               std::uint32_t head, const Rows& rows, Scratch& scratch,
                               const ScratchView& view) const {
  const std::uint32_t position = sequence.first_position;
  const std::size_t width = std::size_t{group_} * layout_->head_dim;
  const std::uint32_t out_row = layer + 1 == layout_->num_layers ? sequence.last_row : sequence.row;
  SlotTask task;
  task.layout = layout_;
  task.k_pool = pool + layout_->k_offset(layer, head);
  task.v_pool = pool + layout_->v_offset(layer, head);
  task.positions_pool = pool + layout_->position_offset(layer, head);
  task.blocks = sequence.blocks;
  task.q = rows.q + sequence.row * rows.q_stride + head * width;
  task.out = rows.out + out_row * rows.out_stride + head * width;
  if (sequence.step->params.rotate_to_cache) {
    task.sink_q = rows.sink_q + sequence.row * width * layout_->num_kv_heads + head * width;
    task.sinks = static_cast<float>(sequence.step->params.sinks);
    task.packed_sink_q = scratch.sink_q.data();
  }
  task.group = group_;
  task.span = sequence.step->span;
  task.first_position =
      window_ != 0 && position + 1 > window_ ? static_cast<float>(position + 1 - window_) : 0.0f;
  task.update = score_update(sequence.step->params, sequence.step->prompt_length, position);
  task.weights = scratch.weights.data();
  kernels_->attend_slots(task, view);
}

void SparseSlots::score_prompt(const Sequence& sequence, std::byte* pool, std::uint32_t layer,
                               std::uint32_t head, const float* q, std::size_t q_stride, Scratch& scratch,
                               const ScratchView& view) const {
  const SparseStep& step = *sequence.step;
  std::uint32_t skipped = 0;  // leading tokens that do not count
  while (skipped < sequence.tokens && score_update(step.params, step.prompt_length,
                                                   sequence.first_position + skipped) == ScoreUpdate::kNone)
    ++skipped;
  // As many tokens at a time as the working memory for queries holds.
  const std::uint32_t at_once = std::max<std::uint32_t>(1, kTaskRows / group_);
  for (std::uint32_t first = skipped; first < sequence.tokens; first += at_once) {
    PromptScoreTask task;
    task.rows.layout = layout_;
    task.rows.k_pool = pool + layout_->k_offset(layer, head);
    task.rows.v_pool = pool + layout_->v_offset(layer, head);
    task.rows.blocks = sequence.blocks;
    task.rows.q = q + first * q_stride;
    task.rows.q_stride = q_stride;
    task.rows.group = group_;
    task.rows.first_position = sequence.first_position + first;
    task.rows.tokens = std::min(at_once, sequence.tokens - first);
    task.rows.window = window_;
    task.positions_pool = pool + layout_->position_offset(layer, head);
    task.update = score_update(step.params, step.prompt_length, task.rows.first_position);
    task.weights = scratch.weights.data();
    kernels_->score_prompt(task, view);
  }
}

void SparseSlots::evict(TeamMember& member, std::byte* pool) {
  if (sequences_.empty()) return;
  const std::uint32_t units = layout_->num_layers * layout_->num_kv_heads;
  Scratch& scratch = scratch_[member.index()];
  // One chunk a layer, so that one long sequence is shared out too; who decides alone takes the first chunk.
  member.for_chunks(static_cast<std::uint32_t>(sequences_.size()) * layout_->num_layers,
                    [&](std::uint32_t i) {
                      const Sequence& sequence = sequences_[i / layout_->num_layers];
                      const std::uint32_t layer = i % layout_->num_layers, heads = layout_->num_kv_heads;
                      switch (sequence.step->params.granularity) {
                        case SparseGranularity::kHead:
                          for (std::uint32_t h = 0; h < heads; ++h)
                            evict_together(sequence, pool, layer * heads + h, 1, scratch);
                          return;
                        case SparseGranularity::kLayer:
                          return evict_together(sequence, pool, layer * heads, heads, scratch);
                        case SparseGranularity::kToken:
                          if (layer == 0) evict_together(sequence, pool, 0, units, scratch);
                          return;
                      }
                    });
}

void SparseSlots::gather_keys(const Sequence& sequence, std::byte* pool, std::uint32_t first,
                              std::uint32_t count, Scratch& scratch) const {
  const SparseStep& step = *sequence.step;
  const std::uint32_t size = layout_->block_size;
  std::fill_n(scratch.positions.begin(), whole_groups(step.span), kHole);
  const auto each_block = [&](std::uint32_t unit, auto&& f) {
    for (std::uint32_t slot = 0; slot < step.span; slot += size)
      f(slot, std::min(size, step.span - slot), fields(pool, sequence, slot, unit));
  };
  each_block(first, [&](std::uint32_t slot, std::uint32_t n, const float* at) {
    std::copy_n(at, n, scratch.positions.begin() + slot);
  });
  if (step.params.method == SparseMethod::kStreaming) {
    std::copy_n(scratch.positions.begin(), whole_groups(step.span), scratch.scores.begin());
    return;
  }
  if (step.params.method == SparseMethod::kRandom) {
    for (std::uint32_t slot = 0; slot < step.span; ++slot) {
      const float position = std::max(0.0f, scratch.positions[slot]);
      scratch.scores[slot] =
          random_key(step.params.seed, first / count, static_cast<std::uint32_t>(position));
    }
    return;
  }
  std::fill_n(scratch.scores.begin(), whole_groups(step.span), 0.0f);
  for (std::uint32_t unit = first; unit < first + count; ++unit) {
    each_block(unit, [&](std::uint32_t slot, std::uint32_t n, const float* at) {
      for (std::uint32_t i = 0; i < n; ++i) scratch.scores[slot + i] += at[size + i];
    });
  }
}

/// scratch.victims = choose_victims(), found faster.
void SparseSlots::choose(const Sequence& sequence, Scratch& scratch) const {
  const SparseStep& step = *sequence.step;
  const EvictableRange range = evictable(step.params, sequence.first_position + sequence.tokens - 1);
  const std::uint32_t n = whole_groups(step.span);
  std::vector<std::uint32_t>& victims = scratch.victims;
  victims.clear();
  constexpr std::uint32_t kFewVictims = 8;  // cheaper one by one than by sorting
  if (step.evict <= kFewVictims) {
    while (victims.size() < step.evict) {
      const std::uint32_t slot =
          kernels_->lowest(scratch.positions.data(), scratch.scores.data(), n, range.first, range.end);
      if (slot == n) return;
      victims.push_back(slot);
      scratch.positions[slot] = kHole;
    }
    return;
  }
  for (std::uint32_t slot = 0; slot < step.span; ++slot) {
    if (range.holds(scratch.positions[slot])) victims.push_back(slot);
  }
  const std::size_t count = std::min<std::size_t>(step.evict, victims.size());
  std::nth_element(victims.begin(), victims.begin() + static_cast<std::ptrdiff_t>(count), victims.end(),
                   [&](std::uint32_t a, std::uint32_t b) {
                     if (scratch.scores[a] != scratch.scores[b]) return scratch.scores[a] < scratch.scores[b];
                     return scratch.positions[a] < scratch.positions[b];
                   });
  victims.resize(count);
}

void SparseSlots::evict_together(const Sequence& sequence, std::byte* pool, std::uint32_t first,
                                 std::uint32_t count, Scratch& scratch) const {
  const SparseStep& step = *sequence.step;
  const std::uint32_t size = layout_->block_size;
  if (step.params.method == SparseMethod::kSnapKv && sequence.in_prompt &&
      sequence.first_position + sequence.tokens == step.prompt_length) {
    for (std::uint32_t unit = first; unit < first + count; ++unit) {
      for (std::uint32_t slot = 0; slot < step.span; ++slot)
        scratch.scores[slot] = fields(pool, sequence, slot, unit)[size + slot % size];
      pool_scores({scratch.scores.data(), step.span});
      for (std::uint32_t slot = 0; slot < step.span; ++slot)
        fields(pool, sequence, slot, unit)[size + slot % size] = scratch.scores[slot];
    }
  }
  if (step.evict == 0) return;
  gather_keys(sequence, pool, first, count, scratch);
  choose(sequence, scratch);
  for (std::uint32_t unit = first; unit < first + count; ++unit) {
    for (const std::uint32_t slot : scratch.victims) fields(pool, sequence, slot, unit)[slot % size] = kHole;
    if (step.packing == SparseStep::Packing::kNone) continue;
    pack_head(*layout_, pool, step, sequence.blocks, sequence.copy_to, unit / layout_->num_kv_heads,
              unit % layout_->num_kv_heads);
  }
}

void SparseSlots::report_emptied(std::byte* pool, StepResult& result) const {
  const std::uint32_t size = layout_ == nullptr ? 1 : layout_->block_size;
  for (const Sequence& sequence : sequences_) {
    const SparseStep& step = *sequence.step;
    if (step.params.strategy != model::SparseStrategy::kFreeBlock || step.evict == 0) continue;
    for (std::uint32_t block = 0; block < step.span / size; ++block) {
      // The heads' positions and scores follow each other; a position is what tells.
      float* at = fields(pool, sequence, block * size, 0);
      const std::uint32_t units = layout_->num_layers * layout_->num_kv_heads;
      const auto each = [&](auto&& f) {
        for (std::uint32_t unit = 0; unit < units; ++unit)
          for (std::uint32_t i = 0; i < size; ++i)
            if (!f(at[unit * 2 * size + i])) return false;
        return true;
      };
      if (!each([](float position) { return position == kHole; })) continue;
      each([](float& position) { return position = kReported, true; });
      result.emptied.push_back({sequence.index, sequence.blocks[block]});
    }
  }
}

}  // namespace spillway::gpu::host
