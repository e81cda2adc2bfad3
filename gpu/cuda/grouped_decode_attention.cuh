// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gpu/cuda/decode_items.cuh"
#include "gpu/cuda/launch.cuh"
#include "gpu/cuda/mma.cuh"
#include "gpu/cuda/sparse_decode.cuh"

// Decode attention where several queries share a KV head: on CUDA cores the products of each key with every
// query would cost more than its bytes. A warp takes 16 keys at a time, straight from the pool to registers.
// Queries are the mma's 16 rows, of which up to 8 are used. Scores: a lane keeps 16 bytes of one key, 8
// dimensions, as its share of two products (a sum over dimensions takes them in any order). Values: a lane
// keeps 8 dimensions of four keys and pairs the keys up, dimension by dimension; each of the 8 products then
// takes every 8th dimension of 64.

namespace spillway::gpu::cuda {
namespace {

constexpr int kWarpKeys = 16;
constexpr int kRound = kDecodeWarps * kWarpKeys;
constexpr int kQueries = 8;

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

/// One block an item and KV head.
template <class T, int kHeadDim, class Params>
__global__ void __launch_bounds__(kDecodeWarps * 32, 3) grouped_decode_attention(const Params p) {
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

  float sum[kSets][8][4] = {};
  float maximum = -INFINITY, total = 0;  // of query `group`; total of this lane's keys only
  const float scale = p.scale * 1.4426950408889634f;
  for (int base = item.begin;;) {
    float score[2][4] = {};
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const unsigned a[4] = {query[s].words[2 * half], 0, query[s].words[2 * half + 1], 0};
#pragma unroll
        for (int n = 0; n < 2; ++n)
          multiply<T>(score[n], a, keys[n][s].words[2 * half], keys[n][s].words[2 * half + 1]);
      }
    }
    float next = maximum;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if constexpr (kIsSparse<Params>) {
          const int in_tile = (base - item.begin) % Tile::kKeys + own_value + n * 8 + i;
          if (!tile->sees(in_tile)) score[n][i] = -INFINITY;
          tile->put(group, in_tile, score[n][i] * scale);
        } else if (base + own_value + n * 8 + i >= item.end) {
          score[n][i] = -INFINITY;
        }
        next = fmaxf(next, score[n][i]);
      }
    }
    next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, 1));
    next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, 2));
    const float reference = next == -INFINITY ? 0.0f : next * scale;
    const float old = power_of_two(maximum * scale - reference);
    maximum = next;
    total *= old;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        score[n][i] = power_of_two(score[n][i] * scale - reference);
        total += score[n][i];
      }
    }
    const unsigned weight[4] = {pack(score[0][0], score[0][1], static_cast<T*>(nullptr)), 0,
                                pack(score[1][0], score[1][1], static_cast<T*>(nullptr)), 0};
#pragma unroll
    for (int s = 0; s < kSets; ++s) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        sum[s][j][0] *= old;
        sum[s][j][1] *= old;
        multiply<T>(sum[s][j], weight, pair(values[0][s], values[1][s], j),
                    pair(values[2][s], values[3][s], j));
      }
    }
    base += kRound;
    if (base >= item.end) break;
    if constexpr (kIsSparse<Params>) tile->advance(p, item, kv_head, base);
    load_round(base, newest);
  }

  if constexpr (kIsSparse<Params>) tile->flush_last(p, item, kv_head);

  // Merge the warps. Column n of product j is dimension 8 n + j of its 64.
  __shared__ float shared_max[kDecodeWarps][kQueries], shared_total[kDecodeWarps][kQueries];
  __shared__ __align__(16) float shared_sum[kDecodeWarps][kQueries][kHeadDim];
  total += __shfl_xor_sync(0xffffffffu, total, 1);
  total += __shfl_xor_sync(0xffffffffu, total, 2);
  if (part == 0) {
    shared_max[warp][group] = maximum * scale;
    shared_total[warp][group] = total;
  }
#pragma unroll
  for (int s = 0; s < kSets; ++s) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      auto* to = reinterpret_cast<float4*>(&shared_sum[warp][group][s * 64 + (part * 2 + c) * 8]);
      to[0] = {sum[s][0][c], sum[s][1][c], sum[s][2][c], sum[s][3][c]};
      to[1] = {sum[s][4][c], sum[s][5][c], sum[s][6][c], sum[s][7][c]};
    }
  }
  __syncthreads();
  [[maybe_unused]] const bool whole = item.item_count == 1;
  for (int i = threadIdx.x; i < queries * kHeadDim; i += kDecodeWarps * 32) {
    const int of = i / kHeadDim, dim = i % kHeadDim;
    float largest = -INFINITY, all = 0, value = 0;
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) largest = fmaxf(largest, shared_max[w][of]);
    if (kIsSparse<Params> && largest == -INFINITY) largest = 0;  // every slot is a hole
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) {
      const float share = power_of_two(shared_max[w][of] - largest);
      all += share * shared_total[w][of];
      value += share * shared_sum[w][of][dim];
    }
    value = kIsSparse<Params> && all == 0 ? 0.0f : value / all;
    const std::int64_t head = kv_head * queries + of;
    const float lse = largest + log2f(all);
    put_result<T, kHeadDim>(p, item, head, dim, value, lse);
    if constexpr (kIsSparse<Params>)
      if (whole && dim == 0) tile->lse[of] = lse;
  }
  finish_item<T, kHeadDim>(p, item, kv_head, tile);
}

template <class Params>
void launch_grouped(const Params& p, cudaStream_t stream) {
  const dim3 grid(p.kv_heads, p.max_items);
  const auto launch = [&](auto kernel) { launch_overlapped(kernel, grid, kDecodeWarps * 32, 0, p, stream); };
  if (p.element == Element::kBF16) {
    launch(p.head_dim == 64 ? grouped_decode_attention<__nv_bfloat16, 64, Params>
                            : grouped_decode_attention<__nv_bfloat16, 128, Params>);
  } else {
    launch(p.head_dim == 64 ? grouped_decode_attention<__half, 64, Params>
                            : grouped_decode_attention<__half, 128, Params>);
  }
}

}  // namespace

}  // namespace spillway::gpu::cuda
