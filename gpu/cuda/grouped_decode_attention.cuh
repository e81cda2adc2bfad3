// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gpu/cuda/decode_items.cuh"
#include "gpu/cuda/launch.cuh"
#include "gpu/cuda/mma.cuh"
#include "gpu/cuda/sparse_decode.cuh"

// Decode attention where several queries share a KV head: on CUDA cores the products of each key with every
// query would cost more than its bytes. A warp takes 16 keys at a time, straight from the pool to registers,
// as the mma's 16 rows; queries are its 8 columns. Scores: a lane keeps 16 bytes of a key, 8 dimensions, as its
// share of two products (a sum over dimensions takes them in any order). Values: a lane keeps 8 dimensions of
// four keys and pairs the keys up, dimension by dimension; each of the 4 products then takes two of every 8
// dimensions of 64, eight rows each.

namespace spillway::gpu::cuda {
namespace {

constexpr int kWarpKeys = 16;
constexpr int kRound = kDecodeWarps * kWarpKeys;
constexpr int kColumns = 8;
constexpr int kGroupedDecodeBlocks = 4;  // on a multiprocessor at a time, at most

/// The same element of two vectors, the first one low.
__device__ __forceinline__ unsigned pair(const Packed& a, const Packed& b, int element) {
  return __byte_perm(a.words[element / 2], b.words[element / 2], element % 2 == 0 ? 0x5410 : 0x7632);
}
__device__ __forceinline__ unsigned pack(float low, float high, __nv_bfloat16*) {
  const __nv_bfloat162 x = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&x);
}
__device__ __forceinline__ unsigned pack(float low, float high, __half*) {
  const __half2 x = __floats2half2_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&x);
}

/// The transpose of an 8 by 8 matrix of 16-bit elements that a warp holds, two of a row a lane.
__device__ __forceinline__ unsigned transpose(unsigned two) {
  unsigned out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(two));
  return out;
}

/// One block an item and KV head, for up to kQueries queries of it.
template <class T, int kHeadDim, int kQueries, class Params>
__global__ void __launch_bounds__(kDecodeWarps * 32, kGroupedDecodeBlocks) grouped_decode_attention(const Params p) {
  static_assert(kQueries == 4 || kQueries == kColumns);
  constexpr int kSteps = kHeadDim / 32, kSets = kHeadDim / 64;
  let_next_start();
  if (!has_item(p)) return;
  const DecodeItem item = p.items[blockIdx.y];
  const int kv_head = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4,
            part = lane % 4;
  const int queries = p.heads / p.kv_heads, newest = item.end - 1;
  const PagedKeys<T, kHeadDim> paged(p, item, kv_head);
  const std::int64_t to_value = paged.to_value(p);
  Packed keys[2][kSteps], values[4][kSets];
  const int own_key = warp * kWarpKeys + group,
            own_value = warp * kWarpKeys + part * 2;  // of a round; + 8 n, + 8 (v / 2) + v % 2
  const auto load_key = [&](int n, int key) {
    const T* at = paged.at(key) + part * 8;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) keys[n][s] = load_stream(at + s * 32);
  };
  const auto load_value = [&](int v, int key) {
    const T* at = paged.at(key) + to_value + group * 8;
#pragma unroll
    for (int s = 0; s < kSets; ++s) values[v][s] = load_stream(at + s * 64);
  };
  const auto load_round = [&](int base, int limit) {  // what is over is masked, and must be finite
#pragma unroll
    for (int n = 0; n < 2; ++n) load_key(n, min(base + own_key + n * 8, limit));
#pragma unroll
    for (int v = 0; v < 4; ++v) load_value(v, min(base + own_value + v / 2 * 8 + v % 2, limit));
  };

  // Keys and values of all tokens but the step's own were there before the kernel in front.
  using Tile = SparseTile<kQueries, kDecodeWarps * 32>;
  [[maybe_unused]] Tile* tile = nullptr;
  if constexpr (kIsSparse<Params>) {  // that one may be anywhere
    __shared__ Tile shared_tile;
    tile = &shared_tile;
    const int own = own_slot(p, item, kv_head);
    load_round(item.begin, newest);
    tile->load(p, item, kv_head, item.begin);
    wait_for_producer();
#pragma unroll
    for (int n = 0; n < 2; ++n)
      if (min(item.begin + own_key + n * 8, newest) == own) load_key(n, own);
#pragma unroll
    for (int v = 0; v < 4; ++v)
      if (min(item.begin + own_value + v / 2 * 8 + v % 2, newest) == own) load_value(v, own);
  } else {
    if (item.begin < newest) load_round(item.begin, newest - 1);
    wait_for_producer();
    if (newest < item.begin + kRound) {
#pragma unroll
      for (int n = 0; n < 2; ++n)
        if (item.begin + own_key + n * 8 >= newest) load_key(n, newest);
#pragma unroll
      for (int v = 0; v < 4; ++v)
        if (item.begin + own_value + v / 2 * 8 + v % 2 >= newest) load_value(v, newest);
    }
  }
  Packed query[kSteps];
  const T* q = static_cast<const T*>(p.qkv) +
               (std::int64_t{item.row} * (p.heads + 2 * p.kv_heads) + kv_head * queries + group) * kHeadDim +
               part * 8;
