// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/sparse_slots.cuh"

// What evicts behind the last layer: pooling, sums over the heads that decide together, the choice of any
// number of victims, and the report of empty blocks.

namespace spillway::gpu::cuda {
namespace {

constexpr int kThreads = 256;  // and values of a digit
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

/// The largest worth of the `count` least worth ones, found digit by digit from the top; no less than the
/// largest of all if there are fewer. worth_at(slot, worth): false for slots that may not go. Called by a
/// block.
template <class WorthAt>
__device__ std::uint64_t worth_of_last(int span, int count, WorthAt&& worth_at) {
  __shared__ int histogram[kThreads], sums[kThreads / 32], digit, left, in_digit;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  std::uint64_t prefix = 0, known = 0, worth = 0;
  if (threadIdx.x == 0) left = count;
  for (int shift = 56; shift >= 0; shift -= 8) {
    histogram[threadIdx.x] = 0;
    if (threadIdx.x == 0) digit = 255, in_digit = 0;
    __syncthreads();
    for (int slot = threadIdx.x; slot < span; slot += kThreads)
      if (worth_at(slot, worth) && (worth & known) == prefix) atomicAdd(&histogram[worth >> shift & 255], 1);
    __syncthreads();
    const int own = histogram[threadIdx.x], wanted = left;
    int up_to = own;  // with this digit or a smaller one
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int below = __shfl_up_sync(0xffffffffu, up_to, offset);
      if (lane >= offset) up_to += below;
    }
    if (lane == 31) sums[warp] = up_to;
    __syncthreads();
    for (int i = 0; i < warp; ++i) up_to += sums[i];
    if (up_to >= wanted && up_to - own < wanted) {
      digit = static_cast<int>(threadIdx.x);
      in_digit = own;
      left = wanted - (up_to - own);
    }
    __syncthreads();
    prefix |= static_cast<std::uint64_t>(digit) << shift;
    known |= std::uint64_t{255} << shift;
    const bool whole = left >= in_digit;  // all with these digits go
    __syncthreads();
    if (whole) break;
  }
  return prefix | ~known;
}

/// The least worth of all; the largest number there is if no slot may go. Called by a block.
template <class WorthAt>
__device__ std::uint64_t least_worth(int span, WorthAt&& worth_at) {
  __shared__ std::uint64_t of_warps[kThreads / 32];
  std::uint64_t least = ~std::uint64_t{0}, worth = 0;
  for (int slot = threadIdx.x; slot < span; slot += kThreads)
    if (worth_at(slot, worth) && worth < least) least = worth;
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) {
    const std::uint64_t other = __shfl_xor_sync(0xffffffffu, least, offset);
    if (other < least) least = other;
  }
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = least;
  __syncthreads();
  for (const std::uint64_t of_warp : of_warps)
    if (of_warp < least) least = of_warp;
  return least;
}

/// One block a group: makes holes of the evict least worth. Worths differ, as positions do.
__global__ void sparse_evict(const SparseSlots p) {
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
  const std::uint64_t last =
      s.evict == 1 ? least_worth(s.span, worth_at) : worth_of_last(s.span, s.evict, worth_at);
  std::uint64_t worth = 0;
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
