// SPDX-License-Identifier: Apache-2.0
#pragma once

// ProductRows: rows of activations in the form that a target's products with quantized weights read (see
// matmul_kernels.hpp): blocks of integers, or tiles of rounded rows. Rows are independent: any thread may set
// its rows, a barrier later every thread may read all of them.

#include <cstddef>

#include "gpu/host/aligned_rows.hpp"
#include "gpu/host/matmul_kernels.hpp"
#include "runtime/check.hpp"

namespace spillway::gpu::host {

class ProductRows {
 public:
  /// Room for max_rows rows, zeroed; allocated once. Requires cols % 32 == 0 where max_rows > 0.
  ProductRows(const MatmulKernels& kernels, std::size_t max_rows, std::size_t cols)
      : rows_per_unit_(kernels.round_row != nullptr ? kRowsPerTile : 1),
        rows_((max_rows + rows_per_unit_ - 1) / rows_per_unit_,
              kernels.round_row != nullptr ? rounded_tile_bytes(cols) : kernels.quantized_bytes(cols)),
        max_rows_(max_rows),
        cols_(cols) {}

  /// x [cols], by the kernels that this was made for.
  void set_row(const MatmulKernels& kernels, const float* x, std::size_t row) noexcept {
    SPW_CHECK(row < max_rows_);
    if (kernels.round_row != nullptr) {
      kernels.round_row(x, cols_, rows_.row(row / kRowsPerTile) + row % kRowsPerTile * 64);
    } else {
      kernels.quantize_row(x, cols_, rows_.row(row));
    }
  }

  [[nodiscard]] std::size_t max_rows() const noexcept { return max_rows_; }
  [[nodiscard]] std::size_t cols() const noexcept { return cols_; }
  /// Row `row` and all behind it; of tiles the first of one.
  [[nodiscard]] const std::byte* from(std::size_t row) const noexcept {
    SPW_CHECK(row % rows_per_unit_ == 0);
    return rows_.row(row / rows_per_unit_);
  }
  /// Bytes from a row (with tiles: from a tile) to the next.
  [[nodiscard]] std::size_t stride() const noexcept { return rows_.row_bytes(); }
  [[nodiscard]] std::size_t bytes() const noexcept { return rows_.bytes(); }

 private:
  std::size_t rows_per_unit_;
  AlignedRows rows_;
  std::size_t max_rows_, cols_;
};

}  // namespace spillway::gpu::host
