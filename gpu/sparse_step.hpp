// SPDX-License-Identifier: Apache-2.0
#pragma once

// SparseStep: what a step does to the slots of one sparsified sequence (model/sparse_kv.hpp).
//
//   slots [0, span)   in use; in each KV head of each layer a slot holds a live token or is a hole
//   slots behind      the tail: never written, or given up
//
// Beside its keys and values every slot has a position (-1: hole) and a score, per layer and KV head, in the
// block itself, so that they go wherever the block goes. How many tokens live is the same in every head and
// known to the planner without asking the device; which ones is known to the device alone.
//
// While the prompt is computed slot = position and all queries attend to all that came before. Every later
// step has one token. Within a step: write, attend, add up scores, evict, pack. An evicted token's slot
// passes on nothing: the token that takes it has its own position and a score of 0.

#include <cstdint>

#include "model/sparse_kv.hpp"

namespace spillway::gpu {

struct SparseStep {
  enum class Packing : std::uint8_t {
    kNone,
    kInPlace,  // live tokens from behind move into the holes of [0, live), each head by itself
    kCopy,     // live tokens are copied in slot order to the front of other blocks
  };

  model::SparseKvParams params;     // resolved
  std::uint32_t prompt_length = 0;  // tokens; positions from here on are generated
  std::uint32_t span = 0;           // this step's tokens included
  bool reuse = false;       // the step's one token takes each head's first hole; otherwise the step's tokens
                            // are in the last slots of the span
  std::uint32_t evict = 0;  // tokens each head gives up after attention
  std::uint32_t live = 0;   // tokens of each head after that
  Packing packing = Packing::kNone;
  std::uint32_t copy_block_offset = 0;  // kCopy: into StepPlan::block_table, as many as `live` fills

  [[nodiscard]] bool in_prompt(std::uint32_t first_position) const noexcept {
    return first_position < prompt_length;
  }
};

}  // namespace spillway::gpu
