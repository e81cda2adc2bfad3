// SPDX-License-Identifier: Apache-2.0
#pragma once

// Moving live tokens of one KV head together: key, value, position and score from slot to slot.

#include <cstdint>

#include "gpu/host/kv_pool.hpp"
#include "gpu/step_plan.hpp"

namespace spillway::gpu::host {

/// Packs one head's slots as SparseStep::Packing says. `blocks` covers step.span, `copy_to` step.live (kCopy
/// only).
void pack_head(const KvLayout& layout, std::byte* pool, const SparseStep& step, const BlockId* blocks,
               const BlockId* copy_to, std::uint32_t layer, std::uint32_t kv_head);

}  // namespace spillway::gpu::host
