// SPDX-License-Identifier: Apache-2.0
#pragma once

// Opens a CUDA device through the module libspillway_cuda.so, which is loaded at run time: the program itself
// links nothing of CUDA and runs where there is none.

#include <functional>
#include <memory>

#include "gpu/cuda/cuda_options.hpp"

namespace spillway::gpu::cuda {

/// Uploads the weights and allocates the pool; on_uploaded is called for each tensor when nothing refers to
/// its view any more. The device computes in the type of DeviceOptions::kv_dtype. Errors: kNotFound when there
/// is no module, driver or GPU (says which), kUnsupported and kInvalidArgument for options, kBadFile for
/// tensors, kOutOfMemory with the numbers.
[[nodiscard]] Result<std::unique_ptr<Device>> open_cuda_device(
    const model::ModelSpec& spec, const model::Weights& weights, const DeviceOptions& options,
    const CudaOptions& cuda_options, const std::function<void(const model::TensorView&)>& on_uploaded = {});

}  // namespace spillway::gpu::cuda
