// SPDX-License-Identifier: Apache-2.0
#pragma once

// SimSlots: the KV slots of sparsified sequences on the simulated device. As on a real one each layer and KV
// head has a position, a score and a content (here a hash) per slot, all of it inside the blocks, and a step
// writes, attends, evicts and packs as its SparseStep says.

#include <cstdint>
#include <span>
#include <vector>

#include "gpu/sparse_policy.hpp"
#include "gpu/step_plan.hpp"

namespace spillway::gpu {

class SimSlots {
 public:
  using Table = std::span<const BlockId>;

  SimSlots() = default;
  SimSlots(std::uint32_t num_blocks, std::uint32_t block_size);

  /// Puts the token at `position` into `slot`, or with reuse into each head's first hole.
  void write(Table table, const SparseStep& step, std::uint32_t position, std::uint32_t slot,
             std::uint64_t value);
  /// What the query at `position` sees: a hash of every head's live tokens up to it. Scores take in its
  /// attention.
  [[nodiscard]] std::uint64_t attend(Table table, const SparseStep& step, std::uint32_t position,
                                     std::uint64_t query);
  void evict(Table table, const SparseStep& step, std::uint32_t newest);
  void pack(Table table, const SparseStep& step, Table copy_to);
  /// Strategy free-block: full blocks that have no live token left and were not reported before.
  [[nodiscard]] std::vector<BlockId> take_emptied(Table table, const SparseStep& step);
  void copy_block(BlockId from, BlockId to);
  /// An exact sequence writes into the block.
  void spoil(BlockId block);

 private:
  struct Slot {
    float position = kHole;
    float score = 0;
    std::uint64_t value = 0;
    [[nodiscard]] bool live() const noexcept { return position >= 0; }
  };

  [[nodiscard]] Slot& at(Table table, std::uint32_t unit, std::uint32_t slot);
  [[nodiscard]] std::vector<float> positions(Table table, std::uint32_t unit, std::uint32_t span);
  void evict_together(Table table, const SparseStep& step, std::uint32_t newest, std::uint32_t first_unit,
                      std::uint32_t units);

  std::uint32_t block_size_ = 0;
  std::vector<Slot> memory_;  // [block][unit][slot]
};

}  // namespace spillway::gpu
