// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the decode attention kernels share: the merge of a sequence's items.

#include <cstdint>

#include "gpu/cuda/attention.hpp"
#include "gpu/cuda/element.cuh"

namespace spillway::gpu::cuda {

/// Of a block that has written its item's partial result: the one that comes last merges the sequence's items, in their
/// order, so that who was last never shows. Whether it was this one. Called by all threads.
template <class T, int kHeadDim>
__device__ bool merge_items(const AttentionParams& p, const DecodeItem& item, int kv_head) {
  __shared__ bool last;
  const int queries = p.heads / p.kv_heads;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    std::int32_t* arrived = p.arrived + std::int64_t{item.first_item} * p.kv_heads + kv_head;
    last = atomicAdd(arrived, 1) == item.item_count - 1;
    if (last) *arrived = 0;
  }
  __syncthreads();
  if (!last) return false;
  __threadfence();
  for (int i = static_cast<int>(threadIdx.x); i < queries * kHeadDim; i += static_cast<int>(blockDim.x)) {
    const std::int64_t head = kv_head * queries + i / kHeadDim;
    float largest = -INFINITY, all = 0, value = 0;
    for (int j = item.first_item; j < item.first_item + item.item_count; ++j)
      largest = fmaxf(largest, __ldcg(p.partial_lse + std::int64_t{j} * p.heads + head));
    for (int j = item.first_item; j < item.first_item + item.item_count; ++j) {
      const float weight = __expf(__ldcg(p.partial_lse + std::int64_t{j} * p.heads + head) - largest);
      all += weight;
      value += weight * __ldcg(p.partial_out + (std::int64_t{j} * p.heads + head) * kHeadDim + i % kHeadDim);
    }
    static_cast<T*>(p.out)[(std::int64_t{item.row} * p.heads + head) * kHeadDim + i % kHeadDim] =
        from_float<T>(value / all);
  }
  return true;
}

}  // namespace spillway::gpu::cuda
