// SPDX-License-Identifier: Apache-2.0
#pragma once

// Several GPUs of one or more hosts as one Device (ranks/group_device.hpp), each of which computes its shard
// (shard.hpp).

#include "gpu/cuda/cuda_options.hpp"

namespace spillway::gpu::cuda {

/// Errors: those of open_cuda_device; kInvalidArgument when the model cannot be split over so many ranks,
/// kNotFound when there are fewer GPUs.
[[nodiscard]] Result<std::unique_ptr<Device>> create_tensor_parallel_device(const CreateArgs& args);

}  // namespace spillway::gpu::cuda
