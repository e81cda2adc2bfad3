// SPDX-License-Identifier: Apache-2.0
#pragma once

// From a file's bytes on the device to weights in an element type or fp32, and random weights in place.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "gpu/cuda/element.hpp"
#include "model/tensor.hpp"

namespace spillway::gpu::cuda {

/// to[i] = what element i of `from` means, i in [0, count). `from` starts at a storage block.
void launch_convert(const void* from, model::DType dtype, void* to, Element element, std::int64_t count,
                    cudaStream_t stream);

/// Uniform in [-range, range), by a hash of (seed, i).
void launch_fill_random(void* to, Element element, std::int64_t count, float range, std::uint64_t seed,
                        cudaStream_t stream);
void launch_fill(void* to, Element element, std::int64_t count, float value, cudaStream_t stream);

}  // namespace spillway::gpu::cuda
