// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/prefill_tiles.cuh"

namespace spillway::gpu::cuda {

bool launch_prefill_tiles_bf16(const AttentionParams& p, cudaStream_t stream) {
  return launch_prefill_tiles_for<__nv_bfloat16>(p, stream);
}

}  // namespace spillway::gpu::cuda
