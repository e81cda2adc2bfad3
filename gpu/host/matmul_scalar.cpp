// SPDX-License-Identifier: Apache-2.0
// The matrix kernels in plain C++: for machines without AVX2, and as the reference that tests hold the others
// to.

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <iterator>

#include "gpu/host/float16.hpp"
#include "gpu/host/matmul_kernels.hpp"

namespace spillway::gpu::host {

namespace {

struct BlockScale {
  float step, inverse;
};

/// From the largest magnitude of a block, and of what is left without its outliers. Below 1e-30 a block is
/// taken as zero: the inverse must stay finite.
BlockScale block_scale(float amax, float rest) {
  if (amax < 1e-30f) return {0, 0};  // false for NaN
  const float least = amax * (1.0f / 256.0f);
  const float top = least <= rest ? rest : least;  // NaN wins
  return {top * (1.0f / 127.0f), 127.0f / top};
}

// As integers magnitudes order like floats, and NaN ranks above infinity: it ends in the scale, not unseen.
std::uint32_t magnitude(float x) { return std::bit_cast<std::uint32_t>(x) & 0x7fffffffu; }

void quantize_row(const float* x, std::size_t cols, QuantizedBlock* blocks) {
  for (std::size_t b = 0; b < cols / kBlockCols; ++b, x += kBlockCols) {
    QuantizedBlock& block = blocks[b];
    std::uint32_t keys[kBlockCols / kFour];  // the largest magnitude of each four, its rank in the last bits
    for (std::size_t i = 0; i < kBlockCols; ++i) {
      std::uint32_t& key = keys[i / kFour];
      key = i % kFour == 0 ? magnitude(x[i]) : std::max(key, magnitude(x[i]));
    }
    for (std::uint32_t four = 0; four < 8; ++four) keys[four] = (keys[four] & ~7u) | (7 - four);
    std::sort(std::begin(keys), std::end(keys), std::greater<>());
    const BlockScale scale =
        block_scale(std::bit_cast<float>(keys[0] | 7), std::bit_cast<float>(keys[kOutlierFours] | 7));
    std::int32_t sum = 0;
    std::int8_t upper[kBlockCols];
    for (std::size_t i = 0; i < kBlockCols; ++i) {
      // Adding 1.5 * 2^23 leaves the nearest integer (ties to even) in the low mantissa bits.
      const float shifted = x[i] * scale.inverse + 12582912.0f;
      const auto q = static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(shifted) & 0x7fffffu) - 0x400000;
      upper[i] = static_cast<std::int8_t>((q + 128) >> 8);
      block.values[i] = static_cast<std::int8_t>(q);
      sum += q;
    }
    for (std::size_t o = 0; o < kOutlierFours; ++o) {
      const std::uint32_t four = 7 - (keys[o] & 7);
      std::memcpy(block.outliers[o], upper + kFour * four, kFour);
      block.outlier_at[o] = static_cast<std::uint16_t>(64 * four);
    }
    block.scale = scale.step;
    block.scaled_sum = scale.step * static_cast<float>(sum);
    block.negative_sum = -sum;
    block.unused[0] = block.unused[1] = 0;
  }
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
      float sum = 0;
      for (std::size_t b = 0; b < blocks; ++b) {
        const QuantizedBlock& x = task.quantized[row * blocks + b];
        const std::byte* tile = tiles + b * kTileBytes;
        const auto* u = reinterpret_cast<const std::uint8_t*>(tile) + 4 * lane;
        std::int32_t dot = kHasMin ? 0 : x.negative_sum * (1 << task.zero_shift);
        std::int32_t q[kBlockCols];
        std::copy(std::begin(x.values), std::end(x.values), q);
        for (std::size_t o = 0; o < kOutlierFours; ++o) {
          for (std::size_t i = 0; i < kFour; ++i) q[x.outlier_at[o] / 16 + i] += 256 * x.outliers[o][i];
        }
        for (std::size_t j = 0; j < 4; ++j) {
          for (std::size_t i = 0; i < 4; ++i) {
            const int byte = u[64 * j + i];
            const int low = kStorage == Storage::kU4 ? byte & 15 : byte;
            const int high = kStorage == Storage::kU4 ? byte >> 4 : u[256 + 64 * j + i];
            dot += low * q[4 * j + i] + high * q[16 + 4 * j + i];
          }
        }
        const float d = load_half(tile + kQuantBytes + 2 * lane);
        sum += static_cast<float>(dot) * d * x.scale;
        if (kHasMin) {
          const float m = load_half(tile + kQuantBytes + 2 * kGroupRows + 2 * lane);
          sum += m * x.scaled_sum;
        }
      }
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
