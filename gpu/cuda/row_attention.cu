// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/attention.hpp"
#include "gpu/cuda/element.cuh"
#include "gpu/cuda/launch.cuh"

namespace spillway::gpu::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kMostPerLane = 8;  // head_dim <= 256

/// One warp a (token, head), online softmax over the keys one by one (Milakov & Gimelshein 2018).
template <class T>
__global__ void row_attention(const AttentionParams p) {
  wait_for_producer();
  const int row = blockIdx.x, lane = threadIdx.x & 31, head = blockIdx.y * kWarps + (threadIdx.x >> 5);
  if (head >= p.heads) return;
  const int table = p.tables[row];
  if (table < 0) return;
  const int kv_head = head / (p.heads / p.kv_heads), position = p.positions[row];
  const T* q = static_cast<const T*>(p.qkv) +
               (std::int64_t{row} * (p.heads + 2 * p.kv_heads) + head) * p.head_dim;
  float query[kMostPerLane], sum[kMostPerLane];
#pragma unroll
  for (int i = 0; i < kMostPerLane; ++i) {
    const int at = i * 32 + lane;
    query[i] = at < p.head_dim ? to_float(q[at]) * p.scale : 0.0f;
    sum[i] = 0;
  }
  float maximum = -INFINITY, total = 0;
  const int begin = p.window > 0 ? max(0, position - p.window + 1) : 0;
  for (int key = begin; key <= position; ++key) {
    const std::int64_t block = p.block_table[table + key / p.block_size];
    const T* k = static_cast<const T*>(p.pool) + block * p.block_elements + p.layer_offset +
                 (std::int64_t{kv_head} * p.block_size + key % p.block_size) * p.head_dim;
    const T* v = k + std::int64_t{p.kv_heads} * p.block_size * p.head_dim;
    float score = 0;
#pragma unroll
    for (int i = 0; i < kMostPerLane; ++i) {
      const int at = i * 32 + lane;
      if (at < p.head_dim) score += query[i] * to_float(k[at]);
    }
    score = warp_sum(score);
    const float next = fmaxf(maximum, score);
    const float old = __expf(maximum - next), weight = __expf(score - next);
    total = total * old + weight;
#pragma unroll
    for (int i = 0; i < kMostPerLane; ++i) {
      const int at = i * 32 + lane;
      if (at < p.head_dim) sum[i] = sum[i] * old + weight * to_float(v[at]);
    }
    maximum = next;
  }
  if (p.lse != nullptr && lane == 0)
    p.lse[std::int64_t{row} * p.heads + head] = maximum * 1.4426950408889634f + log2f(total);
  T* out = static_cast<T*>(p.out) + (std::int64_t{row} * p.heads + head) * p.head_dim;
#pragma unroll
  for (int i = 0; i < kMostPerLane; ++i) {
    const int at = i * 32 + lane;
    if (at < p.head_dim) out[at] = from_float<T>(sum[i] / total);
  }
}

}  // namespace

void launch_row_attention(const AttentionParams& p, cudaStream_t stream) {
  const dim3 grid(p.rows, (p.heads + kWarps - 1) / kWarps);
  with_element(p.element, [&]<class T>(T*) { launch_overlapped(row_attention<T>, grid, kWarps * 32, 0, p, stream); });
}

}  // namespace spillway::gpu::cuda
