// SPDX-License-Identifier: Apache-2.0
// The matrix kernels in plain C++: for machines without AVX2, and as the reference that tests hold the others
// to.

#include <algorithm>
#include <bit>
#include <cstring>

#include "gpu/host/float16.hpp"
#include "gpu/host/matmul_kernels.hpp"

namespace spillway::gpu::host {

namespace {

// As integers magnitudes order like floats, and NaN ranks above infinity: it ends in the scale, not unseen.
std::uint32_t magnitude(float x) { return std::bit_cast<std::uint32_t>(x) & 0x7fffffffu; }

void quantize_row(const float* x, std::size_t cols, std::byte* row) {
  auto* blocks = reinterpret_cast<QuantizedBlock*>(row);
  std::uint32_t largest = 0;
  for (std::size_t i = 0; i < cols; ++i) largest = std::max(largest, magnitude(x[i]));
  const auto amax = std::bit_cast<float>(largest);
  const bool zero = amax < kLeastMagnitude;  // false for NaN
  const float inverse = zero ? 0.0f : kLargestQuantized / amax;
  for (std::size_t b = 0; b < cols / kBlockCols; ++b, x += kBlockCols) {
    std::int32_t sum = 0;
    for (std::size_t i = 0; i < kBlockCols; ++i) {
      // Adding 1.5 * 2^23 leaves the nearest integer (ties to even) in the low mantissa bits.
      const float shifted = x[i] * inverse + 12582912.0f;
      const auto q = static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(shifted) & 0x7fffffu) - 0x400000;
      blocks[b].values[place_in_block(i)] = static_cast<std::int16_t>(q);
      sum += q;
    }
    blocks[b].sum = static_cast<float>(sum);
    blocks[b].negative_sum = -sum;
  }
  const float scale = zero ? 0.0f : amax * (1.0f / kLargestQuantized);
  std::memcpy(blocks + cols / kBlockCols, &scale, sizeof scale);
}

float load_half(const std::byte* from) {
  std::uint16_t half;
  std::memcpy(&half, from, 2);
  return half_to_float(half);
}

template <Storage kStorage, bool kHasMin>
void quantized_product(const MatmulTask& task) {
  constexpr std::size_t kQuantBytes = kStorage == Storage::kU4 ? 256 : 512;
  constexpr std::size_t kTileBytes = kQuantBytes + (kHasMin ? 64 : 32);
  const std::size_t blocks = task.cols / kBlockCols;
  for (std::size_t output = 0; output < task.outputs; ++output) {
    const std::byte* tiles = task.groups + output / kGroupRows * task.group_bytes;
    const std::size_t lane = output % kGroupRows;
    for (std::size_t row = 0; row < task.rows; ++row) {
      const auto* quantized =
          reinterpret_cast<const QuantizedBlock*>(task.quantized + row * task.quantized_stride);
      float sum = 0;
      for (std::size_t b = 0; b < blocks; ++b) {
        const QuantizedBlock& x = quantized[b];
        const std::byte* tile = tiles + b * kTileBytes;
        const auto* u = reinterpret_cast<const std::uint8_t*>(tile) + 4 * lane;
        std::int32_t dot = kHasMin ? 0 : x.negative_sum * (1 << task.zero_shift);
        for (std::size_t j = 0; j < 4; ++j) {
          for (std::size_t i = 0; i < 4; ++i) {
            const int byte = u[64 * j + i];
            const int low = kStorage == Storage::kU4 ? byte & 15 : byte;
            const int high = kStorage == Storage::kU4 ? byte >> 4 : u[256 + 64 * j + i];
            dot +=
                low * x.values[place_in_block(4 * j + i)] + high * x.values[place_in_block(16 + 4 * j + i)];
          }
        }
        const float d = load_half(tile + kQuantBytes + 2 * lane);
        sum += static_cast<float>(dot) * d;
        if (kHasMin) {
          const float m = load_half(tile + kQuantBytes + 2 * kGroupRows + 2 * lane);
          sum += m * x.sum;
        }
      }
      float scale;
      std::memcpy(&scale, quantized + blocks, sizeof scale);
      sum *= scale;
      task.y[row * task.y_stride + output] = task.bias != nullptr ? sum + task.bias[output] : sum;
    }
  }
}

template <Storage kStorage>
float load_weight(const std::byte* from) {
  if constexpr (kStorage == Storage::kF32) {
    float value;
    std::memcpy(&value, from, 4);
    return value;
  } else {
    std::uint16_t value;
    std::memcpy(&value, from, 2);
    return kStorage == Storage::kF16 ? half_to_float(value) : bfloat_to_float(value);
  }
}

template <Storage kStorage>
void float_product(const MatmulTask& task) {
  constexpr std::size_t kSize = kStorage == Storage::kF32 ? 4 : 2;
  for (std::size_t output = 0; output < task.outputs; ++output) {
    const std::byte* column =
        task.groups + output / kGroupRows * task.group_bytes + output % kGroupRows * kSize;
    for (std::size_t row = 0; row < task.rows; ++row) {
      const float* x = task.x + row * task.x_stride;
      float sum = 0;
      for (std::size_t k = 0; k < task.cols; ++k) {
        sum += load_weight<kStorage>(column + k * kGroupRows * kSize) * x[k];
      }
      task.y[row * task.y_stride + output] = task.bias != nullptr ? sum + task.bias[output] : sum;
    }
  }
}

}  // namespace

constinit const MatmulKernels kScalarMatmulKernels = {
    .u4 = quantized_product<Storage::kU4, false>,
    .u4_min = quantized_product<Storage::kU4, true>,
    .u8 = quantized_product<Storage::kU8, false>,
    .u8_min = quantized_product<Storage::kU8, true>,
    .f32 = float_product<Storage::kF32>,
    .f16 = float_product<Storage::kF16>,
    .bf16 = float_product<Storage::kBF16>,
    .quantize_row = quantize_row,
};

}  // namespace spillway::gpu::host
