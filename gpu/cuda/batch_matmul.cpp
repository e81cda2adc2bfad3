// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/batch_matmul.hpp"

#include <algorithm>
#include <utility>

#include "gpu/cuda/batch_stages.hpp"
#include "gpu/cuda/launch.hpp"

namespace spillway::gpu::cuda {
namespace {

constexpr int kTileRows[] = {32, 64, 96, 128, 176, 192, 224, 256};
constexpr int kSplitsMax = 4;
constexpr std::size_t kCutsMeasured = 5;

bool has_batch(Element element, int rows, int cols, int tokens) {
  return element != Element::kF32 && rows > 0 && rows % 8 == 0 && cols % 8 == 0 &&
         tokens <= kBatchTokensMax && has_warpgroup_products();
}

}  // namespace

std::vector<BatchCut> all_batch_cuts(Element element, int rows, int cols, int tokens) {
  std::vector<BatchCut> cuts;
  if (!has_batch(element, rows, cols, tokens)) return cuts;
  const int blocks = (cols + kBatchStageCols - 1) / kBatchStageCols;
  for (const int tile_rows : kTileRows) {
    for (int splits = 1; splits <= std::min(kSplitsMax, blocks); ++splits) {
      const BatchCut cut{tile_rows, splits};
      if (batch_stages(tokens, cut).count >= kBatchStagesMin) cuts.push_back(cut);
    }
  }
  return cuts;
}

std::vector<BatchCut> batch_cuts(Element element, int rows, int cols, int tokens) {
  std::vector<BatchCut> cuts = all_batch_cuts(element, rows, cols, tokens);
  // Rows that the busiest multiprocessor reads; x, which comes from a cache, counts an eighth, and a join
  // some rows.
  const auto cost = [&](const BatchCut& cut) {
    const int room =
        cut.splits < 4 ? multiprocessors() : multiprocessors() * 7 / 8;  // clusters of 4 do not fill the chip
    const int blocks = (rows + cut.tile_rows - 1) / cut.tile_rows * cut.splits,
              waves = (blocks + room - 1) / room;
    return waves * (cut.tile_rows + tokens / 8) / cut.splits + (cut.splits > 1 ? 6 : 0);
  };
  std::stable_sort(cuts.begin(), cuts.end(),
                   [&](const BatchCut& a, const BatchCut& b) { return cost(a) < cost(b); });
  if (cuts.size() > kCutsMeasured) cuts.resize(kCutsMeasured);
  return cuts;
}

bool launch_batch(const BatchParams& p, cudaStream_t stream) {
  if (p.element == Element::kBF16) return launch_batch_bf16(p, stream);
  return launch_batch_f16(p, stream);
}

}  // namespace spillway::gpu::cuda
