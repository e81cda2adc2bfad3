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

constexpr std::uint32_t kFewVictims = 8;  // cheaper one by one than by sorting
constexpr float kReported = -2.0f;        // a hole of a block that was reported as emptied

std::uint32_t whole_groups(std::uint32_t slots) { return (slots + 15) / 16 * 16; }

}  // namespace

SparseSlots::SparseSlots(const KvLayout& layout, const AttentionKernels& kernels, std::uint32_t group,
                         std::uint32_t window, std::uint32_t threads, std::uint32_t max_rows,
                         std::uint32_t max_model_len)
    : layout_(&layout),
      kernels_(&kernels),
      group_(group),
      window_(window),
      scratch_(threads),
      last_victim_(std::size_t{max_rows} * units(), UINT32_MAX) {
  const std::size_t partitions = (std::size_t{max_model_len} + kPartitionSlots - 1) / kPartitionSlots;
  const std::size_t rows = std::max(group, kBlockRows);
  for (Scratch& scratch : scratch_) size_scratch(scratch, rows, partitions);
}

void SparseSlots::size_scratch(Scratch& scratch, std::size_t rows, std::size_t partitions) const {
  if (scratch.positions.size() >= partitions * kPartitionSlots) return;
  scratch.sink_q.resize(std::size_t{group_} * layout_->head_dim);
  scratch.weights.resize(rows * partitions * (kPartitionSlots + 2));
  scratch.positions.resize(partitions * kPartitionSlots);
  scratch.scores.resize(scratch.positions.size());
}

std::uint32_t SparseSlots::add(const StepPlan& plan, std::uint32_t index) {
  const SequenceStep& step = plan.sequences[index];
  const SparseStep& sparse = plan.sparse[step.sparse];
  const BlockId* table = plan.block_table.data();
  sequences_.push_back({&sparse, table + step.block_offset, table + sparse.copy_block_offset, index,
                        step.first_position, step.token_count, step.token_offset, step.token_offset,
                        static_cast<std::uint32_t>(step.row), sparse.in_prompt(step.first_position)});
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
  share_out();
}

void SparseSlots::share_out() {
  items_.clear();
  const std::size_t heads = sequences_.size() * layout_->num_kv_heads;
  const bool few = scratch_.size() > 1 && heads < 4 * scratch_.size();
  std::uint32_t splits = 0;
  for (std::uint32_t i = 0; i < heads; ++i) {
    Item item;
    item.sequence = i / layout_->num_kv_heads;
    item.head = i % layout_->num_kv_heads;
    const Sequence& sequence = sequences_[item.sequence];
    const std::uint32_t partitions = (sequence.step->span + kPartitionSlots - 1) / kPartitionSlots;
    item.partition_end = partitions;
    if (!few || sequence.in_prompt || partitions < 2) {
      items_.push_back(item);
      continue;
    }
    if (splits_.size() == splits) splits_.push_back(std::make_unique<Split>());
    Split& split = *splits_[splits];
    size_scratch(split.scratch, group_, partitions);
    split.partials.resize(std::size_t{partitions} * group_ * (layout_->padded_dim + 2));
    split.unfinished.store(partitions, std::memory_order_relaxed);
    item.split = ++splits;
    for (std::uint32_t p = 0; p < partitions; ++p) {
      item.partition_begin = p;
      item.partition_end = p + 1;
      items_.push_back(item);
    }
  }
}

