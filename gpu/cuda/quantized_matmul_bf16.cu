// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/quantized_matmul.cuh"

namespace spillway::gpu::cuda {

void launch_quantized_bf16(const QuantizedParams& p, cudaStream_t stream) { launch_quantized_for<__nv_bfloat16>(p, stream); }

}  // namespace spillway::gpu::cuda