#pragma unroll
  for (int s = 0; s < kSteps; ++s)
    query[s] = group < queries ? *reinterpret_cast<const Packed*>(q + s * 32) : Packed{};

  // Of queries 2 part and 2 part + 1: sums of dimensions 64 set + 8 group + j and, from the second pair, + 4.
  float sum[kSets][4][4] = {};
  float maximum[2] = {-INFINITY, -INFINITY}, total[2] = {};  // totals of this lane's keys only
  const float scale = p.scale * 1.4426950408889634f;
  for (int base = item.begin;;) {
    float score[4] = {};  // of two keys, each with two queries
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const unsigned a[4] = {keys[0][s].words[2 * half], keys[1][s].words[2 * half],
                               keys[0][s].words[2 * half + 1], keys[1][s].words[2 * half + 1]};
        multiply<T>(score, a, query[s].words[2 * half], query[s].words[2 * half + 1]);
      }
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      bool seen = false;
      if constexpr (kIsSparse<Params>) {
        const int in_tile = (base - item.begin) % Tile::kKeys + own_key + n * 8;
        seen = tile->sees(in_tile);
#pragma unroll
        for (int q = 0; q < 2; ++q)
          if (part * 2 + q < kQueries)
            tile->put(part * 2 + q, in_tile, seen ? score[n * 2 + q] * scale : -INFINITY);
      } else {
        seen = base + own_key + n * 8 < item.end;
      }
      if (!seen) score[n * 2] = score[n * 2 + 1] = -INFINITY;
    }
    float old[2];
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      float next = fmaxf(maximum[q], fmaxf(score[q], score[2 + q]));
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, offset));
      const float reference = next == -INFINITY ? 0.0f : next * scale;
      old[q] = power_of_two(maximum[q] * scale - reference);
      maximum[q] = next;
      score[q] = power_of_two(score[q] * scale - reference);
      score[2 + q] = power_of_two(score[2 + q] * scale - reference);
      total[q] = total[q] * old[q] + score[q] + score[2 + q];
    }
    const unsigned weight[2] = {transpose(pack(score[0], score[1], static_cast<T*>(nullptr))),
                                transpose(pack(score[2], score[3], static_cast<T*>(nullptr)))};
#pragma unroll
    for (int s = 0; s < kSets; ++s) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int c = 0; c < 4; ++c) sum[s][j][c] *= old[c % 2];
        const unsigned a[4] = {pair(values[0][s], values[1][s], j), pair(values[0][s], values[1][s], j + 4),
                               pair(values[2][s], values[3][s], j), pair(values[2][s], values[3][s], j + 4)};
        multiply<T>(sum[s][j], a, weight[0], weight[1]);
      }
    }
    base += kRound;
    if (base >= item.end) break;
    if constexpr (kIsSparse<Params>) tile->advance(p, item, kv_head, base);
    load_round(base, newest);
  }

  if constexpr (kIsSparse<Params>) tile->flush_last(p, item, kv_head);

  // Merge the warps.
  __shared__ float shared_max[kDecodeWarps][kColumns], shared_total[kDecodeWarps][kColumns];
  __shared__ __align__(16) float shared_sum[kDecodeWarps][kQueries][kHeadDim];
