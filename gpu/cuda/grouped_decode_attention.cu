// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/grouped_decode_attention.cuh"

namespace spillway::gpu::cuda {

void launch_grouped_decode_attention(const AttentionParams& p, cudaStream_t stream) { launch_grouped(p, stream); }

}  // namespace spillway::gpu::cuda
