// SPDX-License-Identifier: Apache-2.0
#pragma once

// Prefill attention by products of warpgroups and tensor copies, where the device and the shape have them.

#include <cuda_runtime_api.h>

#include "gpu/cuda/attention.hpp"

namespace spillway::gpu::cuda {

/// Compute capability 9.0, 16-bit types, head_dim 64 or 128, blocks of 8 tokens or more that begin at
/// multiples of 8 rows. False: nothing was launched.
[[nodiscard]] bool launch_prefill_tiles(const AttentionParams& p, cudaStream_t stream);

/// By element; of launch_prefill_tiles.
[[nodiscard]] bool launch_prefill_tiles_bf16(const AttentionParams& p, cudaStream_t stream);
[[nodiscard]] bool launch_prefill_tiles_f16(const AttentionParams& p, cudaStream_t stream);

}  // namespace spillway::gpu::cuda
