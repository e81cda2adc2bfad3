// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/decode_attention.cuh"

namespace spillway::gpu::cuda {

void launch_sparse_decode_attention(const SparseAttentionParams& p, cudaStream_t stream) {
  if (has_grouped_decode(p.head_dim, p.heads, p.kv_heads))
    return launch_sparse_grouped_decode_attention(p, stream);
  if (p.element == Element::kBF16) return launch_for_head<__nv_bfloat16>(p, stream);
  launch_for_head<__half>(p, stream);
}

}  // namespace spillway::gpu::cuda
