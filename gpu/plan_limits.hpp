// SPDX-License-Identifier: Apache-2.0
#pragma once

// What a device checks of every plan before it runs: a plan comes from another actor, and an index out of range
// would write into somebody else's memory.

#include <cstdint>

#include "gpu/step_plan.hpp"
#include "runtime/result.hpp"

namespace spillway::gpu {

/// Refuses a plan that breaks a limit, naming it: rows, tokens, positions, blocks, tables, slots out of
/// range.
struct PlanLimits {
  std::uint32_t max_num_seqs = 0;
  std::uint32_t max_num_batched_tokens = 0;
  std::uint32_t max_model_len = 0;
  std::uint32_t num_blocks = 0;
  std::uint32_t block_size = 0;
  std::uint32_t vocab_size = 0;
  bool sparse_kv = false;
};
[[nodiscard]] Result<void> validate_plan(const StepPlan& plan, const PlanLimits& limits);

}  // namespace spillway::gpu
