// SPDX-License-Identifier: Apache-2.0
#pragma once

// A random number that depends on (seed, choice, index) and on nothing else: no state, so a token drawn for a
// sequence is the same whatever else is in the batch and however often it is drawn again.

#include <cstdint>

namespace spillway::gpu {

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): a bijection whose output bits all depend on all
/// input bits.
[[nodiscard]] constexpr std::uint64_t mix64(std::uint64_t z) noexcept {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// Uniform in [0, 1), 53 bits.
[[nodiscard]] constexpr double counter_uniform(std::uint64_t seed, std::uint32_t choice,
                                               std::uint32_t index) noexcept {
  constexpr std::uint64_t kStep = 0x9e3779b97f4a7c15u;  // 2^64 / golden ratio
  const std::uint64_t counter = (std::uint64_t{choice} << 32 | index) + 1;
  const std::uint64_t bits = mix64(mix64(seed + kStep) + counter * kStep);
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace spillway::gpu
