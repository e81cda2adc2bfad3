// SPDX-License-Identifier: Apache-2.0
#include "actors/memory_forecast.hpp"

#include <algorithm>

#include "actors/scheduler_state.hpp"

namespace spillway::actors {
namespace {

constexpr std::size_t kSpansMax = 64;

}  // namespace

std::uint32_t MemoryCourse::blocks_within(std::uint32_t begin, std::uint32_t end,
                                          std::uint32_t block_size) const noexcept {
  if (begin >= steps) return 0;
  const std::uint32_t last = std::min(end, steps - 1);
  std::uint32_t blocks = begin < prompt_steps ? prompt_blocks : 0;
  if (last >= prompt_steps) {
    const std::uint32_t grown = std::min(slots_max - slots, last - prompt_steps);
    blocks = std::max(blocks, blocks_for(slots + grown, block_size));
  }
  return blocks;
}

MemoryForecast::MemoryForecast(const std::vector<MemoryCourse>& courses, std::uint32_t block_size)
    : block_size_(block_size) {
  std::vector<std::uint32_t> ends;  // the last step before one
  for (const MemoryCourse& course : courses) {
    if (course.prompt_steps > 0) ends.push_back(course.prompt_steps - 1);
    if (course.steps > 0) ends.push_back(course.steps - 1);
  }
  std::ranges::sort(ends);
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  const std::size_t together = ends.size() / kSpansMax + 1;
  std::uint32_t begin = 0;
  for (std::size_t i = together - 1; i < ends.size(); i += together) {
    spans_.push_back({begin, ends[i]});
    begin = ends[i] + 1;
  }
  spans_.push_back({begin, UINT32_MAX});
  for (const MemoryCourse& course : courses) join(course);
}

std::uint64_t MemoryForecast::peak_with(const MemoryCourse& course) const noexcept {
  std::uint64_t peak = 0;
  for (const Span& span : spans_)
    peak = std::max(peak, span.blocks + course.blocks_within(span.begin, span.end, block_size_));
  return peak;
}

void MemoryForecast::join(const MemoryCourse& course) noexcept {
  for (Span& span : spans_) span.blocks += course.blocks_within(span.begin, span.end, block_size_);
}

}  // namespace spillway::actors
