// SPDX-License-Identifier: Apache-2.0
#pragma once

// Launches that overlap: on compute capability 9.0 a kernel's blocks may start while the kernel before it still
// runs ("programmatic dependent launch"). Until wait_for_producer() a kernel may only touch what no kernel
// writes, such as weights; every kernel calls it in every thread, so a kernel that is done implies that all before it are.

#include <cuda_runtime_api.h>

#include <atomic>

#include "gpu/cuda/launch.hpp"

namespace spillway::gpu::cuda {

/// Lets the next kernel start once every block of this one has come here.
__device__ __forceinline__ void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}

/// Blocks until all earlier kernels have completed and their writes are seen. A block that does nothing may leave without,
/// as long as another one of its kernel waits.
__device__ __forceinline__ void wait_for_producer() {
  let_next_start();
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

constexpr int kDevicesMax = 64;  // of a process

/// Lets a kernel have more than 48 KB of dynamic shared memory on the current device; asks the driver once for each.
template <auto kKernel>
bool raise_shared_limit(int bytes) {
  static std::atomic<bool> raised[kDevicesMax] = {};
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device >= kDevicesMax) return false;
  if (raised[device].load(std::memory_order_relaxed)) return true;
  if (cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) != cudaSuccess) return false;
  raised[device].store(true, std::memory_order_relaxed);
  return true;
}

/// `cluster`: blocks of a cluster along x, which divide the grid.
template <class Params>
void launch_overlapped(void (*kernel)(Params), dim3 grid, int threads, std::size_t shared, const Params& params,
                       cudaStream_t stream, int cluster = 1) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = !overlaps_launches() ? 0 : cluster > 1 ? 2 : 1;
  (void)cudaLaunchKernelEx(&config, kernel, params);
}

}  // namespace spillway::gpu::cuda
