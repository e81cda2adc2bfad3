// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/sparse_slots.cuh"

namespace spillway::gpu::cuda {
namespace {

constexpr int kThreads = 256;

/// A list of slots in ascending order that is filled ahead and used from its front. Shared by a block.
struct SlotQueue {
  int slots[2 * kThreads];
  int counts[kThreads / 32];
};

/// Appends those of [next, end) that `wanted` says, until there are kThreads or more, or no slot is left.
/// Returns how many there are.
template <class Wanted>
__device__ int fill(SlotQueue& queue, int count, int& next, int end, Wanted&& wanted) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  while (count < kThreads && next < end) {
    const int slot = next + static_cast<int>(threadIdx.x);
    const bool takes = slot < end && wanted(slot);
    const unsigned takers = __ballot_sync(0xffffffffu, takes);
    if (lane == 0) queue.counts[warp] = __popc(takers);
    __syncthreads();
    int at = count + __popc(takers & ((1u << lane) - 1));
    for (int w = 0; w < kThreads / 32; ++w) {
      if (w < warp) at += queue.counts[w];
      count += queue.counts[w];
    }
    if (takes) queue.slots[at] = slot;
    next += kThreads;
    __syncthreads();
  }
  return count;
}

/// Drops the first `used`.
__device__ int drop(SlotQueue& queue, int count, int used) {
  __syncthreads();
  int kept[2];
  for (int i = 0; i < 2; ++i) {
    const int at = used + i * kThreads + static_cast<int>(threadIdx.x);
    kept[i] = at < count ? queue.slots[at] : 0;
  }
  __syncthreads();
  for (int i = 0; i < 2; ++i) queue.slots[i * kThreads + static_cast<int>(threadIdx.x)] = kept[i];
  __syncthreads();
  return count - used;
}

/// Key and value, which lies `values` bytes behind, by a warp.
template <class Word>
__device__ void copy_token(char* to, const char* from, std::int64_t values, int key_bytes) {
  for (int at = threadIdx.x % 32 * static_cast<int>(sizeof(Word)); at < key_bytes;
       at += 32 * static_cast<int>(sizeof(Word))) {
    *reinterpret_cast<Word*>(to + at) = *reinterpret_cast<const Word*>(from + at);
    *reinterpret_cast<Word*>(to + values + at) = *reinterpret_cast<const Word*>(from + values + at);
  }
}

/// One block a unit: tokens go from `sources` to the holes, or to the slots of another table, both in
/// ascending order.
__global__ void sparse_pack(const SparseSlots p, const int index, const int key_bytes) {
  __shared__ SlotQueue sources, holes;
  const SparseSequence s = p.sequences[index];
  const int unit = blockIdx.x, layer = unit / p.kv_heads, kv_head = unit % p.kv_heads;
  const bool copies = s.copies != 0;
  const UnitSlots slots(p, s.table, unit), to_slots(p, copies ? s.copy_table : s.table, unit);
  const std::int64_t values = std::int64_t{p.kv_heads} * p.block_size * key_bytes;  // behind the keys
  const std::int64_t offset = 2 * values * layer + std::int64_t{kv_head} * p.block_size * key_bytes;
  const auto key_at = [&](int in_pool) {
    return p.pool + in_pool / p.block_size * p.block_bytes + offset +
           std::int64_t{in_pool % p.block_size} * key_bytes;
  };
  int next_source = copies ? 0 : s.live, next_hole = 0, source_count = 0, hole_count = 0, done = 0;
  while (true) {
    source_count = fill(sources, source_count, next_source, s.span,
                        [&](int slot) { return *slots.position(slot) >= 0; });
    if (!copies)
      hole_count = fill(holes, hole_count, next_hole, min(s.live, s.span),
                        [&](int slot) { return *slots.position(slot) < 0; });
    const int moves = min(source_count, copies ? s.live - done : hole_count);
    if (moves <= 0) break;
    for (int i = threadIdx.x / 32; i < moves; i += kThreads / 32) {
      const int from = sources.slots[i], to = copies ? done + i : holes.slots[i], lane = threadIdx.x % 32;
      const char* from_key = key_at(slots.in_pool(from));
      char* to_key = key_at(to_slots.in_pool(to));
      if (key_bytes % 4 == 0) {
        copy_token<int>(to_key, from_key, values, key_bytes);
      } else {
        copy_token<short>(to_key, from_key, values, key_bytes);
      }
      if (lane != 0) continue;
      *to_slots.position(to) = *slots.position(from);
      *to_slots.score(to) = *slots.score(from);
      if (!copies) *slots.position(from) = kHole;
    }
    done += moves;
    source_count = drop(sources, source_count, moves);
    if (!copies) hole_count = drop(holes, hole_count, moves);
  }
}

}  // namespace

void launch_sparse_pack(const SparseSlots& p, int index, int key_bytes, cudaStream_t stream) {
  sparse_pack<<<p.layers * p.kv_heads, kThreads, 0, stream>>>(p, index, key_bytes);
}

}  // namespace spillway::gpu::cuda
