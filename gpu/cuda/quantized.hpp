// SPDX-License-Identifier: Apache-2.0
#pragma once

// Quantized weights as the device keeps them: GGUF's numbers in the order in which a warp's tensor-core operands want them,
// in exactly the file's bytes. A panel is 128 rows by one block of 32 columns; a matrix is [tile of 128 rows][panel], so that
// what one block of threads reads is one run of memory.
//
// Panel: 8 regions of 16 rows, one a warp. Region: lane (g, t) = 4 g + t has columns [8 t, 8 t + 8) of rows g and g + 8: 8 bytes of
// nibbles (row g's word, then g + 8's; column 2 j + o at nibble j + 4 o) or 16 signed bytes, offset by 128; then, for five
// bits, a byte a row with column 2 j + o at bit j + 4 o; then for each g the scales of its two rows, and their minima.
//
// Gated matrices (gate rows, then as many up rows) have 64 gate rows and their 64 up rows in a tile: rows 0-7 of a region are
// gate rows, rows 8-15 their up rows, which end in the same lane.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "gpu/cuda/element.hpp"
#include "model/tensor.hpp"

namespace spillway::gpu::cuda {

inline constexpr int kPanelRows = 128;
inline constexpr int kPanelCols = 32;
inline constexpr int kRegionRows = 16;

[[nodiscard]] constexpr bool is_quantized(model::DType type) noexcept { return model::block_elements(type) > 1; }

/// Of 32 columns of a row, here as in a file.
[[nodiscard]] __host__ __device__ constexpr int packed_block_bytes(model::DType type) noexcept {
  switch (type) {
    case model::DType::kQ4_0:
      return 18;
    case model::DType::kQ4_1:
      return 20;
    case model::DType::kQ5_0:
      return 22;
    case model::DType::kQ5_1:
      return 24;
    default:
      return 34;
  }
}
static_assert(packed_block_bytes(model::DType::kQ4_0) == model::block_bytes(model::DType::kQ4_0));
static_assert(packed_block_bytes(model::DType::kQ4_1) == model::block_bytes(model::DType::kQ4_1));
static_assert(packed_block_bytes(model::DType::kQ5_0) == model::block_bytes(model::DType::kQ5_0));
static_assert(packed_block_bytes(model::DType::kQ5_1) == model::block_bytes(model::DType::kQ5_1));
static_assert(packed_block_bytes(model::DType::kQ8_0) == model::block_bytes(model::DType::kQ8_0));

[[nodiscard]] __host__ __device__ constexpr int panel_bytes(model::DType type) noexcept {
  return kPanelRows * packed_block_bytes(type);
}

/// A matrix [rows, cols] in panels; cols is a multiple of 32. Rows over the end are zeros.
struct PackedMatrix {
  model::DType type = model::DType::kQ4_0;
  void* data = nullptr;
  int rows = 0, cols = 0;
  bool gated = false;  // the first half of the rows are gates

  [[nodiscard]] __host__ __device__ constexpr int tiles() const noexcept {
    return gated ? (rows / 2 + kPanelRows / 2 - 1) / (kPanelRows / 2) : (rows + kPanelRows - 1) / kPanelRows;
  }
  [[nodiscard]] __host__ __device__ constexpr int panels_a_tile() const noexcept { return cols / kPanelCols; }
  [[nodiscard]] __host__ __device__ constexpr std::size_t bytes() const noexcept {
    return static_cast<std::size_t>(tiles()) * static_cast<std::size_t>(panels_a_tile()) *
           static_cast<std::size_t>(panel_bytes(type));
  }
};

/// Storage blocks [first_block, first_block + blocks) of a tensor whose row 0 is the matrix's row `first_row`, from the file's
/// bytes on the device into their places.
void launch_pack(const void* from, const PackedMatrix& to, int first_row, std::int64_t first_block, std::int64_t blocks,
                 cudaStream_t stream);
/// to [rows, cols] in a 16-bit element type, gate rows before up rows.
void launch_unpack(const PackedMatrix& from, void* to, Element element, cudaStream_t stream);
/// Random numbers, uniform in about [-range, range).
void launch_fill_packed(const PackedMatrix& to, float range, std::uint64_t seed, cudaStream_t stream);

}  // namespace spillway::gpu::cuda
