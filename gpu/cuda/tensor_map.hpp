// SPDX-License-Identifier: Apache-2.0
#pragma once

// Matrices as tensor copies see them (compute capability 9.0).

#include <cuda.h>

#include <cstdint>

#include "gpu/cuda/element.hpp"

namespace spillway::gpu::cuda {

/// A matrix [rows, cols] of 16-bit elements, copied in boxes of box_rows (up to 256) times box_cols (64: 128
/// bytes, swizzled as wgmma wants them). Needs an address and rows at multiples of 16 bytes; false: the
/// driver refuses it, and the runtime's last error says so.
[[nodiscard]] bool map_rows(CUtensorMap& map, Element element, const void* data, int rows, int cols,
                            int box_rows, int box_cols);

/// A matrix [rows, cols] of 16-bit elements, rows in multiples of 8 and cols of 64, copied in boxes of box_rows
/// (a multiple of 8, up to 256) whole rows, which come to lie as [box_rows / 8][cols / 64][8][64], each 8 by 64 swizzled.
[[nodiscard]] bool map_groups(CUtensorMap& map, Element element, const void* data, std::int64_t rows, int cols,
                              int box_rows);

}  // namespace spillway::gpu::cuda
