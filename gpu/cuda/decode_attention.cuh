// SPDX-License-Identifier: Apache-2.0
#pragma once

// The kernel of decode attention and its launches, for exact steps (AttentionParams) and for those with
// sparsified sequences (SparseAttentionParams).

#include "gpu/cuda/decode_items.cuh"
#include "gpu/cuda/launch.cuh"
#include "gpu/cuda/mma.cuh"
#include "gpu/cuda/sparse_decode.cuh"

namespace spillway::gpu::cuda {
namespace {

constexpr int kVector = 8;  // elements of a 16-byte load

__host__ __device__ constexpr int lanes_for(int head_dim) {
  return head_dim <= 64 ? 8 : head_dim <= 128 ? 16 : 32;
}

/// At the end of a sparsified sequence's block its scores come and go, and no keys: many blocks hide that, each
/// with fewer keys under way. The figures are in docs/decisions/037.
__host__ __device__ constexpr bool many_blocks(int group, int head_dim, bool sparse) {
  return sparse && group == 1 && head_dim <= 128;
}

/// Of a kernel on a multiprocessor at a time.
__host__ __device__ constexpr int blocks_wanted(int group, int head_dim, bool sparse) {
  return group == 4 ? 4 : many_blocks(group, head_dim, sparse) ? 8 : 1;
}

template <class T>
__device__ __forceinline__ void unpack(const Packed& x, float (&out)[kVector]) {
  const T* elements = reinterpret_cast<const T*>(&x);
#pragma unroll
  for (int i = 0; i < kVector; ++i) out[i] = to_float(elements[i]);
}

/// One block an item and KV head. A group of kLanes lanes takes a key; every group keeps a softmax of its own
/// over its keys, merged at the end through shared memory. Scores are in units of log2.
template <class T, int kHeadDim, int kGroup, class Params>
__global__ void __launch_bounds__(kDecodeWarps * 32, blocks_wanted(kGroup, kHeadDim, kIsSparse<Params>))
    decode_attention(const Params p) {
  constexpr int kLanes = lanes_for(kHeadDim), kKeysAWarp = 32 / kLanes, kGroups = kDecodeWarps * kKeysAWarp;
  // Keys a lane group has under way; more cost registers, and blocks with them.
  constexpr int kInFlight = many_blocks(kGroup, kHeadDim, kIsSparse<Params>) ? 2 : 4;
  constexpr int kStep = kGroups * kInFlight;
  let_next_start();
  // The step's inputs, and keys and values of all tokens but the step's own, were there before the kernel in
  // front.
  if (!has_item(p)) return;
  const DecodeItem item = p.items[blockIdx.y];
  const int kv_head = blockIdx.x, lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes;
  const int dim = lane * kVector;
  const bool active = dim < kHeadDim;  // 80 and 96 leave lanes over
  const int queries = p.heads / p.kv_heads, first_head = kv_head * queries;

  const PagedKeys<T, kHeadDim> paged(p, item, kv_head);
  const std::int64_t to_value = paged.to_value(p);
  const int loaded_dim = active ? dim : 0;
  Packed keys[kInFlight], values[kInFlight];
  const auto load = [&](int u, int key) {
    const T* at = paged.at(key) + loaded_dim;
    keys[u] = load_stream(at);
    values[u] = load_stream(at + to_value);
  };
  const int newest = item.end - 1;  // the step's own token, where the item is its sequence's last
  using Tile = SparseTile<kGroup, kDecodeWarps * 32>;
  [[maybe_unused]] Tile* tile = nullptr;
  if constexpr (kIsSparse<Params>) {  // that one may be anywhere
    __shared__ Tile shared_tile;
    tile = &shared_tile;
    const int own = own_slot(p, item, kv_head);
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) load(u, min(item.begin + u * kGroups + group, newest));
    tile->load(p, item, kv_head, item.begin);
    wait_for_producer();
#pragma unroll
    for (int u = 0; u < kInFlight; ++u)
      if (min(item.begin + u * kGroups + group, newest) == own) load(u, own);
  } else {
    if (item.begin < newest) {
#pragma unroll
      for (int u = 0; u < kInFlight; ++u) load(u, min(item.begin + u * kGroups + group, newest - 1));
    }
    wait_for_producer();
    if (newest < item.begin + kStep) {
#pragma unroll
      for (int u = 0; u < kInFlight; ++u)
        if (item.begin + u * kGroups + group >= newest) load(u, newest);
    }
  }

  const T* q = static_cast<const T*>(p.qkv) +
               (std::int64_t{item.row} * (p.heads + 2 * p.kv_heads) + first_head) * kHeadDim + dim;
  float query[kGroup][kVector], sum[kGroup][kVector], maximum[kGroup], total[kGroup];
  const float scale = p.scale * 1.4426950408889634f;
#pragma unroll
  for (int g = 0; g < kGroup; ++g) {
    maximum[g] = -INFINITY;
    total[g] = 0;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      query[g][i] = active && g < queries ? to_float(q[g * kHeadDim + i]) * scale : 0.0f;
      sum[g][i] = 0;
    }
  }

