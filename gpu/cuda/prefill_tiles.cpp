// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/prefill_tiles.hpp"

#include "gpu/cuda/launch.hpp"

namespace spillway::gpu::cuda {

bool launch_prefill_tiles(const AttentionParams& p, cudaStream_t stream) {
  const bool shape = (p.head_dim == 64 || p.head_dim == 128) && p.block_size >= 8 &&
                     p.block_elements % (8 * p.head_dim) == 0;
  const bool told = p.pool_blocks > 0 && p.pool_blocks * p.block_elements / (8 * p.head_dim) <= 0x7fffffff;
  if (!shape || !told || p.element == Element::kF32 || !has_warpgroup_products()) return false;
  return p.element == Element::kBF16 ? launch_prefill_tiles_bf16(p, stream)
                                     : launch_prefill_tiles_f16(p, stream);
}

}  // namespace spillway::gpu::cuda
