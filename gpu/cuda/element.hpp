// SPDX-License-Identifier: Apache-2.0
#pragma once

// Element: the type a CUDA device computes in. Weights, activations and the KV pool share it; sums are fp32.

#include <cstddef>
#include <cstdint>

namespace spillway::gpu::cuda {

enum class Element : std::uint8_t { kF32, kF16, kBF16 };

[[nodiscard]] constexpr std::size_t bytes_of(Element element) noexcept {
  return element == Element::kF32 ? 4 : 2;
}

}  // namespace spillway::gpu::cuda
