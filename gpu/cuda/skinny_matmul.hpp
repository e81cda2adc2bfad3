// SPDX-License-Identifier: Apache-2.0
#pragma once

// Products of a weight with few tokens, bound by the weight's bytes: each weight is read once, its first part even
// before the kernel that makes the input has ended.

#include <cuda_runtime_api.h>

#include "gpu/cuda/product.hpp"

namespace spillway::gpu::cuda {

inline constexpr int kSkinnyTokensMax = 16;

/// On compute capability 9.0: 16-bit types, cols a multiple of 32, up to kSkinnyTokensMax tokens that fit into shared
/// memory beside the ring.
[[nodiscard]] bool has_skinny(Element element, int rows, int cols, int tokens) noexcept;
void launch_skinny(const Product& p, cudaStream_t stream);

}  // namespace spillway::gpu::cuda
