// SPDX-License-Identifier: Apache-2.0
#pragma once

// The arithmetic of the simulated model: hashes that stand for keys, values, attention and sampling.

#include <cstdint>

#include "model/sampling_params.hpp"

namespace spillway::gpu::sim {

using model::TokenId;

inline constexpr std::uint64_t kSeed = 0x243f6a8885a308d3ULL;

/// Heads and layers that a sparsified sequence of the simulated model has.
inline constexpr std::uint32_t kLayers = 2, kHeads = 2, kUnits = kLayers * kHeads;

// SplitMix64's output function (Steele, Lea, Flood 2014).
constexpr std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

constexpr std::uint64_t kv_value(std::uint64_t before, TokenId token, std::uint32_t position) {
  return mix(before ^ mix((std::uint64_t{position} << 32) | static_cast<std::uint32_t>(token)));
}

constexpr std::uint64_t attend(std::uint64_t sum, std::uint64_t value) { return mix(sum + value); }

/// How much of its attention a query gives to a key in one head: a multiple of 2^-12 in [0, 1). Few bits, so
/// that equal scores occur.
constexpr float attention_of(std::uint32_t unit, std::uint64_t query, std::uint64_t key) {
  return static_cast<float>(mix(query ^ mix(key + unit)) >> 52) * 0x1p-12f;
}

inline TokenId sample(std::uint64_t attended, const model::SamplingParams& params, std::uint32_t choice,
                      std::uint32_t output_index, std::int32_t vocab_size) {
  if (!params.greedy()) attended ^= mix(params.seed ^ mix((std::uint64_t{choice} << 32) | output_index));
  return static_cast<TokenId>(mix(attended) % static_cast<std::uint64_t>(vocab_size));
}

}  // namespace spillway::gpu::sim
