// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/product_rows.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "tests/gpu/kernel_sets.hpp"
#include "tests/gpu/random_weights.hpp"
#include "tests/support/catch.hpp"

using namespace spillway;
using namespace spillway::gpu::host;
using spillway::test::random_activations;

TEST_CASE("product rows: activations quantize to the nearest step of their row, the same on every target") {
  // Rows: random; zero; too small to divide by; one huge value; all equal; halves of a step (ties to even).
  const std::size_t cols = 96, rows = 6;
  std::vector<float> x = random_activations(rows * cols, 11);
  for (std::size_t i = 0; i < cols; ++i) {
    x[cols + i] = 0;
    x[2 * cols + i] = i == 6 ? 1e-35f : 1e-38f;
    if (i == 13) x[3 * cols + i] = -7e6f;
    x[4 * cols + i] = -0.75f;
    x[5 * cols + i] = i == 0 ? 32767.0f : static_cast<float>(i) - 40.5f;
  }
  ProductRows reference(kScalarMatmulKernels, rows, cols);
  for (std::size_t row = 0; row < rows; ++row) reference.set_row(kScalarMatmulKernels, &x[row * cols], row);
  for (const KernelSet& target : all_kernels()) {
    if (target.rounds() || target.has_outliers()) continue;
    INFO(target.name);
    ProductRows quantized(target.kernels, rows, cols);
    for (std::size_t row = 0; row < rows; ++row) {
      INFO("row " << row);
      const float* values = &x[row * cols];
      quantized.set_row(target.kernels, values, row);
      const std::byte* got = quantized.from(row);
      CHECK(std::memcmp(got, reference.from(row), target.kernels.quantized_bytes(cols)) == 0);
      const float scale = row_scale(got, cols);
      float largest = 0;
      for (std::size_t i = 0; i < cols; ++i) largest = std::max(largest, std::abs(values[i]));
      const bool zero = row == 1 || row == 2;
      CHECK(std::abs(scale - (zero ? 0.0f : largest / 32767)) <= 1e-6f * scale);
      for (std::size_t b = 0; b < cols / kBlockCols; ++b) {
        const QuantizedBlock& block = reinterpret_cast<const QuantizedBlock*>(got)[b];
        std::int32_t sum = 0;
        for (std::size_t i = 0; i < kBlockCols; ++i) {
          const int q = quantized_value(block, i);
          sum += q;
          if (zero) continue;
          CHECK(std::abs(q * double{scale} - values[b * kBlockCols + i]) <= 0.502 * scale);
        }
        CHECK(block.negative_sum == -sum);
        CHECK(block.sum == static_cast<float>(sum));
      }
      if (row == 5) {
        const auto& first = *reinterpret_cast<const QuantizedBlock*>(got);
        CHECK(quantized_value(first, 0) == 32767);
        CHECK(quantized_value(first, 1) == -40);  // of -39.5
        CHECK(quantized_value(first, 2) == -38);  // of -38.5
      }
    }
  }
}

TEST_CASE("product rows: in performance mode activations quantize to the nearest step, outliers apart") {
  if (detect_cpu_target() < CpuTarget::kAvx512Vnni) return;
  // Blocks: random; zero; too small to divide by; one huge value; all equal; two outliers in the last fours.
  const std::size_t cols = 6 * kBlockCols;
  std::vector<float> x = random_activations(cols, 11);
  for (std::size_t i = 0; i < 32; ++i) {
    x[32 + i] = 0;
    x[64 + i] = i == 6 ? 1e-35f : 1e-38f;
    if (i == 13) x[96 + i] = -7e6f;
    x[128 + i] = -0.75f;
    if (i >= 24) x[160 + i] *= 50;
  }
  const MatmulKernels& kernels = matmul_kernels(CpuTarget::kAvx512Vnni, ExecutionMode::kPerformance);
  REQUIRE(kernels.block_bytes == sizeof(OutlierBlock));
  ProductRows quantized(kernels, 1, cols);
  quantized.set_row(kernels, x.data(), 0);
  const auto* blocks = reinterpret_cast<const OutlierBlock*>(quantized.from(0));
  for (std::size_t b = 0; b < cols / kBlockCols; ++b) {
    INFO("block " << b);
    const OutlierBlock& block = blocks[b];
    std::int32_t sum = 0;
    float rest = 0, all = 0;  // largest magnitudes, without and with the outliers
    for (std::size_t i = 0; i < kBlockCols; ++i) {
      const float value = std::abs(x[b * kBlockCols + i]);
      const bool outlier = i / kFour == block.outlier_at[0] / 64u || i / kFour == block.outlier_at[1] / 64u;
      if (!outlier) rest = std::max(rest, value);
      all = std::max(all, value);
      sum += quantized_value(block, i);
    }
    CHECK(block.outlier_at[0] != block.outlier_at[1]);
    CHECK(block.negative_sum == -sum);
    CHECK(block.sum == block.scale * static_cast<float>(sum));
    if (b == 1 || b == 2) {
      CHECK(block.scale == 0.0f);
      CHECK(sum == 0);
      continue;
    }
    const float step = std::max(rest, all / 256) / 127;
    CHECK(std::abs(block.scale / step - 1) < 1e-5f);
    for (std::size_t i = 0; i < kBlockCols; ++i) {
      const double error = quantized_value(block, i) * double{block.scale} - x[b * kBlockCols + i];
      CHECK(std::abs(error) <= 0.501 * block.scale);
    }
  }
  CHECK(blocks[3].outlier_at[0] == 64 * (13 / 4));
  CHECK(std::min(blocks[5].outlier_at[0], blocks[5].outlier_at[1]) == 64 * 6);
}
