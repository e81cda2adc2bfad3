// SPDX-License-Identifier: Apache-2.0
#pragma once

// Conversions between fp32 and the element types, and sums over warps and blocks.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "gpu/cuda/element.hpp"

namespace spillway::gpu::cuda {

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

/// Two elements in a word, the first one low.
template <class T>
__device__ __forceinline__ unsigned pack_two(float low, float high);
template <>
__device__ __forceinline__ unsigned pack_two<__nv_bfloat16>(float low, float high) {
  const __nv_bfloat162 x = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&x);
}
template <>
__device__ __forceinline__ unsigned pack_two<__half>(float low, float high) {
  const __half2 x = __floats2half2_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&x);
}

/// 2^x by the special function unit; -infinity gives 0.
__device__ __forceinline__ float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

/// Sum over a block of at most 1024 threads, a multiple of 32; every thread gets it. `scratch` holds 33 floats.
__device__ __forceinline__ float block_sum(float x, float* scratch) {
  x = warp_sum(x);
  if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = x;
  __syncthreads();
  if (threadIdx.x < 32) {
    float total = threadIdx.x < blockDim.x / 32 ? scratch[threadIdx.x] : 0.0f;
    total = warp_sum(total);
    if (threadIdx.x == 0) scratch[32] = total;
  }
  __syncthreads();
  x = scratch[32];
  __syncthreads();  // the scratch may be used again
  return x;
}

/// Calls f with a null pointer of the element's type.
template <class F>
void with_element(Element element, F&& f) {
  switch (element) {
    case Element::kF32:
      return f(static_cast<float*>(nullptr));
    case Element::kF16:
      return f(static_cast<__half*>(nullptr));
    case Element::kBF16:
      return f(static_cast<__nv_bfloat16*>(nullptr));
  }
}

}  // namespace spillway::gpu::cuda
