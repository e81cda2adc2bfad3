// SPDX-License-Identifier: Apache-2.0
#pragma once

// MemoryForecast: the most blocks that sparsified sequences bounded by their budgets will hold together at
// any time from now on. Each is known in advance: it holds its whole prompt until that is computed, then
// grows by a slot a step up to its budget, and is gone when its longest answer is. So a sequence may come in
// although all budgets together exceed the memory, if enough of the others end before they need theirs. An
// answer that ends early only leaves more room; a sequence that falls behind its course may lead to a
// preemption, no worse.
//
// Time is counted in steps from now. Pure.

#include <cstdint>
#include <vector>

namespace spillway::actors {

struct MemoryCourse {
  std::uint32_t prompt_steps = 0;   // until its prompt is computed
  std::uint32_t prompt_blocks = 0;  // held until then
  std::uint32_t slots = 0;          // afterwards: so many, and one more with each step ...
  std::uint32_t slots_max = 0;      // ... up to these
  std::uint32_t steps = 0;          // until its blocks are back

  /// The most that it holds from step `begin` to step `end`, both included.
  [[nodiscard]] std::uint32_t blocks_within(std::uint32_t begin, std::uint32_t end,
                                            std::uint32_t block_size) const noexcept;
};

class MemoryForecast {
 public:
  MemoryForecast(const std::vector<MemoryCourse>& courses, std::uint32_t block_size);

  /// The most blocks held at any time, should `course` join.
  [[nodiscard]] std::uint64_t peak_with(const MemoryCourse& course) const noexcept;
  [[nodiscard]] std::uint64_t peak() const noexcept { return peak_with({}); }
  void join(const MemoryCourse& course) noexcept;

 private:
  /// Between two ends of sequences or of prompts; the last one never ends. At most kSpansMax: of more,
  /// neighbours are one, in which whoever is there at some time counts for all of it.
  struct Span {
    std::uint32_t begin = 0, end = 0;
    std::uint64_t blocks = 0;
  };
  std::uint32_t block_size_;
  std::vector<Span> spans_;
};

}  // namespace spillway::actors
