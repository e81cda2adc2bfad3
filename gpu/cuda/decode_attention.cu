// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/decode_attention.cuh"

namespace spillway::gpu::cuda {

bool has_fast_decode(Element element, int head_dim, int heads, int kv_heads) noexcept {
  const bool size = head_dim == 64 || head_dim == 80 || head_dim == 96 || head_dim == 128 || head_dim == 256;
  return element != Element::kF32 && size && heads / kv_heads <= 8;
}

void launch_decode_attention(const AttentionParams& p, cudaStream_t stream) {
  if (has_grouped_decode(p.head_dim, p.heads, p.kv_heads)) return launch_grouped_decode_attention(p, stream);
  if (p.element == Element::kBF16) return launch_for_head<__nv_bfloat16>(p, stream);
  launch_for_head<__half>(p, stream);
}

}  // namespace spillway::gpu::cuda
