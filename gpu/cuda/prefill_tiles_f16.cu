// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/prefill_tiles.cuh"

namespace spillway::gpu::cuda {

bool launch_prefill_tiles_f16(const AttentionParams& p, cudaStream_t stream) {
  return launch_prefill_tiles_for<__half>(p, stream);
}

}  // namespace spillway::gpu::cuda
