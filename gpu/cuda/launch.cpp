// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/launch.hpp"

namespace spillway::gpu::cuda {

bool has_warpgroup_products() {
#if defined(SPW_CUDA_90A)
  static const bool yes = [] {
    int device = 0, major = 0, minor = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
           cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess &&
           major == 9 && minor == 0;
  }();
  return yes;
#else
  return false;
#endif
}

}  // namespace spillway::gpu::cuda