#pragma unroll
  for (int q = 0; q < 2; ++q) {
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2) total[q] += __shfl_xor_sync(0xffffffffu, total[q], offset);
    const int of = part * 2 + q;
    if (group == 0) {
      shared_max[warp][of] = maximum[q] * scale;
      shared_total[warp][of] = total[q];
    }
    if (of >= kQueries) continue;
#pragma unroll
    for (int s = 0; s < kSets; ++s) {
      auto* to = reinterpret_cast<float4*>(&shared_sum[warp][of][s * 64 + group * 8]);
      to[0] = {sum[s][0][q], sum[s][1][q], sum[s][2][q], sum[s][3][q]};
      to[1] = {sum[s][0][2 + q], sum[s][1][2 + q], sum[s][2][2 + q], sum[s][3][2 + q]};
    }
  }
  if constexpr (kIsSparse<Params>) Tile::take_scores();
  __syncthreads();
  float lse[kQueries];
#pragma unroll
  for (int of = 0; of < kQueries; ++of) {
    if (of >= queries) break;
    float largest = -INFINITY, all = 0, share[kDecodeWarps];
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) largest = fmaxf(largest, shared_max[w][of]);
    if (kIsSparse<Params> && largest == -INFINITY) largest = 0;  // every slot is a hole
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) {
      share[w] = power_of_two(shared_max[w][of] - largest);
      all += share[w] * shared_total[w][of];
    }
    lse[of] = largest + log2f(all);
    const int dim = threadIdx.x;
    if (dim >= kHeadDim) continue;
    float value = 0;
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) value += share[w] * shared_sum[w][of][dim];
    value = kIsSparse<Params> && all == 0 ? 0.0f : value / all;
    put_result<T, kHeadDim>(p, item, kv_head * queries + of, dim, value, lse[of]);
  }
  finish_item<T, kHeadDim>(p, item, kv_head, tile, lse);
}

template <class T, int kHeadDim, int kQueries, class Params>
void launch_grouped_of(const Params& p, cudaStream_t stream) {
  constexpr auto kKernel = grouped_decode_attention<T, kHeadDim, kQueries, Params>;
  // Blocks that begin while the kernel in front ends crowd on the multiprocessors that are free first. So no more run on
  // one than are its share: what shared memory a block asks for decides.
  constexpr int kOwn = kDecodeWarps * kQueries * kHeadDim * 4 +
                       (kIsSparse<Params> ? int{sizeof(SparseTile<kQueries, kDecodeWarps * 32>)} : 0);
  constexpr int kForTwo = 80 * 1024 - kOwn, kForThree = 60 * 1024 - kOwn;
  const int unused = p.even_blocks == 2 ? kForTwo : p.even_blocks == 3 ? kForThree : 0;
  if (unused > 0 && !raise_shared_limit<kKernel>(kForTwo)) return;
  launch_overlapped(kKernel, dim3(p.kv_heads, p.max_items), kDecodeWarps * 32, unused, p, stream);
}

template <class T, int kHeadDim, class Params>
void launch_grouped_for(const Params& p, cudaStream_t stream) {
  if constexpr (kIsSparse<Params>)  // fewer queries: logits of more keys fit
    if (p.heads / p.kv_heads <= 4) return launch_grouped_of<T, kHeadDim, 4>(p, stream);
  launch_grouped_of<T, kHeadDim, kColumns>(p, stream);
}

template <class Params>
void launch_grouped(const Params& p, cudaStream_t stream) {
  if (p.element == Element::kBF16) {
    p.head_dim == 64 ? launch_grouped_for<__nv_bfloat16, 64>(p, stream)
                     : launch_grouped_for<__nv_bfloat16, 128>(p, stream);
  } else {
    p.head_dim == 64 ? launch_grouped_for<__half, 64>(p, stream) : launch_grouped_for<__half, 128>(p, stream);
  }
}

}  // namespace

}  // namespace spillway::gpu::cuda
