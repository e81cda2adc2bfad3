// SPDX-License-Identifier: Apache-2.0
#pragma once

// TensorParallelDevice: several GPUs of one host as one Device. Every plan goes to all ranks, each of which computes its shard
// (shard.hpp) and draws the same tokens; rank 0's results count. Rank 0 is driven by the caller's thread, each other rank by a
// thread of its own, which spins while there is work. A rank that fails ends the whole device.

#include "gpu/cuda/cuda_options.hpp"

namespace spillway::gpu::cuda {

/// Errors: those of open_cuda_device; kInvalidArgument when the model cannot be split over so many ranks, kNotFound when there are
/// fewer GPUs.
[[nodiscard]] Result<std::unique_ptr<Device>> create_tensor_parallel_device(const CreateArgs& args);

}  // namespace spillway::gpu::cuda
