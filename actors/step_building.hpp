// SPDX-License-Identifier: Apache-2.0
#pragma once

// How a planned sequence is written into the plan that a device executes. Its block table is the block
// manager's to fill in.

#include "actors/plan_step.hpp"
#include "gpu/step_plan.hpp"

namespace spillway::actors {

/// Appends the sequence with its tokens, its row's parameters if the device does not have them yet, and its
/// sparsification.
void add_to_step(const Sequence& sequence, const PlannedSequence& planned, gpu::StepPlan& step);

}  // namespace spillway::actors