std::uint32_t SparseSlots::only_hole(const Sequence& sequence, std::uint32_t unit) const {
  const SparseStep& step = *sequence.step;
  const bool one = step.reuse && step.live + step.evict == step.span;  // with this token, every slot is taken
  const std::uint32_t slot = one ? last_victim_[sequence.table_row * units() + unit] : UINT32_MAX;
  return slot < step.span ? slot : UINT32_MAX;
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
  if (const std::uint32_t only = only_hole(sequence, unit);
      only != UINT32_MAX && fields(pool, sequence, only, unit)[only % size] < 0) {
    slot = only;
  } else if (sequence.step->reuse) {
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
  Scratch& scratch = scratch_[member.index()];
  member.for_chunks(static_cast<std::uint32_t>(items_.size()), [&](std::uint32_t i) {
    const Item& item = items_[i];
    const Sequence& sequence = sequences_[item.sequence];
    if (sequence.in_prompt) {
      const float* q =
          rows.q + sequence.row * rows.q_stride + item.head * std::size_t{group_} * layout_->head_dim;
      return score_prompt(sequence, pool, layer, item.head, q, rows.q_stride, scratch, view);
    }
    const bool more = i + 1 < items_.size() && !sequences_[items_[i + 1].sequence].in_prompt;
    attend_item(item, more ? &items_[i + 1] : nullptr, pool, layer, rows, scratch, view);
  });
}

void SparseSlots::attend_item(const Item& item, const Item* next, std::byte* pool, std::uint32_t layer,
                              const Rows& rows, Scratch& scratch, const ScratchView& view) {
  const Sequence& sequence = sequences_[item.sequence];
  Split* split = item.split == 0 ? nullptr : splits_[item.split - 1].get();
  Scratch& own = split == nullptr ? scratch : split->scratch;
  SlotTask task = token_task(item, pool, layer, rows, own);
  SlotTask following;
  if (next != nullptr) {
    following = token_task(*next, pool, layer, rows, scratch);
    task.next = &following;
  }
  if (split != nullptr) task.partial = split->partials.data();
  kernels_->attend_slots(task, view);
  if (split != nullptr) {
    // acq_rel: the last one sees what the others wrote.
    if (split->unfinished.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    const std::uint32_t partitions = (task.span + kPartitionSlots - 1) / kPartitionSlots;
    split->unfinished.store(partitions, std::memory_order_relaxed);  // for the next layer
    kernels_->finish_slots(task, view);
  }
  if (evicts_at_once(sequence)) evict_at_once(sequence, pool, layer * layout_->num_kv_heads + item.head, own);
}

SlotTask SparseSlots::token_task(const Item& item, std::byte* pool, std::uint32_t layer, const Rows& rows,
                                 Scratch& scratch) const {
  const Sequence& sequence = sequences_[item.sequence];
  const std::uint32_t head = item.head;
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
  task.partition_begin = item.partition_begin;
  task.partition_end = item.partition_end;
  task.first_position =
      window_ != 0 && position + 1 > window_ ? static_cast<float>(position + 1 - window_) : 0.0f;
  task.update = score_update(sequence.step->params, sequence.step->prompt_length, position);
  task.weights = scratch.weights.data();
  task.positions = scratch.positions.data();
  task.scores = scratch.scores.data();
  return task;
}

// Positions and scores are at hand then: one pass over the head's slots instead of two.
bool SparseSlots::evicts_at_once(const Sequence& sequence) {
  const SparseStep& step = *sequence.step;
  return !sequence.in_prompt && step.evict > 0 && step.evict <= kFewVictims &&
         step.packing == SparseStep::Packing::kNone && step.params.granularity == SparseGranularity::kHead &&
         step.params.method != SparseMethod::kRandom;
}

void SparseSlots::evict_at_once(const Sequence& sequence, std::byte* pool, std::uint32_t unit,
                                Scratch& scratch) {
  const SparseStep& step = *sequence.step;
  if (step.params.method == SparseMethod::kStreaming)
    std::copy_n(scratch.positions.begin(), whole_groups(step.span), scratch.scores.begin());
  choose(sequence, scratch);
  for (const std::uint32_t slot : scratch.victims)
    fields(pool, sequence, slot, unit)[slot % layout_->block_size] = kHole;
  if (!scratch.victims.empty()) last_victim_[sequence.table_row * units() + unit] = scratch.victims.front();
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
  Scratch& scratch = scratch_[member.index()];
  // One chunk a layer, so that one long sequence is shared out too; who decides alone takes the first chunk.
  member.for_chunks(static_cast<std::uint32_t>(sequences_.size()) * layout_->num_layers,
                    [&](std::uint32_t i) {
                      const Sequence& sequence = sequences_[i / layout_->num_layers];
                      if (evicts_at_once(sequence)) return;
                      const std::uint32_t layer = i % layout_->num_layers, heads = layout_->num_kv_heads;
                      switch (sequence.step->params.granularity) {
                        case SparseGranularity::kHead:
                          for (std::uint32_t h = 0; h < heads; ++h)
                            evict_together(sequence, pool, layer * heads + h, 1, scratch);
                          return;
                        case SparseGranularity::kLayer:
                          return evict_together(sequence, pool, layer * heads, heads, scratch);
                        case SparseGranularity::kToken:
                          if (layer == 0) evict_together(sequence, pool, 0, units(), scratch);
                          return;
                        case SparseGranularity::kAuto:
                          return;  // refused with the plan
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
      const auto each = [&](auto&& f) {
        for (std::uint32_t unit = 0; unit < units(); ++unit)
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
