// SPDX-License-Identifier: Apache-2.0
#pragma once

// Scalar conversions of 16-bit floats, for set-up code and reference kernels. Not for the files compiled with
// wider instructions: an inline function emitted there could be the copy the linker keeps.

#include <bit>
#include <cstdint>

namespace spillway::gpu::host {

[[nodiscard]] constexpr float half_to_float(std::uint16_t half) noexcept {
  const std::uint32_t sign = std::uint32_t{half & 0x8000u} << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1fu;
  const std::uint32_t mantissa = half & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | mantissa << 13);
  if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24 is exact in fp32
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

[[nodiscard]] constexpr float bfloat_to_float(std::uint16_t bfloat) noexcept {
  return std::bit_cast<float>(std::uint32_t{bfloat} << 16);
}

}  // namespace spillway::gpu::host
