// SPDX-License-Identifier: Apache-2.0
#pragma once

// Matrices as tensor copies see them (compute capability 9.0).

#include <cuda.h>

#include "gpu/cuda/element.hpp"

namespace spillway::gpu::cuda {

/// A matrix [rows, cols] of 16-bit elements, copied in boxes of box_rows (up to 256) times box_cols (64: 128
/// bytes, swizzled as wgmma wants them). Needs an address and rows at multiples of 16 bytes; false: the
/// driver refuses it, and the runtime's last error says so.
[[nodiscard]] bool map_rows(CUtensorMap& map, Element element, const void* data, int rows, int cols,
                            int box_rows, int box_cols);

}  // namespace spillway::gpu::cuda
