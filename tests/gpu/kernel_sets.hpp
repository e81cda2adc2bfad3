// SPDX-License-Identifier: Apache-2.0
#pragma once

// The product kernels that this machine can run, and what their blocks of integers mean.

#include <cstring>
#include <string>
#include <vector>

#include "gpu/host/matmul.hpp"

namespace spillway::gpu::host {

struct KernelSet {
  std::string name;
  const MatmulKernels& kernels;
  [[nodiscard]] bool has_outliers() const { return kernels.block_bytes == sizeof(OutlierBlock); }
  [[nodiscard]] bool rounds() const { return kernels.round_row != nullptr; }
};

/// Those of every target that this machine can run, in both modes where they differ.
inline std::vector<KernelSet> all_kernels() {
  std::vector<KernelSet> sets;
  for (const CpuTarget target : available_cpu_targets()) {
    const MatmulKernels& exact = matmul_kernels(target);
    sets.push_back({std::string(to_string(target)), exact});
    const MatmulKernels& fast = matmul_kernels(target, ExecutionMode::kPerformance);
    if (&fast != &exact) sets.push_back({std::string(to_string(target)) + ", performance", fast});
  }
  return sets;
}

inline int quantized_value(const QuantizedBlock& block, std::size_t i) {
  return block.values[place_in_block(i)];
}

inline int quantized_value(const OutlierBlock& block, std::size_t i) {
  int q = block.values[i];
  for (std::size_t o = 0; o < kOutlierFours; ++o) {
    if (block.outlier_at[o] / 64u == i / kFour) q += 256 * block.outliers[o][i % kFour];
  }
  return q;
}

/// A row's scale, behind its blocks.
inline float row_scale(const std::byte* row, std::size_t cols) {
  float scale;
  std::memcpy(&scale, row + cols / kBlockCols * sizeof(QuantizedBlock), sizeof scale);
  return scale;
}

}  // namespace spillway::gpu::host
