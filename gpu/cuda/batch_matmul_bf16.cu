// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/batch_matmul.cuh"

namespace spillway::gpu::cuda {

bool launch_batch_bf16(const BatchParams& p, cudaStream_t stream) { return launch_batch_for<__nv_bfloat16>(p, stream); }

}  // namespace spillway::gpu::cuda
