// SPDX-License-Identifier: Apache-2.0
#pragma once

// RoundedRows: activations as products by tiles read them, in tiles of 16 rows (matmul_kernels.hpp says how a
// tile lies), zeroed at first. Any thread may write its rows, a barrier later all may read.

#include <cstddef>

#include "gpu/host/aligned_rows.hpp"
#include "gpu/host/matmul_kernels.hpp"
#include "runtime/check.hpp"

namespace spillway::gpu::host {

class RoundedRows {
 public:
  /// cols % 32 == 0 where max_rows > 0.
  RoundedRows(std::size_t max_rows, std::size_t cols)
      : tiles_((max_rows + kRowsPerTile - 1) / kRowsPerTile, rounded_tile_bytes(cols)) {}

  /// Where round_row() writes row `index`.
  [[nodiscard]] std::byte* row(std::size_t index) noexcept {
    return tiles_.row(index / kRowsPerTile) + index % kRowsPerTile * 64;
  }
  /// The tile that begins with row `index`.
  [[nodiscard]] const std::byte* tile(std::size_t index) const {
    SPW_CHECK(index % kRowsPerTile == 0);
    return tiles_.row(index / kRowsPerTile);
  }
  [[nodiscard]] std::size_t bytes() const noexcept { return tiles_.bytes(); }

 private:
  AlignedRows tiles_;
};

}  // namespace spillway::gpu::host
