// SPDX-License-Identifier: Apache-2.0
#include "gpu/sim/sparse_reference.hpp"

#include <algorithm>

#include "gpu/sparse_policy.hpp"

namespace spillway::gpu {

using model::SparseGranularity;
using model::SparseMethod;

std::uint64_t SparseReference::feed(std::uint64_t value) {
  const std::uint32_t position = fed_++;
  std::uint64_t sum = sim::kSeed;
  const bool counts = params_.method == SparseMethod::kH2o || (params_.method == SparseMethod::kSnapKv &&
                                                               position + params_.window >= prompt_length_);
  const bool replaces = params_.method == SparseMethod::kTova && position + 1 >= prompt_length_;
  for (std::uint32_t h = 0; h < heads_.size(); ++h) {
    heads_[h].push_back({position, 0, value});
    for (Token& token : heads_[h]) {
      const float attention = sim::attention_of(h, value, token.value);
      token.score = replaces ? attention : counts ? token.score + attention : token.score;
      sum += sim::attend(h, token.value);
    }
  }
  if (fed_ < prompt_length_) return sum;
  if (fed_ == prompt_length_ && params_.method == SparseMethod::kSnapKv)
    std::ranges::for_each(heads_, [this](Head& head) { pool(head); });
  const std::size_t with_next = live() + 1;
  if (with_next <= params_.budget) return sum;
  const std::size_t count = std::max<std::size_t>(params_.num_per_evict, with_next - params_.budget);
  const std::uint32_t together = params_.granularity == SparseGranularity::kHead    ? 1
                                 : params_.granularity == SparseGranularity::kLayer ? sim::kHeads
                                                                                    : sim::kUnits;
  for (std::uint32_t h = 0; h < heads_.size(); h += together) {
    for (std::size_t i = 0; i < count; ++i) evict_one(h, together);
  }
  return sum;
}

void SparseReference::pool(Head& head) {
  const Head own = head;
  for (Token& token : head) {
    for (const Token& other : own) {
      const std::uint32_t apart =
          std::max(other.position, token.position) - std::min(other.position, token.position);
      if (apart <= kSnapKvReach) token.score = std::max(token.score, other.score);
    }
  }
}

void SparseReference::evict_one(std::uint32_t first_head, std::uint32_t heads) {
  const Head& head = heads_[first_head];
  std::size_t victim = head.size();
  float lowest = 0;
  for (std::size_t i = 0; i < head.size(); ++i) {
    const std::uint32_t position = head[i].position;
    if (position < params_.sinks || position + *params_.recent >= fed_) continue;
    float key = 0;
    if (params_.method == SparseMethod::kRandom) {
      key = random_key(params_.seed, first_head / heads, position);
    } else if (params_.method == SparseMethod::kStreaming) {
      key = static_cast<float>(position);
    } else {
      for (std::uint32_t h = first_head; h < first_head + heads; ++h) key += heads_[h][i].score;
    }
    if (victim == head.size() || key < lowest) victim = i, lowest = key;
  }
  for (std::uint32_t h = first_head; h < first_head + heads; ++h)
    heads_[h].erase(heads_[h].begin() + static_cast<std::ptrdiff_t>(victim));
}

}  // namespace spillway::gpu