  for (int base = item.begin;;) {
    float score[kInFlight][kGroup];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      float k[kVector];
      unpack<T>(keys[u], k);
#pragma unroll
      for (int g = 0; g < kGroup; ++g) {
        float dot = 0;
#pragma unroll
        for (int i = 0; i < kVector; ++i) dot += query[g][i] * k[i];
#pragma unroll
        for (int offset = kLanes / 2; offset > 0; offset >>= 1)
          dot += __shfl_xor_sync(0xffffffffu, dot, offset);
        if constexpr (kIsSparse<Params>) {
          const int in_tile = (base - item.begin) % Tile::kKeys + u * kGroups + group;
          score[u][g] = tile->sees(in_tile) ? dot : -INFINITY;
          if (lane == 0) tile->put(g, in_tile, score[u][g]);
        } else {
          score[u][g] = base + u * kGroups + group < item.end ? dot : -INFINITY;
        }
      }
    }
#pragma unroll
    for (int g = 0; g < kGroup; ++g) {
      float next = maximum[g];
#pragma unroll
      for (int u = 0; u < kInFlight; ++u) next = fmaxf(next, score[u][g]);
      const float reference = next == -INFINITY ? 0.0f : next;
      const float old = power_of_two(maximum[g] - reference);
      maximum[g] = next;
      total[g] *= old;
#pragma unroll
      for (int i = 0; i < kVector; ++i) sum[g][i] *= old;
#pragma unroll
      for (int u = 0; u < kInFlight; ++u) {
        score[u][g] = power_of_two(score[u][g] - reference);
        total[g] += score[u][g];
      }
    }
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      float v[kVector];
      unpack<T>(values[u], v);
#pragma unroll
      for (int g = 0; g < kGroup; ++g)
#pragma unroll
        for (int i = 0; i < kVector; ++i) sum[g][i] += score[u][g] * v[i];
    }
    base += kStep;
    if (base >= item.end) break;
    if constexpr (kIsSparse<Params>) tile->advance(p, item, kv_head, base);
#pragma unroll
    for (int u = 0; u < kInFlight; ++u)
      load(u, min(base + u * kGroups + group, newest));  // what is over is masked
  }

  if constexpr (kIsSparse<Params>) tile->flush_last(p, item, kv_head);

  // Merge the groups: weights 2^(own maximum - the largest).
  __shared__ float shared_max[kGroups][kGroup], shared_total[kGroups][kGroup];
  __shared__ float shared_sum[kGroups][kHeadDim];
  if (lane == 0) {
#pragma unroll
    for (int g = 0; g < kGroup; ++g) {
      shared_max[group][g] = maximum[g];
      shared_total[group][g] = total[g];
    }
  }
  if constexpr (kIsSparse<Params>) Tile::take_scores();
  __syncthreads();
  float lse[kGroup];
#pragma unroll
  for (int g = 0; g < kGroup; ++g) {
    if (g >= queries) break;
    float largest = -INFINITY, all = 0;
    for (int i = 0; i < kGroups; ++i) largest = fmaxf(largest, shared_max[i][g]);
    if (kIsSparse<Params> && largest == -INFINITY) largest = 0;  // every slot is a hole
    for (int i = 0; i < kGroups; ++i) all += shared_total[i][g] * power_of_two(shared_max[i][g] - largest);
    lse[g] = largest + log2f(all);
    if (active) {
      const float weight = power_of_two(maximum[g] - largest);
#pragma unroll
      for (int i = 0; i < kVector; ++i) shared_sum[group][dim + i] = sum[g][i] * weight;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kHeadDim; i += kDecodeWarps * 32) {
      float value = 0;
      for (int from = 0; from < kGroups; ++from) value += shared_sum[from][i];
      value = kIsSparse<Params> && all == 0 ? 0.0f : value / all;
      const std::int64_t head = first_head + g;
      put_result<T, kHeadDim>(p, item, head, i, value, lse[g]);
    }
    __syncthreads();
  }
  finish_item<T, kHeadDim>(p, item, kv_head, tile, lse);
}

template <class T, int kHeadDim, class Params>
void launch_for_group(const Params& p, cudaStream_t stream) {
  const dim3 grid(p.kv_heads, p.max_items);
  const int queries = p.heads / p.kv_heads;
  if (queries == 1) {
    launch_overlapped(decode_attention<T, kHeadDim, 1, Params>, grid, kDecodeWarps * 32, 0, p, stream);
  } else if (queries <= 4) {
    launch_overlapped(decode_attention<T, kHeadDim, 4, Params>, grid, kDecodeWarps * 32, 0, p, stream);
  } else {
    launch_overlapped(decode_attention<T, kHeadDim, 8, Params>, grid, kDecodeWarps * 32, 0, p, stream);
  }
}

template <class T, class Params>
void launch_for_head(const Params& p, cudaStream_t stream) {
  switch (p.head_dim) {
    case 64:
      return launch_for_group<T, 64>(p, stream);
    case 80:
      return launch_for_group<T, 80>(p, stream);
    case 96:
      return launch_for_group<T, 96>(p, stream);
    case 128:
      return launch_for_group<T, 128>(p, stream);
    case 256:
      return launch_for_group<T, 256>(p, stream);
    default:
      return;
  }
}

}  // namespace

}  // namespace spillway::gpu::cuda
