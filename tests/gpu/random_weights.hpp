// SPDX-License-Identifier: Apache-2.0
#pragma once

// Random weight tensors in every file type, and what they mean, for tests of packing and products. The
// dequantization here follows the file formats' definition (model/tensor.hpp) and shares no code with the
// engine.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "model/tensor.hpp"

namespace spillway::test {

using model::DType;

inline constexpr DType kAllDTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ8_0,
                                       DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1};

inline std::uint16_t float_to_half(float value) {  // normal range only, rounds toward zero
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const std::uint32_t sign = bits >> 16 & 0x8000u;
  const auto exponent = static_cast<std::int32_t>(bits >> 23 & 0xff) - 112;
  if (exponent <= 0) return static_cast<std::uint16_t>(sign);
  return static_cast<std::uint16_t>(sign | static_cast<std::uint32_t>(exponent) << 10 | (bits >> 13 & 0x3ff));
}

inline double half_value(std::uint16_t half) {
  const int exponent = half >> 10 & 31;
  const int mantissa = half & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return half & 0x8000 ? -magnitude : magnitude;
}

/// A tensor with its bytes, deliberately at an odd address.
class RandomTensor {
 public:
  RandomTensor(DType dtype, std::size_t rows, std::size_t cols, std::uint32_t seed)
      : dtype_(dtype), rows_(rows), cols_(cols) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> weight(-0.2f, 0.2f);
    std::uniform_real_distribution<float> scale(0.002f, 0.03f);
    const std::size_t block = model::block_bytes(dtype);
    bytes_.resize(1 + rows * cols / model::block_elements(dtype) * block);
    for (std::size_t at = 1; at < bytes_.size(); at += block) {
      std::uint8_t* to = &bytes_[at];
      if (dtype == DType::kF32 || dtype == DType::kBF16) {
        const float value = weight(random);
        std::uint8_t from[4];
        std::memcpy(from, &value, 4);
        std::memcpy(to, from + (4 - block), block);
      } else if (dtype == DType::kF16) {
        put_half(to, weight(random));
      } else {
        for (std::size_t i = 0; i < block; ++i) to[i] = static_cast<std::uint8_t>(random());
        put_half(to, random() % 8 == 0 ? -scale(random) : scale(random));
        if (dtype == DType::kQ4_1 || dtype == DType::kQ5_1) put_half(to + 2, weight(random));
      }
    }
  }

  [[nodiscard]] model::TensorView view() const {
    return {std::string("random ") + std::string(to_string(dtype_)),
            dtype_,
            {rows_, cols_},
            std::as_bytes(std::span(bytes_).subspan(1))};
  }

  /// The file's definition of element (row, col), in double.
  [[nodiscard]] double at(std::size_t row, std::size_t col) const {
    const std::size_t in_block = model::block_elements(dtype_);
    const std::uint8_t* block = &bytes_[1 + (row * cols_ + col) / in_block * model::block_bytes(dtype_)];
    const std::size_t i = col % in_block;
    switch (dtype_) {
      case DType::kF32: {
        float value;
        std::memcpy(&value, block, 4);
        return value;
      }
      case DType::kBF16: {
        float value;
        const std::uint8_t wide[4] = {0, 0, block[0], block[1]};
        std::memcpy(&value, wide, 4);
        return value;
      }
      case DType::kF16:
        return get_half(block);
      case DType::kQ8_0:
        return get_half(block) * static_cast<std::int8_t>(block[2 + i]);
      case DType::kQ4_0:
        return get_half(block) * (nibble(block + 2, i) - 8);
      case DType::kQ4_1:
        return get_half(block) * nibble(block + 4, i) + get_half(block + 2);
      case DType::kQ5_0:
        return get_half(block) * (nibble(block + 6, i) + 16 * bit(block + 2, i) - 16);
      case DType::kQ5_1:
        return get_half(block) * (nibble(block + 8, i) + 16 * bit(block + 4, i)) + get_half(block + 2);
    }
    return 0;
  }

  /// Multiplies the blocks' scales by 2^exponent, from -5 to 18, exactly; minima under 2^-9 become 0 first.
  void scale_by_power_of_two(int exponent) {
    const bool has_min = dtype_ == DType::kQ4_1 || dtype_ == DType::kQ5_1;
    for (std::size_t at = 1; at < bytes_.size(); at += model::block_bytes(dtype_)) {
      for (std::size_t i = 0; i < (has_min ? 2u : 1u); ++i) {
        std::uint16_t half;
        std::memcpy(&half, &bytes_[at + 2 * i], 2);
        if ((half >> 10 & 31) < 6) {
          half = 0;
        } else {
          half = static_cast<std::uint16_t>(half + exponent * 1024);
        }
        std::memcpy(&bytes_[at + 2 * i], &half, 2);
      }
    }
  }

  [[nodiscard]] std::size_t rows() const { return rows_; }
  [[nodiscard]] std::size_t cols() const { return cols_; }

 private:
  static void put_half(std::uint8_t* to, float value) {
    const std::uint16_t half = float_to_half(value);
    std::memcpy(to, &half, 2);
  }
  static double get_half(const std::uint8_t* from) {
    std::uint16_t half;
    std::memcpy(&half, from, 2);
    return half_value(half);
  }
  static int nibble(const std::uint8_t* quants, std::size_t i) {
    return i < 16 ? quants[i] & 15 : quants[i - 16] >> 4;
  }
  static int bit(const std::uint8_t* bits, std::size_t i) { return bits[i / 8] >> (i % 8) & 1; }

  DType dtype_;
  std::size_t rows_;
  std::size_t cols_;
  std::vector<std::uint8_t> bytes_;
};

inline std::vector<float> random_activations(std::size_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> value(0.0f, 1.0f);
  std::vector<float> x(count);
  for (float& v : x)
    v = value(random) * (random() % 61 == 0 ? 12.0f : 1.0f);  // a few outliers, as models have
  return x;
}

}  // namespace spillway::test
