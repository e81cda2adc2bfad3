// SPDX-License-Identifier: Apache-2.0
#pragma once

// ChunkCost: what a chunk of a prompt adds to a step, as begin_ns + tokens * token_ns: to begin a chunk costs
// a pass over what the prompt has in the KV cache already, whatever the chunk's length. Least squares over
// the last ten chunks or so; two different lengths must have been among them, or the part by token keeps its
// last value.

#include <algorithm>
#include <cstdint>

namespace spillway::actors {

class ChunkCost {
 public:
  [[nodiscard]] bool known() const noexcept { return weight_ > 0; }
  /// Neither is negative; token_ns is above 0 once known.
  [[nodiscard]] double begin_ns() const noexcept { return begin_ns_; }
  [[nodiscard]] double token_ns() const noexcept { return token_ns_; }

  void add(std::uint32_t tokens, double added_ns) noexcept {
    const double n = tokens;
    // One step that something else held up should not count for ten.
    if (known()) added_ns = std::min(added_ns, kOutlier * (begin_ns_ + n * token_ns_));
    for (double* sum : {&weight_, &n_, &nn_, &y_, &ny_}) *sum *= kKept;
    weight_ += 1, n_ += n, nn_ += n * n, y_ += added_ns, ny_ += n * added_ns;
    const double mean_n = n_ / weight_, mean_y = y_ / weight_;
    const double variance = nn_ / weight_ - mean_n * mean_n;
    double slope = token_ns_ == 0 ? mean_y / mean_n : token_ns_;
    if (variance > kSpread * mean_n * mean_n) slope = (ny_ / weight_ - mean_n * mean_y) / variance;
    token_ns_ = std::clamp(slope, kLeastShare * mean_y / mean_n, mean_y / mean_n);
    begin_ns_ = mean_y - token_ns_ * mean_n;
  }

 private:
  static constexpr double kKept = 0.9, kSpread = 0.01, kOutlier = 3, kLeastShare = 0.1;

  double weight_ = 0, n_ = 0, nn_ = 0, y_ = 0, ny_ = 0;  // decayed sums
  double begin_ns_ = 0, token_ns_ = 0;
};

}  // namespace spillway::actors
