// SPDX-License-Identifier: Apache-2.0
#pragma once

// The end of a step's attention in one unit of a sparsified sequence with one token: what the query gave to
// each live token enters its score, and where one token goes, the least worth of them becomes a hole.

#include "gpu/cuda/element.cuh"
#include "gpu/cuda/sparse_slots.cuh"

namespace spillway::gpu::cuda {

/// The slot with the least worth of all threads' candidates, on thread 0.
template <int kThreads>
__device__ int least_of_block(std::uint64_t worth, int slot) {
  __shared__ std::uint64_t worths[kThreads / 32];
  __shared__ int slots[kThreads / 32];
  const auto high = static_cast<unsigned>(worth >> 32), least_high = __reduce_min_sync(0xffffffffu, high);
  const unsigned low = high == least_high ? static_cast<unsigned>(worth) : ~0u,
                 least_low = __reduce_min_sync(0xffffffffu, low);
  const bool is_least = high == least_high && low == least_low;
  slot = static_cast<int>(__reduce_min_sync(0xffffffffu, is_least ? static_cast<unsigned>(slot) : ~0u));
  worth = std::uint64_t{least_high} << 32 | least_low;
  if (threadIdx.x % 32 == 0) {
    worths[threadIdx.x / 32] = worth;
    slots[threadIdx.x / 32] = slot;
  }
  __syncthreads();
  for (int i = 1; i < kThreads / 32 && threadIdx.x == 0; ++i)
    if (worths[i] < worth || (worths[i] == worth && slots[i] < slot)) worth = worths[i], slot = slots[i];
  return slot;
}

/// read of finish_unit() from the pool.
struct ReadPool {
  int to_score;
  __device__ float4 operator()(const float* at, int, bool score) const {
    return *reinterpret_cast<const float4*>(score ? at + to_score : at);
  }
};

/// Called by all threads of a block of kThreads. logits(query, slot): those of four slots as a float4, in
/// log2; lse [queries], likewise. kQueries: at most so many, and lse may be registers; 0: any number.
template <int kThreads, int kQueries, class Logits, class Read, class Lse>
__device__ void finish_unit(const SparseSlots& p, const SparseSequence& s, int unit, int queries,
                            Logits&& logits, Read&& read, const Lse& lse) {
  const bool updates = s.update != static_cast<int>(ScoreUpdate::kNone);
  const bool adds = s.update == static_cast<int>(ScoreUpdate::kAdd), evicts = s.evicts_early != 0;
  if (!updates && !evicts) return;
  const bool scored = updates || (s.method != static_cast<int>(model::SparseMethod::kRandom) &&
                                  s.method != static_cast<int>(model::SparseMethod::kStreaming));
  const UnitSlots slots(p, s.table, unit);
  std::uint64_t least = ~std::uint64_t{0};
  int victim = -1;
  constexpr int kAtOnce = 2, kStep = kThreads * 4;  // loads under way; slots a round
  for (int first = static_cast<int>(threadIdx.x) * 4; first < s.span; first += kAtOnce * kStep) {
    float* at[kAtOnce];
    float4 position[kAtOnce], score[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      at[j] = slots.position(min(first + j * kStep, (s.span - 1) & ~3));
      position[j] = read(at[j], first + j * kStep, false);
      if (scored) score[j] = read(at[j], first + j * kStep, true);
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int slot = first + j * kStep;
      if (slot >= s.span) break;
      const float positions[4] = {position[j].x, position[j].y, position[j].z, position[j].w};
      float scores[4] = {};
      if (scored)
        scores[0] = score[j].x, scores[1] = score[j].y, scores[2] = score[j].z, scores[3] = score[j].w;
      if (updates) {
        float given[4] = {};
        const auto add = [&](int g) {
          const float4 logit = logits(g, slot);
          given[0] += power_of_two(logit.x - lse[g]);
          given[1] += power_of_two(logit.y - lse[g]);
          given[2] += power_of_two(logit.z - lse[g]);
          given[3] += power_of_two(logit.w - lse[g]);
        };
        if constexpr (kQueries > 0) {
#pragma unroll
          for (int g = 0; g < kQueries; ++g)
            if (g < queries) add(g);
        } else {
          for (int g = 0; g < queries; ++g) add(g);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (positions[i] >= 0 && slot + i < s.span) scores[i] = adds ? scores[i] + given[i] : given[i];
        *reinterpret_cast<float4*>(at[j] + UnitSlots::to_score(p)) = {scores[0], scores[1], scores[2], scores[3]};
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (!evicts || slot + i >= s.span || !is_evictable(s, positions[i])) continue;
        const std::uint64_t worth = worth_of(s, unit, positions[i], scores[i]);
        if (worth < least) least = worth, victim = slot + i;
      }
    }
  }
  if (!evicts) return;
  victim = least_of_block<kThreads>(least, victim < 0 ? 0x7fffffff : victim);
  if (threadIdx.x != 0 || victim >= s.span) return;
  *slots.position(victim) = kHole;
  *victim_of(p, s, unit) = victim;
}

}  // namespace spillway::gpu::cuda
