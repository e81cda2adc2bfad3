// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "gpu/cuda/sparse_slots.cuh"

namespace spillway::gpu::cuda {
namespace {

constexpr int kThreads = 128;
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

/// What a prompt's chunk brings to one unit: slot = position. Called by a warp of each of the grid's layers.
__device__ void place_chunk(const SparseSequence& s, const UnitSlots& slots, int lane) {
  const int step = 32 * static_cast<int>(gridDim.z);
  for (int t = static_cast<int>(blockIdx.z) * 32 + lane; t < s.tokens; t += step) {
    const int slot = s.span - s.tokens + t;
    *slots.position(slot) = static_cast<float>(s.position + t);
    *slots.score(slot) = 0;
  }
}

/// The slot of the one token where no search is needed, else -1: what the last eviction freed is the only
/// hole, if it is one.
__device__ int known_slot(const SparseSlots& p, const SparseSequence& s, int unit, const UnitSlots& slots) {
  if (s.reuse == 0) return s.span - 1;
  if (s.one_hole == 0) return -1;
  const int victim = *victim_of(p, s, unit);
  return victim >= 0 && victim < s.span && *slots.position(victim) < 0 ? victim : -1;
}

/// A warp 32 units of a sequence, each lane its own; those that must be searched, and a prompt's, all lanes
/// together.
__global__ void sparse_place(const SparseSlots p) {
  if (static_cast<int>(blockIdx.y) >= *p.count) return;
  const SparseSequence s = p.sequences[blockIdx.y];
  if (s.tokens == 1 && blockIdx.z > 0) return;
  const int units = p.layers * p.kv_heads, lane = threadIdx.x % 32;
  const int first = blockIdx.x * kThreads + static_cast<int>(threadIdx.x) - lane,
            unit = min(first + lane, units - 1);
  const UnitSlots slots(p, s.table, unit);
  int slot = s.tokens > 1 ? -1 : known_slot(p, s, unit, slots);
  for (unsigned left = __ballot_sync(0xffffffffu, first + lane < units && slot < 0); left != 0;
       left &= left - 1) {
    const int next = __ffs(left) - 1;
    const UnitSlots its_slots(p, s.table, first + next);
    if (s.tokens > 1) {
      place_chunk(s, its_slots, lane);
    } else if (const int hole = first_hole(its_slots, s.span, lane); lane == next) {
      slot = hole;
    }
  }
  if (s.tokens > 1 || first + lane >= units) return;
  *slots.position(slot) = static_cast<float>(s.position);
  *slots.score(slot) = 0;
  const int layer = unit / p.kv_heads, kv_head = unit % p.kv_heads;
  p.places[(layer * p.max_sequences + static_cast<int>(blockIdx.y)) * p.kv_heads + kv_head] = {
      slots.in_pool(slot), slot};
}

}  // namespace

void launch_sparse_place(const SparseSlots& p, int chunk_max, cudaStream_t stream) {
  constexpr int kTokens = 64, kMostLayers = 16;  // of a chunk, for a layer of the grid
  const int layers = std::clamp(chunk_max / kTokens, 1, kMostLayers);
  const dim3 grid((p.layers * p.kv_heads + kThreads - 1) / kThreads, p.launched, layers);
  sparse_place<<<grid, kThreads, 0, stream>>>(p);
}

}  // namespace spillway::gpu::cuda
