// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/launch.cuh"
#include "gpu/cuda/sparse_decode.cuh"

namespace spillway::gpu::cuda {
namespace {

constexpr int kThreads = 128;

/// One block a KV head and sparsified sequence with one token, query by query: logits to scratch, softmax
/// over them, then their values.
template <class T>
__global__ void sparse_row_attention(const SparseAttentionParams p) {
  __shared__ float lse[kMostQueries], scratch[33], maxima[kThreads / 32];
  wait_for_producer();
  if (static_cast<int>(blockIdx.y) >= *p.slots.count) return;
  const SparseSequence s = p.slots.sequences[blockIdx.y];
  if (s.tokens != 1) return;
  const int kv_head = blockIdx.x, unit = p.layer * p.kv_heads + kv_head, queries = p.heads / p.kv_heads;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, stride = padded_span(s.span);
  const UnitSlots slots(p.slots, s.table, unit);
  float* logits = first_logit(p, s, kv_head);
  const float oldest = oldest_seen(p, s);
  const auto key_at = [&](int slot) {
    return static_cast<const T*>(p.pool) + p.block_table[s.table + slot / p.block_size] * p.block_elements +
           p.layer_offset + (std::int64_t{kv_head} * p.block_size + slot % p.block_size) * p.head_dim;
  };
  const std::int64_t to_value = std::int64_t{p.kv_heads} * p.block_size * p.head_dim;
  for (int g = 0; g < queries; ++g, logits += stride) {
    const std::int64_t head = kv_head * queries + g;
    const T* q =
        static_cast<const T*>(p.qkv) + (std::int64_t{s.row} * (p.heads + 2 * p.kv_heads) + head) * p.head_dim;
    float largest = -INFINITY;
    for (int slot = warp; slot < s.span; slot += kThreads / 32) {
      const T* k = key_at(slot);
      float dot = 0;
      for (int i = lane; i < p.head_dim; i += 32) dot += to_float(q[i]) * to_float(k[i]);
      dot = warp_sum(dot) * p.scale * 1.4426950408889634f;
      if (!(*slots.position(slot) >= oldest)) dot = -INFINITY;
      largest = fmaxf(largest, dot);
      if (lane == 0) logits[slot] = dot;
    }
    if (lane == 0) maxima[warp] = largest;
    __syncthreads();
    for (int w = 0; w < kThreads / 32; ++w) largest = fmaxf(largest, maxima[w]);
    if (largest == -INFINITY) largest = 0;
    float total = 0;
    for (int slot = threadIdx.x; slot < s.span; slot += kThreads)
      total += power_of_two(logits[slot] - largest);
    total = block_sum(total, scratch);
    if (threadIdx.x == 0) lse[g] = largest + log2f(total);
    T* out = static_cast<T*>(p.out) + (std::int64_t{s.row} * p.heads + head) * p.head_dim;
    for (int i = threadIdx.x; i < p.head_dim; i += kThreads) {
      float sum = 0;
      for (int slot = 0; slot < s.span; ++slot)
        sum += power_of_two(logits[slot] - largest) * to_float(key_at(slot)[to_value + i]);
      out[i] = from_float<T>(total > 0 ? sum / total : 0.0f);
    }
    __syncthreads();
  }
  const float* stored = first_logit(p, s, kv_head);
  const auto at = [&](int g, int slot) {
    return *reinterpret_cast<const float4*>(stored + std::int64_t{g} * stride + slot);
  };
  finish_unit<kThreads, 0>(p.slots, s, unit, queries, at, ReadPool{UnitSlots::to_score(p.slots)}, lse);
}

}  // namespace

void launch_sparse_row_attention(const SparseAttentionParams& p, cudaStream_t stream) {
  const dim3 grid(p.kv_heads, p.slots.launched);
  with_element(p.element, [&]<class T>(T*) {
    launch_overlapped(sparse_row_attention<T>, grid, kThreads, 0, p, stream);
  });
}

}  // namespace spillway::gpu::cuda
