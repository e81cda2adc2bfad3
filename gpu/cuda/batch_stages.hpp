// SPDX-License-Identifier: Apache-2.0
#pragma once

// The shared memory of batch_matmul.cuh: a ring of stages, then barriers. Results on their way out, and what
// other splits send, take the ring's place.

#include <algorithm>

#include "gpu/cuda/batch_matmul.hpp"

namespace spillway::gpu::cuda {

constexpr int kBatchStageCols = 64, kBatchRowBytes = kBatchStageCols * 2;
constexpr int kBatchSliceTokens = 16;  // of a warp
constexpr int kBatchSharedMax = 227 * 1024;
constexpr int kBatchSharedUsual = 205 * 1024;  // leaves room for blocks of the kernels around
constexpr int kBatchStagesMin = 3, kBatchStagesMax = 24;

/// Warpgroups that multiply, 64 tokens each.
constexpr int batch_groups(int tokens) { return tokens <= 64 ? 1 : 2; }

struct BatchStages {
  int x_rows = 0, x_bytes = 0, stage_bytes = 0, count = 0;
  int slices = 0, own_slices = 0;  // of 16 tokens; of a split's block, at most
  int received_at =
      0;  // from the ring's begin: sums [splits - 1][own slices][tile rows / 8][32 lanes] of four
  int barriers_at = 0;

  [[nodiscard]] int shared_bytes() const { return barriers_at + (2 * count + 1) * 8; }
};

/// Fewer than kBatchStagesMin: it does not fit.
inline BatchStages batch_stages(int tokens, const BatchCut& cut) {
  BatchStages s;
  s.x_rows = (tokens + 7) / 8 * 8;
  s.x_bytes = s.x_rows * kBatchRowBytes;
  s.stage_bytes = s.x_bytes + cut.tile_rows * kBatchRowBytes;
  s.slices = (tokens + kBatchSliceTokens - 1) / kBatchSliceTokens;
  s.own_slices = (s.slices + cut.splits - 1) / cut.splits;
  s.received_at = s.own_slices * kBatchSliceTokens * (cut.tile_rows + 8) * 4;  // behind the results
  const int after = s.received_at + (cut.splits - 1) * s.own_slices * kBatchSliceTokens * cut.tile_rows * 4;
  // Warpgroups read 64 tokens, whose last may not be there: behind the last stage, too.
  const int behind = std::max(0, batch_groups(tokens) * 64 * kBatchRowBytes - s.stage_bytes);
  s.count = std::min((kBatchSharedUsual - behind) / (s.stage_bytes + 16), kBatchStagesMax);
  s.barriers_at = std::max(s.count * s.stage_bytes + behind, (after + 15) / 16 * 16);
  if (s.shared_bytes() > kBatchSharedMax) s.count = 0;
  return s;
}

}  // namespace spillway::gpu::cuda
