// SPDX-License-Identifier: Apache-2.0
#pragma once

// Blocks of a cluster (compute capability 9.0): they run at once, meet at a barrier, and write to each
// other's shared memory.

#include <cstdint>

#include "gpu/cuda/ring.cuh"

namespace spillway::gpu::cuda {

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
__device__ __forceinline__ int cluster_rank() {
  int rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

/// By all threads of all blocks: tells of barriers that publish_barriers() has published, and of nothing
/// else.
__device__ __forceinline__ void arrive_at_cluster() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\n" ::: "memory");
}
__device__ __forceinline__ void wait_for_cluster() {
  asm volatile("barrier.cluster.wait.acquire.aligned;\n" ::: "memory");
}

/// The same place in another block's shared memory.
__device__ __forceinline__ unsigned shared_address_in(const void* own, int rank) {
  unsigned address;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(own)), "r"(rank));
  return address;
}

/// Counts as 16 of the bytes that the barrier, of the same block, expects.
__device__ __forceinline__ void send(unsigned to, float4 x, unsigned barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
          to),
      "f"(x.x), "f"(x.y), "f"(x.z), "f"(x.w), "r"(barrier)
      : "memory");
}
#endif

}  // namespace spillway::gpu::cuda
