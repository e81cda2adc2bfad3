// SPDX-License-Identifier: Apache-2.0
#pragma once

// What a CUDA device takes, and refuses by name before anything is allocated: GPUs, options, shapes of models.

#include <cuda_runtime_api.h>

#include "gpu/cuda/cuda_options.hpp"
#include "gpu/cuda/element.hpp"
#include "model/spec.hpp"
#include "runtime/result.hpp"

namespace spillway::gpu::cuda {

/// Makes the GPU the thread's current one. Errors: kNotFound, kUnsupported.
[[nodiscard]] Result<cudaDeviceProp> find_gpu(int ordinal);
/// Errors: kInvalidArgument names the option.
[[nodiscard]] Result<void> check_options(const CreateArgs& args);
/// `spec` is one rank's of `ranks`. Errors: kInvalidArgument, kUnsupported.
[[nodiscard]] Result<void> check_shape(const DeviceOptions& options, const model::ModelSpec& spec, int ranks);
/// Of a type that check_shape() let pass.
[[nodiscard]] Element element_of(KvDType type);

}  // namespace spillway::gpu::cuda
