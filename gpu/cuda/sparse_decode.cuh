// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the decode attention kernels do beside for a sparsified sequence. Without one they compile to what
// they were: the kernel's parameters say which.

#include "gpu/cuda/decode_items.cuh"
#include "gpu/cuda/sparse_finish.cuh"

namespace spillway::gpu::cuda {

template <class Params>
inline constexpr bool kIsSparse = __is_same(Params, SparseAttentionParams);

/// A sparsified sequence's logits of a KV head's first query; those of the next are padded_span(span)
/// further.
__device__ __forceinline__ float* first_logit(const SparseAttentionParams& p, const SparseSequence& s,
                                              int kv_head) {
  return p.slots.logits + std::int64_t{s.scratch} * p.heads +
         std::int64_t{kv_head} * (p.heads / p.kv_heads) * padded_span(s.span);
}

/// Positions below this are masked: of holes, and of what the window has left behind.
__device__ __forceinline__ float oldest_seen(const SparseAttentionParams& p, const SparseSequence& s) {
  return p.window > 0 ? fmaxf(0.0f, static_cast<float>(s.position - p.window + 1)) : 0.0f;
}

/// The slot of the step's token, whose key the kernel in front writes; of an exact sequence the item's last.
__device__ __forceinline__ int own_slot(const SparseAttentionParams& p, const DecodeItem& item, int kv_head) {
  if (item.sparse < 0) return item.end - 1;
  return p.slots.places[(p.layer * p.slots.max_sequences + item.sparse) * p.kv_heads + kv_head].slot;
}

/// An item's slots by tiles of kKeys: which of them are seen, as bits, and their logits until the tile is
/// through. Lies in shared memory. All threads of a block of kThreads make the calls, but for sees() and
/// put().
template <int kQueries, int kThreads>
struct SparseTile {
  // What a tile takes of a multiprocessor's shared memory is missing in its L1, through which keys and values
  // come.
  static constexpr int kKeys = kQueries == 1 ? 1024 : 4096 / kQueries;
  static constexpr int kStride = kQueries == 1 ? kKeys : kKeys + 4;  // queries side by side in other banks
  unsigned seen[kKeys / 32];
  __align__(16) float logits[kQueries][kStride];
  __align__(16) float positions[kKeys], scores[kKeys];  // of all slots, where they fit

  /// Exact sequences see everything up to the item's end.
  __device__ void load(const SparseAttentionParams& p, const DecodeItem& item, int kv_head, int first) {
    float oldest = -INFINITY;
    if (item.sparse >= 0) oldest = oldest_seen(p, p.slots.sequences[item.sparse]);
    const UnitSlots slots(p.slots, item.table, p.layer * p.kv_heads + kv_head);
    const int count = min(kKeys, item.end - first);
    if (item.sparse >= 0) {
      // Scores are wanted at the end only, if they all fit.
      for (const bool score : {false, true}) {
        for (int i = static_cast<int>(threadIdx.x) * 4; i < count && (!score || holds(item));
             i += kThreads * 4)
          copy_four(score ? &scores[i] : &positions[i],
                    score ? slots.score(first + i) : slots.position(first + i));
        asm volatile("cp.async.commit_group;" ::: "memory");
      }
      asm volatile("cp.async.wait_group 1;" ::: "memory");
      __syncthreads();
    }
    for (int i = threadIdx.x; i < count + static_cast<int>(threadIdx.x); i += kThreads) {
      const bool sees = i < count && (item.sparse < 0 || positions[i] >= oldest);
      const unsigned bits = __ballot_sync(0xffffffffu, sees);
      if (threadIdx.x % 32 == 0) seen[i / 32] = bits;
    }
    __syncthreads();
  }
  __device__ bool sees(int in_tile) const { return (seen[in_tile / 32] >> (in_tile % 32) & 1) != 0; }
  __device__ void put(int query, int in_tile, float logit) { logits[query][in_tile] = logit; }

