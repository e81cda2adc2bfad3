// SPDX-License-Identifier: Apache-2.0
#pragma once

// Who is evicted: the sparsification methods as pure functions over a head's slots. Devices with faster ways
// to the same answer are held to these.
//
// A token's key says how much it is worth. The live, unprotected tokens with the lowest keys go, of two equal
// ones the older. Recency goes by position, never by slot.

#include <cstdint>
#include <span>
#include <vector>

#include "model/sparse_kv.hpp"

namespace spillway::gpu {

/// Position of a slot that holds no token.
inline constexpr float kHole = -1.0f;

/// [0, 1) for method random: the same wherever and whenever it is asked for.
[[nodiscard]] float random_key(std::uint64_t seed, std::uint32_t unit, std::uint32_t position) noexcept;

/// Tokens of these positions may be evicted when `newest` was the last one computed.
struct EvictableRange {
  float first = 0, end = 0;  // positions, as in the slots
  [[nodiscard]] bool holds(float position) const noexcept { return position >= first && position < end; }
};
[[nodiscard]] EvictableRange evictable(const model::SparseKvParams& params, std::uint32_t newest) noexcept;

/// Slots of the `count` tokens that go, in order of eviction. positions, scores [slots]; `unit` is whoever
/// decides: head, layer or 0, by which random tells them apart. Fewer than `count` only if fewer may go.
[[nodiscard]] std::vector<std::uint32_t> choose_victims(const model::SparseKvParams& params,
                                                        std::uint32_t unit, std::uint32_t newest,
                                                        std::uint32_t count, std::span<const float> positions,
                                                        std::span<const float> scores);

/// Neighbours on each side that SnapKV's pooling looks at. What is looked up is often longer than a word: a
/// question attends to the beginning of a number, and its other digits (tokens of their own) must stay too.
/// With 3, a head by itself lost the last ones.
inline constexpr std::uint32_t kSnapKvReach = 8;
/// SnapKV at the end of a prompt: each score becomes the highest within kSnapKvReach. scores [prompt tokens],
/// slot = position.
void pool_scores(std::span<float> scores);

/// How a query's attention enters the score of a token.
enum class ScoreUpdate : std::uint8_t { kNone, kAdd, kReplace };
/// For the query at `position`.
[[nodiscard]] ScoreUpdate score_update(const model::SparseKvParams& params, std::uint32_t prompt_length,
                                       std::uint32_t position) noexcept;

}  // namespace spillway::gpu
