// SPDX-License-Identifier: Apache-2.0
#include "gpu/sparse_policy.hpp"

#include <algorithm>

#include "gpu/counter_random.hpp"

namespace spillway::gpu {

using model::SparseMethod;

float random_key(std::uint64_t seed, std::uint32_t unit, std::uint32_t position) noexcept {
  return static_cast<float>(mix64(seed ^ mix64((std::uint64_t{unit} << 32) | position)) >> 40) * 0x1p-24f;
}

EvictableRange evictable(const model::SparseKvParams& params, std::uint32_t newest) noexcept {
  const std::uint32_t recent = std::max<std::uint32_t>(1, params.recent.value_or(1));
  return {static_cast<float>(params.sinks),
          newest + 1 > recent ? static_cast<float>(newest + 1 - recent) : 0.0f};
}

std::vector<std::uint32_t> choose_victims(const model::SparseKvParams& params, std::uint32_t unit,
                                          std::uint32_t newest, std::uint32_t count,
                                          std::span<const float> positions, std::span<const float> scores) {
  const EvictableRange range = evictable(params, newest);
  struct Candidate {
    float key, position;
    std::uint32_t slot;
    bool operator<(const Candidate& other) const {
      return key != other.key ? key < other.key : position < other.position;
    }
  };
  std::vector<Candidate> candidates;
  for (std::uint32_t slot = 0; slot < positions.size(); ++slot) {
    const float position = positions[slot];
    if (!range.holds(position)) continue;
    const float key = params.method == SparseMethod::kRandom
                          ? random_key(params.seed, unit, static_cast<std::uint32_t>(position))
                      : params.method == SparseMethod::kStreaming ? position
                                                                  : scores[slot];
    candidates.push_back({key, position, slot});
  }
  const auto end = candidates.begin() + std::min<std::ptrdiff_t>(count, std::ssize(candidates));
  std::ranges::partial_sort(candidates, end, std::less<>());
  std::vector<std::uint32_t> victims;
  for (auto candidate = candidates.begin(); candidate != end; ++candidate) victims.push_back(candidate->slot);
  return victims;
}

void pool_scores(std::span<float> scores) {
  const std::vector<float> own(scores.begin(), scores.end());
  for (std::size_t i = 0; i < own.size(); ++i) {
    const std::size_t first = i > kSnapKvReach ? i - kSnapKvReach : 0;
    const std::size_t end = std::min(own.size(), i + kSnapKvReach + 1);
    scores[i] = *std::max_element(own.begin() + static_cast<std::ptrdiff_t>(first),
                                  own.begin() + static_cast<std::ptrdiff_t>(end));
  }
}

ScoreUpdate score_update(const model::SparseKvParams& params, std::uint32_t prompt_length,
                         std::uint32_t position) noexcept {
  switch (params.method) {
    case SparseMethod::kH2o:
      return ScoreUpdate::kAdd;
    case SparseMethod::kSnapKv:
      return position + params.window >= prompt_length ? ScoreUpdate::kAdd : ScoreUpdate::kNone;
    case SparseMethod::kTova:
      return position + 1 >= prompt_length ? ScoreUpdate::kReplace : ScoreUpdate::kNone;
    default:
      return ScoreUpdate::kNone;
  }
}

}  // namespace spillway::gpu
