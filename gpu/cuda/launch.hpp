// SPDX-License-Identifier: Apache-2.0
#pragma once

// What launches ask of the current device. All devices of a process are taken to be alike: asked once.

#include <cuda_runtime_api.h>

namespace spillway::gpu::cuda {

/// Whether kernels may start while the one before them runs, and have the copies and barriers of compute capability 9.0.
inline bool overlaps_launches() {
  static const bool yes = [] {
    int device = 0, major = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 9;
  }();
  return yes;
}

/// Whether kernels built for 9.0a are here and run here: products of warpgroups are of that very architecture.
[[nodiscard]] bool has_warpgroup_products();

inline int multiprocessors() {
  static const int count = [] {
    int device = 0, value = 1;
    (void)cudaGetDevice(&device);
    (void)cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device);
    return value;
  }();
  return count;
}

}  // namespace spillway::gpu::cuda
