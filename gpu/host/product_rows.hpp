// SPDX-License-Identifier: Apache-2.0
#pragma once

// ProductRows: rows of activations in the form that a target's products with quantized weights read, integers
// (quantized_rows.hpp) or bfloat16 (rounded_rows.hpp). Rows are independent: any thread may set its rows, a
// barrier later every thread may read all of them.

#include <cstddef>

#include "gpu/host/matmul_kernels.hpp"
#include "gpu/host/quantized_rows.hpp"
#include "gpu/host/rounded_rows.hpp"

namespace spillway::gpu::host {

class ProductRows {
 public:
  /// Room for max_rows rows; allocated once. Requires cols % 32 == 0 where max_rows > 0.
  ProductRows(const MatmulKernels& kernels, std::size_t max_rows, std::size_t cols)
      : quantized_(kernels.quantize_row != nullptr ? max_rows : 0, cols),
        rounded_(kernels.round_row != nullptr ? max_rows : 0, cols),
        max_rows_(max_rows),
        cols_(cols) {
    if (quantized_.max_rows() > 0) quantized_.set_cols(cols);
  }

  /// x [cols], by the kernels that this was made for.
  void set_row(const MatmulKernels& kernels, const float* x, std::size_t row) noexcept {
    if (kernels.round_row != nullptr) {
      kernels.round_row(x, cols_, rounded_.row(row));
    } else {
      quantized_.quantize_row(kernels, x, row);
    }
  }

  [[nodiscard]] std::size_t max_rows() const noexcept { return max_rows_; }
  [[nodiscard]] std::size_t cols() const noexcept { return cols_; }
  [[nodiscard]] const QuantizedBlock* quantized(std::size_t row) const noexcept {
    return quantized_.row(row);
  }
  [[nodiscard]] const std::byte* rounded_tile(std::size_t first_row) const {
    return rounded_.tile(first_row);
  }
  [[nodiscard]] std::size_t bytes() const noexcept { return quantized_.bytes() + rounded_.bytes(); }

 private:
  QuantizedRows quantized_;
  RoundedRows rounded_;
  std::size_t max_rows_, cols_;
};

}  // namespace spillway::gpu::host
