// SPDX-License-Identifier: Apache-2.0
#pragma once

// QuantizedRows: activations as products with quantized weights read them. Each row is cut into blocks of 32,
// a block into eight fours (what one lane of an int8 dot product takes). The two fours with the largest
// magnitudes are the block's outliers; the other 24 values set the step: scale = amax24 / 127, but at least
// amax32 / (127 * 256). q = round(x / scale) then fits 8 bits everywhere but in the outliers, which have 16.
// That costs two dot products more than the eight of plain int8 and is as exact as bfloat16; see
// docs/decisions/010. Which fours are outliers is decided by magnitude without its last three bits, the
// earlier four first among equals.
//
// Rows are independent: any thread may quantize its rows, a barrier later every thread may read all of them.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "gpu/host/matmul_kernels.hpp"

namespace spillway::gpu::host {

class QuantizedRows {
 public:
  /// Room for max_rows rows of up to max_cols columns; allocated once.
  QuantizedRows(std::size_t max_rows, std::size_t max_cols);

  /// Sets the columns of all rows from now on; contents are lost. Requires cols % 32 == 0, cols <= max_cols.
  /// One thread calls it, before the barrier that precedes quantize_row().
  void set_cols(std::size_t cols) noexcept;

  /// Quantizes x [cols] into `row`. Gives the same bits on every target.
  void quantize_row(const MatmulKernels& kernels, const float* x, std::size_t row) noexcept;

  [[nodiscard]] std::size_t max_rows() const noexcept { return max_rows_; }
  [[nodiscard]] std::size_t cols() const noexcept { return cols_; }
  /// The blocks of `row` [cols / 32]; those of the next row follow.
  [[nodiscard]] const QuantizedBlock* row(std::size_t row) const noexcept {
    return blocks_.get() + row * (cols_ / kBlockCols);
  }
  [[nodiscard]] std::size_t bytes() const noexcept {
    return max_rows_ * (max_cols_ / kBlockCols) * sizeof(QuantizedBlock);
  }

 private:
  struct Free {
    void operator()(QuantizedBlock* blocks) const noexcept;
  };
  std::size_t max_rows_;
  std::size_t max_cols_;
  std::size_t cols_ = 0;
  std::unique_ptr<QuantizedBlock[], Free> blocks_;
};

}  // namespace spillway::gpu::host
