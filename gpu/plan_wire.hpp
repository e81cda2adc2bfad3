// SPDX-License-Identifier: Apache-2.0
#pragma once

// Plans as bytes, for ranks in other processes: everything that a rank reads of a step, sampling parameters
// included. Both ends are of one wire version (ranks/handshake.hpp); within it the encoding is fixed.

#include <cstddef>
#include <span>

#include "gpu/step_plan.hpp"
#include "gpu/wire.hpp"

namespace spillway::gpu {

void encode(const StepPlan& plan, WireWriter& out);
void encode(const CopyPlan& plan, WireWriter& out);

/// Well-formed, but not yet valid: offsets, rows and blocks are the device's to check (plan_limits.hpp).
/// Errors: kInvalidArgument for bytes that are no plan.
[[nodiscard]] Result<StepPlan> decode_step(std::span<const std::byte> bytes);
[[nodiscard]] Result<CopyPlan> decode_copy(std::span<const std::byte> bytes);

}  // namespace spillway::gpu
