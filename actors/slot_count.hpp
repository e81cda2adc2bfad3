// SPDX-License-Identifier: Apache-2.0
#pragma once

// SlotCount: how many slots a sparsified sequence uses and how many of them are live, and how a step changes
// that. Pure arithmetic: the same in every head, whatever is evicted, so the scheduler and the block manager
// both know it without asking the device. (Strategy free-block alone depends on who is evicted: there the
// device reports.)
//
//   live + holes + tail = slots of the held blocks, always

#include <cstdint>

#include "gpu/sparse_step.hpp"

namespace spillway::actors {

struct SlotCount {
  std::uint32_t span = 0;  // slots in use: live tokens and holes
  std::uint32_t live = 0;

  [[nodiscard]] std::uint32_t holes() const noexcept { return span - live; }
  friend bool operator==(const SlotCount&, const SlotCount&) = default;
};

/// Slots of all sequences' blocks at one moment.
struct SlotTotals {
  std::uint64_t slots = 0;  // of held blocks, a shared block counted once
  std::uint64_t live = 0;   // tokens in them
  std::uint64_t holes = 0;  // slots that an evicted token left

  /// The share of the held slots that no token fills, 0 to 1.
  [[nodiscard]] double fragmentation() const noexcept {
    return slots == 0 ? 0 : 1 - static_cast<double>(live) / static_cast<double>(slots);
  }
};

/// One step of one sparsified sequence.
struct SlotStep {
  bool reuse = false;       // its one token takes a hole
  std::uint32_t span = 0;   // once its tokens are written
  std::uint32_t live = 0;   // once they are; what the step attends to
  std::uint32_t evict = 0;  // after that
  gpu::SparseStep::Packing packing = gpu::SparseStep::Packing::kNone;
  SlotCount after;  // with packing done
};

/// `tokens` more are written from `first_position` on. Makes room for the token that follows: no step attends
/// to more than the budget once the prompt is computed. Requires tokens == 1 behind the prompt, and that no
/// step crosses its end.
[[nodiscard]] SlotStep plan_slots(SlotCount before, std::uint32_t first_position, std::uint32_t tokens,
                                  std::uint32_t prompt_length, const model::SparseKvParams& params,
                                  std::uint32_t block_size) noexcept;

/// The most slots that the sequence uses at any time after its prompt, should it grow to `length` tokens:
/// what to reserve for it. Strategies that leave holes are counted as if nothing came back.
[[nodiscard]] std::uint32_t slots_after_prompt(std::uint32_t prompt_length, std::uint32_t length,
                                               const model::SparseKvParams& params) noexcept;

}  // namespace spillway::actors