  /// 16 bytes from global to shared memory.
  __device__ static void copy_four(float* to, const float* from) {
    const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from));
  }
  /// All of the sequence's slots are here.
  __device__ static bool holds(const DecodeItem& item) { return item.item_count == 1 && item.end <= kKeys; }
  /// Brings a tile's logits to where the block that finishes finds them.
  __device__ void flush(const SparseAttentionParams& p, const DecodeItem& item, int kv_head, int first) {
    if (item.sparse < 0 || holds(item)) return;
    const SparseSequence& s = p.slots.sequences[item.sparse];
    if (s.update == static_cast<int>(ScoreUpdate::kNone)) return;
    float* to = first_logit(p, s, kv_head);
    const int count = min(kKeys, item.end - first), stride = padded_span(s.span);
    __syncthreads();
    for (int g = 0; g < p.heads / p.kv_heads; ++g)
      for (int i = threadIdx.x; i < count; i += kThreads)
        to[std::int64_t{g} * stride + first + i] = logits[g][i];
    __syncthreads();
  }

  /// Before the loop goes on at `base`: the next tile, where this one is through.
  __device__ void advance(const SparseAttentionParams& p, const DecodeItem& item, int kv_head, int base) {
    if ((base - item.begin) % kKeys != 0) return;
    flush(p, item, kv_head, base - kKeys);
    __syncthreads();  // the bits were read
    load(p, item, kv_head, base);
  }
  /// After the loop.
  __device__ void flush_last(const SparseAttentionParams& p, const DecodeItem& item, int kv_head) {
    flush(p, item, kv_head, item.begin + (item.end - 1 - item.begin) / kKeys * kKeys);
  }

  /// Waits for what the thread asked for of scores; all threads' are there behind the next barrier.
  __device__ static void take_scores() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

  /// At the end of the block that finished the sequence's attention in this unit, behind a barrier that take_scores() was
  /// in front of. `lse` [queries], in log2, is right for an item that is the whole; else it is made of the items'.
  __device__ void finish(const SparseAttentionParams& p, const DecodeItem& item, int kv_head, float (&lse)[kQueries]) {
    if (item.sparse < 0) return;
    const int queries = p.heads / p.kv_heads;
    if (item.item_count > 1) {  // a query a lane, in every warp
      const int query = min(static_cast<int>(threadIdx.x) % 32, queries - 1);
      const float* of_item = p.partial_lse + std::int64_t{item.first_item} * p.heads + kv_head * queries + query;
      float largest = -INFINITY, all = 0;
      for (int j = 0; j < item.item_count; ++j) largest = fmaxf(largest, __ldcg(of_item + std::int64_t{j} * p.heads));
      for (int j = 0; j < item.item_count; ++j) all += __expf(__ldcg(of_item + std::int64_t{j} * p.heads) - largest);
      const float own = largest * 1.4426950408889634f + log2f(all);
#pragma unroll
      for (int g = 0; g < kQueries; ++g) lse[g] = __shfl_sync(0xffffffffu, own, g);
    }
    const SparseSequence s = p.slots.sequences[item.sparse];
    const float* stored = first_logit(p, s, kv_head);
    const int unit = p.layer * p.kv_heads + kv_head, stride = padded_span(s.span);
    const bool here = holds(item);
    const auto at = [&](int g, int slot) {
      return here ? *reinterpret_cast<const float4*>(&logits[g][slot])
                  : __ldcg(reinterpret_cast<const float4*>(stored + std::int64_t{g} * stride + slot));
    };
    const ReadPool pool{UnitSlots::to_score(p.slots)};
    const auto read = [&](const float* from, int slot, bool score) {
      if (!here) return pool(from, slot, score);
      return *reinterpret_cast<const float4*>(score ? &scores[min(slot, kKeys - 4)]
                                                    : &positions[min(slot, kKeys - 4)]);
    };
    finish_unit<kThreads, kQueries>(p.slots, s, unit, queries, at, read, lse);
  }
};

/// After an item's result was put: merges its sequence's items, and with the last of them finishes the unit.
template <class T, int kHeadDim, class Params, class Tile, int kQueries>
__device__ __forceinline__ void finish_item(const Params& p, const DecodeItem& item, int kv_head, Tile* tile,
                                            float (&lse)[kQueries]) {
  [[maybe_unused]] const bool last = item.item_count == 1 || merge_items<T, kHeadDim>(p, item, kv_head);
  if constexpr (kIsSparse<Params>)
    if (last) tile->finish(p, item, kv_head, lse);
}

}  // namespace spillway::gpu::cuda
