// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/sparse_slots.cuh"

// What evicts behind the last layer: pooling, sums over the heads that decide together, the choice of any
// number of victims, and the report of empty blocks.

namespace spillway::gpu::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kReach = static_cast<int>(kSnapKvReach);
constexpr float kReported = -2.0f;  // a hole in a block that was reported as empty

/// Units that decide together, and how many such groups there are.
struct Groups {
  int units, count;
  __device__ Groups(const SparseSlots& p, const SparseSequence& s)
      : units(s.granularity == static_cast<int>(model::SparseGranularity::kHead)    ? 1
              : s.granularity == static_cast<int>(model::SparseGranularity::kLayer) ? p.kv_heads
                                                                                    : p.layers * p.kv_heads),
        count(p.layers * p.kv_heads / units) {}
};

/// One block a unit and sequence, in place: a tile's last scores as they were are kept for the next one.
__global__ void sparse_pool(const SparseSlots p) {
  __shared__ float own[kThreads + 2 * kReach], before[kReach];
  const SparseSequence s = p.sequences[blockIdx.y];
  if (s.pools == 0) return;
  const UnitSlots slots(p, s.table, blockIdx.x);
  const int i = threadIdx.x;
  if (i < kReach) before[i] = -INFINITY;
  for (int first = 0; first < s.span; first += kThreads) {
    __syncthreads();
    const int slot = first + i, right = first + kThreads + i;
    own[kReach + i] = slot < s.span ? *slots.score(slot) : -INFINITY;
    if (i < kReach) {
      own[i] = before[i];
      own[kReach + kThreads + i] = right < s.span ? *slots.score(right) : -INFINITY;
    }
    __syncthreads();
    if (i < kReach) before[i] = own[kThreads + i];
    float largest = -INFINITY;
    for (int j = 0; j <= 2 * kReach; ++j) largest = fmaxf(largest, own[i + j]);
    if (slot < s.span) *slots.score(slot) = largest;
  }
}

/// One thread a slot of a group, head by head.
__global__ void sparse_sums(const SparseSlots p) {
  const SparseSequence s = p.sequences[blockIdx.z];
  const Groups groups(p, s);
  const int slot = blockIdx.x * kThreads + threadIdx.x, group = blockIdx.y;
  if (s.evict == 0 || groups.units == 1 || group >= groups.count || slot >= s.span) return;
  float sum = 0;
#pragma unroll 8
  for (int unit = group * groups.units; unit < (group + 1) * groups.units; ++unit)
    sum += *UnitSlots(p, s.table, unit).score(slot);
  p.sums[std::int64_t{s.scratch} * p.layers + std::int64_t{group} * padded_span(s.span) + slot] = sum;
}

/// One block a group: finds the evict-th least worth digit by digit, then makes holes of all up to it.
__global__ void sparse_evict(const SparseSlots p) {
  __shared__ int histogram[256];
  __shared__ int digit, left;
  const SparseSequence s = p.sequences[blockIdx.y];
  const Groups groups(p, s);
  const int group = blockIdx.x;
  if (s.evict == 0 || s.evicts_early != 0 || group >= groups.count) return;
  const int first_unit = group * groups.units;
  const UnitSlots slots(p, s.table, first_unit);
  const float* sums = p.sums + std::int64_t{s.scratch} * p.layers + std::int64_t{group} * padded_span(s.span);
  const auto worth_at = [&](int slot, std::uint64_t& worth) {
    const float position = *slots.position(slot);
    if (!is_evictable(s, position)) return false;
    worth = worth_of(s, group, position, groups.units == 1 ? *slots.score(slot) : sums[slot]);
    return true;
  };
  std::uint64_t prefix = 0, known = 0, worth = 0;
  if (threadIdx.x == 0) left = s.evict;
  for (int shift = 56; shift >= 0; shift -= 8) {
    histogram[threadIdx.x] = 0;
    __syncthreads();
    for (int slot = threadIdx.x; slot < s.span; slot += kThreads)
      if (worth_at(slot, worth) && (worth & known) == prefix) atomicAdd(&histogram[worth >> shift & 255], 1);
    __syncthreads();
    if (threadIdx.x == 0) {
      int rest = left, d = 0;
      while (d < 255 && rest > histogram[d]) rest -= histogram[d++];
      digit = d;
      left = rest;
    }
    __syncthreads();
    prefix |= static_cast<std::uint64_t>(digit) << shift;
    known |= std::uint64_t{255} << shift;
    const bool whole = left >= histogram[digit];  // all with these digits go
    __syncthreads();
    if (whole) break;
  }
  const std::uint64_t last = prefix | ~known;
  for (int slot = threadIdx.x; slot < s.span; slot += kThreads) {
    if (!worth_at(slot, worth) || worth > last) continue;
    for (int unit = first_unit; unit < first_unit + groups.units; ++unit) {
      *UnitSlots(p, s.table, unit).position(slot) = kHole;
      if (s.evict == 1) *victim_of(p, s, unit) = slot;
    }
  }
}

/// One block a full block of a sequence.
__global__ void sparse_emptied(const SparseSlots p) {
  const SparseSequence s = p.sequences[blockIdx.y];
  const int block = blockIdx.x, all = p.layers * p.kv_heads * p.block_size;
  if (s.frees == 0 || block >= s.span / p.block_size) return;
  const auto position = [&](int i) {
    return UnitSlots(p, s.table, i / p.block_size).position(block * p.block_size + i % p.block_size);
  };
  bool empty = true;
  for (int first = 0; first < all; first += kThreads) {
    const int i = first + static_cast<int>(threadIdx.x);
    empty = __syncthreads_and(i >= all || *position(i) == kHole) != 0;
    if (!empty) break;
  }
  if (threadIdx.x == 0) p.emptied[s.table + block] = empty ? 1 : 0;
  for (int i = threadIdx.x; empty && i < all; i += kThreads) *position(i) = kReported;
}

}  // namespace

void launch_sparse_pool(const SparseSlots& p, cudaStream_t stream) {
  sparse_pool<<<dim3(p.layers * p.kv_heads, p.launched), kThreads, 0, stream>>>(p);
}

void launch_sparse_evict(const SparseSlots& p, int span_max, cudaStream_t stream) {
  sparse_sums<<<dim3((span_max + kThreads - 1) / kThreads, p.layers, p.launched), kThreads, 0, stream>>>(p);
  sparse_evict<<<dim3(p.layers * p.kv_heads, p.launched), kThreads, 0, stream>>>(p);
}

void launch_sparse_emptied(const SparseSlots& p, int blocks_max, cudaStream_t stream) {
  sparse_emptied<<<dim3(blocks_max, p.launched), kThreads, 0, stream>>>(p);
}

}  // namespace spillway::gpu::cuda
