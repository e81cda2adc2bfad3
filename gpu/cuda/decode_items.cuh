// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the decode attention kernels share: where an item's keys and values lie, what becomes of its result, and the merge of a
// sequence's items. A kernel has one block an item and KV head, of which grid.x counts the heads.

#include <cstdint>

#include "gpu/cuda/attention.hpp"
#include "gpu/cuda/element.cuh"
#include "gpu/cuda/launch.cuh"

namespace spillway::gpu::cuda {

inline constexpr int kDecodeWarps = 4;  // of a block

/// Whether there is an item for this block. One that has nothing to do makes room at once, so that the next kernel's blocks may
/// start; the first waits, so that this kernel does not end before those in front of it.
__device__ __forceinline__ bool has_item(const AttentionParams& p) {
  if (static_cast<int>(blockIdx.y) < *p.num_items) return true;
  if (blockIdx.y == 0) wait_for_producer();
  return false;
}

__device__ __forceinline__ int log2_of(int power_of_two) { return __ffs(power_of_two) - 1; }

/// The keys of an item's sequence in one KV head.
template <class T, int kHeadDim>
class PagedKeys {
 public:
  __device__ PagedKeys(const AttentionParams& p, const DecodeItem& item, int kv_head)
      : first_(static_cast<const T*>(p.pool) + p.layer_offset + std::int64_t{kv_head} * p.block_size * kHeadDim),
        table_(p.block_table + item.table),
        block_elements_(p.block_elements),
        shift_(log2_of(p.block_size)),
        mask_(p.block_size - 1) {}
  __device__ __forceinline__ const T* at(int key) const {
    return first_ + table_[key >> shift_] * block_elements_ + (key & mask_) * kHeadDim;
  }
  /// From a key to its value.
  __device__ static std::int64_t to_value(const AttentionParams& p) {
    return std::int64_t{p.kv_heads} * p.block_size * kHeadDim;
  }

 private:
  const T* first_;
  const std::int32_t* table_;
  std::int64_t block_elements_;
  int shift_, mask_;
};

/// One element of an item's result: of the output, where the item is all there is, else for merge_items(). `lse` is in log2.
template <class T, int kHeadDim>
__device__ __forceinline__ void put_result(const AttentionParams& p, const DecodeItem& item, std::int64_t head, int dim,
                                           float value, float lse) {
  if (item.item_count == 1) {
    static_cast<T*>(p.out)[(std::int64_t{item.row} * p.heads + head) * kHeadDim + dim] = from_float<T>(value);
    return;
  }
  const std::int64_t at = std::int64_t{blockIdx.y} * p.heads + head;
  p.partial_out[at * kHeadDim + dim] = value;
  if (dim == 0) p.partial_lse[at] = lse * 0.6931471805599453f;
}

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
