// SPDX-License-Identifier: Apache-2.0
#pragma once

// The name of a full KV block's content: a hash over everything that was attended to, up to and including the
// block. Two sequences with equal names hold equal KV, so they may share the block.

#include <cstdint>
#include <functional>
#include <span>

#include "model/spec.hpp"

namespace spillway::actors {

/// 128 bits, because a collision would hand one request another's context. The index compares the block's own
/// tokens as well, so both halves and the tokens must agree by chance before that could happen.
struct PrefixHash {
  std::uint64_t high = 0, low = 0;
  friend bool operator==(const PrefixHash&, const PrefixHash&) = default;
  [[nodiscard]] bool empty() const noexcept { return high == 0 && low == 0; }
};

/// Extends the name of all earlier blocks by one full block. `parent` is {} for the first block, or a salt.
[[nodiscard]] inline PrefixHash extend(PrefixHash parent, std::span<const model::TokenId> tokens) noexcept {
  // Two multiply-xorshift lanes (the finaliser constants are those of MurmurHash3's 64-bit mix).
  auto mix = [](std::uint64_t x) {
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdULL;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53ULL;
    return x ^ (x >> 33);
  };
  std::uint64_t a = mix(parent.high + 0x9e3779b97f4a7c15ULL), b = mix(parent.low ^ 0xd6e8feb86659fd93ULL);
  for (const model::TokenId token : tokens) {
    a = mix(a ^ static_cast<std::uint32_t>(token)) + b;
    b = mix(b + (std::uint64_t{static_cast<std::uint32_t>(token)} << 20) + 0x2545f4914f6cdd1dULL) ^ (a >> 7);
  }
  return {a | 1, b};  // never empty
}

struct PrefixHashHasher {
  std::size_t operator()(const PrefixHash& h) const noexcept { return h.low ^ (h.high >> 3); }
};

}  // namespace spillway::actors
