// SPDX-License-Identifier: Apache-2.0
#pragma once

// SparseReference: sparsification without slots, blocks or devices, slow and obvious: for each head the list
// of tokens that still live. What every strategy and schedule must agree with.

#include <array>
#include <cstdint>
#include <vector>

#include "gpu/sim/sim_numbers.hpp"

namespace spillway::gpu {

class SparseReference {
 public:
  SparseReference(const model::SparseKvParams& params, std::uint32_t prompt_length)
      : params_(params), prompt_length_(prompt_length) {}

  /// The next token, by its hash. Returns what it attends to, as SimSlots::attend does.
  std::uint64_t feed(std::uint64_t value);

  [[nodiscard]] std::size_t live() const noexcept { return heads_[0].size(); }

 private:
  struct Token {
    std::uint32_t position = 0;
    float score = 0;
    std::uint64_t value = 0;
  };
  using Head = std::vector<Token>;  // by position

  void pool(Head& head);
  void evict_one(std::uint32_t first_head, std::uint32_t heads);

  model::SparseKvParams params_;
  std::uint32_t prompt_length_;
  std::uint32_t fed_ = 0;  // tokens
  std::array<Head, sim::kUnits> heads_;
};

}  // namespace spillway::gpu
