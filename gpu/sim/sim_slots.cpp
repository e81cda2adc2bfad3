// SPDX-License-Identifier: Apache-2.0
#include "gpu/sim/sim_slots.hpp"

#include <algorithm>

#include "gpu/sim/sim_numbers.hpp"
#include "runtime/check.hpp"

namespace spillway::gpu {

using model::SparseGranularity;
using model::SparseMethod;
using sim::kHeads;
using sim::kUnits;

namespace {

constexpr float kReported = -2.0f;  // a hole of a block that was reported as emptied

}  // namespace

SimSlots::SimSlots(std::uint32_t num_blocks, std::uint32_t block_size)
    : block_size_(block_size), memory_(std::size_t{num_blocks} * kUnits * block_size) {}

SimSlots::Slot& SimSlots::at(Table table, std::uint32_t unit, std::uint32_t slot) {
  SPW_CHECK(slot / block_size_ < table.size());
  const auto block = static_cast<std::size_t>(table[slot / block_size_]);
  return memory_[(block * kUnits + unit) * block_size_ + slot % block_size_];
}

void SimSlots::write(Table table, const SparseStep& step, std::uint32_t position, std::uint32_t slot,
                     std::uint64_t value) {
  for (std::uint32_t unit = 0; unit < kUnits; ++unit) {
    std::uint32_t place = slot;
    if (step.reuse) {
      place = 0;
      // There is no hole only after a failed step, and then nobody will read the answer.
      while (place + 1 < step.span && at(table, unit, place).live()) ++place;
    }
    at(table, unit, place) = {static_cast<float>(position), 0, value};
  }
}

std::uint64_t SimSlots::attend(Table table, const SparseStep& step, std::uint32_t position,
                               std::uint64_t query) {
  const ScoreUpdate update = score_update(step.params, step.prompt_length, position);
  const std::uint32_t span = step.in_prompt(position) ? position + 1 : step.span;
  std::uint64_t sum = sim::kSeed;
  for (std::uint32_t unit = 0; unit < kUnits; ++unit) {
    for (std::uint32_t slot = 0; slot < span; ++slot) {
      Slot& key = at(table, unit, slot);
      if (!key.live()) continue;
      sum += sim::attend(unit, key.value);  // in any order: slots say nothing
      const float attention = sim::attention_of(unit, query, key.value);
      if (update == ScoreUpdate::kAdd) key.score += attention;
      if (update == ScoreUpdate::kReplace) key.score = attention;
    }
  }
  return sum;
}

std::vector<float> SimSlots::positions(Table table, std::uint32_t unit, std::uint32_t span) {
  std::vector<float> positions(span);
  for (std::uint32_t slot = 0; slot < span; ++slot) positions[slot] = at(table, unit, slot).position;
  return positions;
}

void SimSlots::evict_together(Table table, const SparseStep& step, std::uint32_t newest,
                              std::uint32_t first_unit, std::uint32_t units) {
  const std::vector<float> where = positions(table, first_unit, step.span);
  std::vector<float> scores(step.span);
  for (std::uint32_t unit = first_unit; unit < first_unit + units; ++unit) {
    for (std::uint32_t slot = 0; slot < step.span; ++slot) scores[slot] += at(table, unit, slot).score;
  }
  for (const std::uint32_t slot :
       choose_victims(step.params, first_unit / units, newest, step.evict, where, scores)) {
    for (std::uint32_t unit = first_unit; unit < first_unit + units; ++unit)
      at(table, unit, slot).position = kHole;
  }
}

void SimSlots::evict(Table table, const SparseStep& step, std::uint32_t newest) {
  if (step.params.method == SparseMethod::kSnapKv && newest + 1 == step.prompt_length) {
    for (std::uint32_t unit = 0; unit < kUnits; ++unit) {
      std::vector<float> scores(step.prompt_length);
      for (std::uint32_t slot = 0; slot < scores.size(); ++slot) scores[slot] = at(table, unit, slot).score;
      pool_scores(scores);
      for (std::uint32_t slot = 0; slot < scores.size(); ++slot) at(table, unit, slot).score = scores[slot];
    }
  }
  if (step.evict == 0) return;
  const std::uint32_t together = step.params.granularity == SparseGranularity::kHead    ? 1
                                 : step.params.granularity == SparseGranularity::kLayer ? kHeads
                                                                                        : kUnits;
  for (std::uint32_t unit = 0; unit < kUnits; unit += together)
    evict_together(table, step, newest, unit, together);
}

void SimSlots::pack(Table table, const SparseStep& step, Table copy_to) {
  if (step.packing == SparseStep::Packing::kNone) return;
  for (std::uint32_t unit = 0; unit < kUnits; ++unit) {
    std::uint32_t next = 0;
    for (std::uint32_t slot = 0; slot < step.span; ++slot) {
      Slot& from = at(table, unit, slot);
      if (!from.live()) continue;
      if (step.packing == SparseStep::Packing::kCopy) {
        if (next < step.live) at(copy_to, unit, next++) = from;
      } else if (slot >= step.live) {
        while (next + 1 < step.live && at(table, unit, next).live()) ++next;
        at(table, unit, next) = from;
        from.position = kHole;
      }
    }
  }
}

std::vector<BlockId> SimSlots::take_emptied(Table table, const SparseStep& step) {
  std::vector<BlockId> emptied;
  if (step.params.strategy != model::SparseStrategy::kFreeBlock || step.evict == 0) return emptied;
  for (std::uint32_t block = 0; block < step.span / block_size_; ++block) {
    Slot* slots = &at(table, 0, block * block_size_);
    const std::span all(slots, std::size_t{kUnits} * block_size_);
    if (!std::ranges::all_of(all, [](const Slot& slot) { return slot.position == kHole; })) continue;
    emptied.push_back(table[block]);
    for (Slot& slot : all) slot.position = kReported;
  }
  return emptied;
}

void SimSlots::spoil(BlockId block) {
  const std::size_t count = std::size_t{kUnits} * block_size_;
  const auto first = memory_.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(block) * count);
  for (auto slot = first; slot != first + static_cast<std::ptrdiff_t>(count); ++slot)
    slot->value = ~slot->value;
}

void SimSlots::copy_block(BlockId from, BlockId to) {
  const std::size_t count = std::size_t{kUnits} * block_size_;
  std::copy_n(memory_.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(from) * count), count,
              memory_.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(to) * count));
}

}  // namespace spillway::gpu
