// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the host learns of a step's sparsified sequences: blocks that ran empty, and for tests all slots.

#include "gpu/cuda/cuda_options.hpp"
#include "gpu/cuda/step_inputs.hpp"

namespace spillway::gpu::cuda {

/// Adds the blocks flagged in `emptied` [table entries] to the result, in the order of sequences and slots.
/// `inputs` are the step's, in host memory.
void collect_emptied(const StepPlan& plan, const StepInputs& inputs, const std::uint8_t* emptied,
                     std::uint32_t block_size, StepResult& result);

/// Reads the slots of each sparsified sequence from the device and tells them. The step is done and no other
/// under way.
void tell_slots(const StepPlan& plan, const StepInputs& inputs, const SparseSlots& slots,
                const decltype(CudaOptions::on_slots)& on_slots);

}  // namespace spillway::gpu::cuda
