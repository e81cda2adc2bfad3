// SPDX-License-Identifier: Apache-2.0
#pragma once

// From packed numbers (quantized.hpp) to values.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "gpu/cuda/element.cuh"
#include "gpu/cuda/quantized.hpp"

namespace spillway::gpu::cuda {

using model::DType;

/// Bytes of a region's parts.
struct RegionShape {
  int quants, high_bits, scales;
  bool minimum;
  int offset;  // of the stored number over the quantized one, the minimum's types aside
};
__host__ __device__ constexpr RegionShape region_shape(DType type) {
  switch (type) {
    case DType::kQ4_0:
      return {256, 0, 32, false, 8};
    case DType::kQ4_1:
      return {256, 0, 64, true, 0};
    case DType::kQ5_0:
      return {256, 64, 32, false, 16};
    case DType::kQ5_1:
      return {256, 64, 64, true, 0};
    default:
      return {512, 0, 32, false, 128};
  }
}
__host__ __device__ constexpr int region_bytes(DType type) { return kRegionRows * packed_block_bytes(type); }

/// Where a matrix's row lies.
struct PackedRow {
  int tile, region, row;  // row of the region's 16
};
__host__ __device__ inline PackedRow packed_row(int row, int rows, bool gated) {
  if (!gated) return {row / kPanelRows, row % kPanelRows / kRegionRows, row % kRegionRows};
  const int half = rows / 2, part = row >= half ? 1 : 0, own = row - part * half;
  return {own / (kPanelRows / 2), own % (kPanelRows / 2) / 8, own % 8 + part * 8};
}
__host__ __device__ inline int matrix_row(const PackedRow& at, int rows, bool gated) {
  if (!gated) return at.tile * kPanelRows + at.region * kRegionRows + at.row;
  const int own = at.tile * (kPanelRows / 2) + at.region * 8 + at.row % 8;
  return own < rows / 2 ? own + at.row / 8 * (rows / 2) : rows;
}

#ifdef __CUDACC__

/// Column `col` (of 32) of row `row` (of 16) of a region.
__device__ __forceinline__ float packed_value(const unsigned char* region, DType type, int row, int col) {
  const RegionShape shape = region_shape(type);
  const int g = row % 8, high = row / 8, lane = g * 4 + col / 8, at = col % 8 / 2 + col % 2 * 4;
  int number;
  if (type == DType::kQ8_0) {
    number = region[lane * 16 + high * 8 + col % 8];
  } else {
    number = *reinterpret_cast<const unsigned*>(region + lane * 8 + high * 4) >> 4 * at & 15;
    if (shape.high_bits != 0) number |= (region[shape.quants + lane * 2 + high] >> at & 1) << 4;
  }
  const auto* scales = reinterpret_cast<const __half*>(region + shape.quants + shape.high_bits) + g * (shape.minimum ? 4 : 2);
  const float value = __half2float(scales[high]) * static_cast<float>(number - shape.offset);
  return shape.minimum ? value + __half2float(scales[2 + high]) : value;
}

__device__ __forceinline__ unsigned as_word(__half2 x) { return *reinterpret_cast<const unsigned*>(&x); }
__device__ __forceinline__ unsigned as_word(__nv_bfloat162 x) { return *reinterpret_cast<const unsigned*>(&x); }
__device__ __forceinline__ __half2 as_half2(unsigned x) { return *reinterpret_cast<const __half2*>(&x); }

/// A lane's columns of a region as A of two m16n8k16 products: a[s] holds its columns 4 s to 4 s + 3 of both rows. The region
/// may lie in shared or global memory.
template <class T, DType kType>
__device__ __forceinline__ void decode_region(const char* region, int lane, unsigned (&a)[2][4]) {
  constexpr RegionShape kShape = region_shape(kType);
  constexpr float kBias = 1024.0f + kShape.offset;  // fp16's numbers from 1024 on are whole: 0x6400 | n is 1024 + n
  unsigned words[4], bits = 0;
  if constexpr (kType == DType::kQ8_0) {
    *reinterpret_cast<uint4*>(words) = *reinterpret_cast<const uint4*>(region + lane * 16);
  } else {
    *reinterpret_cast<uint2*>(words) = *reinterpret_cast<const uint2*>(region + lane * 8);
    if constexpr (kShape.high_bits != 0) bits = *reinterpret_cast<const unsigned short*>(region + kShape.quants + lane * 2);
  }
  const char* scales = region + kShape.quants + kShape.high_bits + lane / 4 * (kShape.minimum ? 8 : 4);
  unsigned scale, minimum = 0;
  if constexpr (kShape.minimum) {
    const uint2 both = *reinterpret_cast<const uint2*>(scales);
    scale = both.x;
    minimum = both.y;
  } else {
    scale = *reinterpret_cast<const unsigned*>(scales);
  }
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const __half own = row == 0 ? __low2half(as_half2(scale)) : __high2half(as_half2(scale));
    const __half least = row == 0 ? __low2half(as_half2(minimum)) : __high2half(as_half2(minimum));
    const unsigned byte = bits >> 8 * row, spread = (byte & 0xf) | (byte & 0xf0) << 12;
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      unsigned numbers;
      if constexpr (kType == DType::kQ8_0) {
        numbers = __byte_perm(words[2 * row + pair / 2], 0x64646464u, pair % 2 == 0 ? 0x4140 : 0x4342);
      } else {
        numbers = (words[row] >> 4 * pair & 0x000f000fu) | 0x64006400u;
        if constexpr (kShape.high_bits != 0) numbers |= spread << (4 - pair) & 0x00100010u;
      }
      const __half2 whole = __hsub2(as_half2(numbers), __float2half2_rn(kBias));
      unsigned& out = a[pair / 2][row + pair % 2 * 2];
      if constexpr (__is_same(T, __half)) {
        const __half2 scales2 = __half2half2(own);
        out = as_word(kShape.minimum ? __hfma2(whole, scales2, __half2half2(least)) : __hmul2(whole, scales2));
      } else {
        const float d = __half2float(own), m = kShape.minimum ? __half2float(least) : 0.0f;
        const float2 both = __half22float2(whole);
        out = as_word(__floats2bfloat162_rn(both.x * d + m, both.y * d + m));
      }
    }
  }
}

#endif

/// Calls f.operator()<type>() for a quantized type.
template <class F>
void with_quantized(DType type, F&& f) {
  switch (type) {
    case DType::kQ8_0:
      return f.template operator()<DType::kQ8_0>();
    case DType::kQ4_0:
      return f.template operator()<DType::kQ4_0>();
    case DType::kQ4_1:
      return f.template operator()<DType::kQ4_1>();
    case DType::kQ5_0:
      return f.template operator()<DType::kQ5_0>();
    case DType::kQ5_1:
      return f.template operator()<DType::kQ5_1>();
    default:
      return;
  }
}

}  // namespace spillway::gpu::cuda
