// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/sparse_slots.cuh"

namespace spillway::gpu::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kAtOnce = 4;  // loads under way

/// The first slot below `span` without a token, or span - 1. Called by a warp.
__device__ int first_hole(const UnitSlots& slots, int span, int lane) {
  for (int base = 0; base < span; base += kAtOnce * 128) {
    float4 four[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int slot = base + i * 128 + lane * 4;
      four[i] = slot < span ? *reinterpret_cast<const float4*>(slots.position(slot)) : float4{};
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int slot = base + i * 128 + lane * 4;
      const float all[4] = {four[i].x, four[i].y, four[i].z, four[i].w};
      int own = 4;
#pragma unroll
      for (int j = 3; j >= 0; --j)
        if (all[j] < 0 && slot + j < span) own = j;
      const unsigned found = __ballot_sync(0xffffffffu, own < 4);
      if (found == 0) continue;
      const int first = __ffs(found) - 1;
      return base + i * 128 + first * 4 + __shfl_sync(0xffffffffu, own, first);
    }
  }
  return span - 1;
}

/// A warp a unit and sequence.
__global__ void sparse_place(const SparseSlots p) {
  if (static_cast<int>(blockIdx.y) >= *p.count) return;
  const SparseSequence s = p.sequences[blockIdx.y];
  const int unit = blockIdx.x * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (unit >= p.layers * p.kv_heads) return;
  const UnitSlots slots(p, s.table, unit);
  if (s.tokens > 1) {
    for (int t = lane; t < s.tokens; t += 32) {
      const int slot = s.span - s.tokens + t;
      *slots.position(slot) = static_cast<float>(s.position + t);
      *slots.score(slot) = 0;
    }
    return;
  }
  const int slot = s.reuse != 0 ? first_hole(slots, s.span, lane) : s.span - 1;
  if (lane != 0) return;
  *slots.position(slot) = static_cast<float>(s.position);
  *slots.score(slot) = 0;
  const int layer = unit / p.kv_heads, kv_head = unit % p.kv_heads;
  p.places[(layer * p.max_sequences + static_cast<int>(blockIdx.y)) * p.kv_heads + kv_head] = {
      slots.in_pool(slot), slot};
}

}  // namespace

void launch_sparse_place(const SparseSlots& p, cudaStream_t stream) {
  const dim3 grid((p.layers * p.kv_heads + kWarps - 1) / kWarps, p.launched);
  sparse_place<<<grid, kWarps * 32, 0, stream>>>(p);
}

}  // namespace spillway::gpu::cuda
