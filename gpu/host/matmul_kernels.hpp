// SPDX-License-Identifier: Apache-2.0
#pragma once

// The seam between portable code and the kernels, which are compiled once per CPU target with that target's
// flags. Plain data only: nothing in here may become code in two translation units with different flags.
//
// Packed weights. Rows come in groups of 16 (the last one padded with zeros), so that a vector's lanes are 16
// output rows and no kernel ever sums across lanes. Within a group, columns follow one another:
//   quantized: tiles of 32 columns. w = d * u + m with u unsigned.
//     kU4: 256 B; byte 64*j + 4*r + i holds column 4*j+i of row r in its low nibble, column 16+4*j+i in the
//     high. kU8: 512 B; byte 64*j + 4*r + i holds column 4*j+i of row r. Then 16 x fp16 d, then (only when
//     has_min) 16 x fp16 m. Without has_min, m = -(1 << zero_shift) * d. Behind a group's tiles 16 floats,
//     the largest magnitude of each row.
//   floats: one column of 16 rows after the other, in the stored type.

#include <cstddef>
#include <cstdint>

namespace spillway::gpu::host {

inline constexpr std::size_t kGroupRows = 16;
inline constexpr std::size_t kBlockCols = 32;
/// Kernels may take as many groups at once: tasks of a multiple of it are done best.
inline constexpr std::size_t kGroupsPerPass = 3;

enum class Storage : std::uint8_t { kU4, kU8, kF32, kF16, kBF16 };

/// 32 activations of a row as integers q of 16 bits: q = round(x / scale), ties to even, where scale = amax /
/// 32767 over the whole row; a row whose amax is below 1e-30 is all zero. The products of q with a block's
/// integer weights are exact, so all that is lost is half a step of each activation (docs/decisions/042). A
/// NaN or an infinity makes the scale one. A row is its blocks, then the scale, a float.
struct QuantizedBlock {
  /// Of each four columns the first and third, then the second and fourth: a lane of 16-bit dot products
  /// takes two columns, and the bytes of a four of weights are widened by a mask and by a shift.
  std::int16_t values[kBlockCols];
  float sum;                  // sum(q), for the m of a block of weights
  std::int32_t negative_sum;  // -sum(q), for the zero point
};
static_assert(sizeof(QuantizedBlock) == 72);
/// Where a block has column i.
[[nodiscard]] constexpr std::size_t place_in_block(std::size_t i) {
  return i / 4 * 4 + (i % 2 * 2 + i % 4 / 2);
}
/// What the largest magnitude of a row becomes, and the least one whose inverse is finite.
inline constexpr float kLargestQuantized = 32767, kLeastMagnitude = 1e-30f;

/// Columns that one lane of an 8-bit dot product takes, and how many such fours of a block may hold outliers.
inline constexpr std::size_t kFour = 4;
inline constexpr std::size_t kOutlierFours = 2;

/// The same in 8 bits, but for outliers, for kernels that trade exactness for time (docs/decisions/010). The
/// two fours with the largest magnitudes are the block's outliers; the other 24 values set the step: scale =
/// amax24 / 127, but at least amax32 / (127 * 256). q = values, plus 256 * outliers in the fours that have
/// them. Which fours they are is decided by magnitude without its last three bits, the earlier four first
/// among equals. One cache line, one stream and one pointer a row for the kernels.
struct alignas(64) OutlierBlock {
  std::int8_t values[kBlockCols];
  std::int8_t outliers[kOutlierFours][kFour];
  std::uint16_t outlier_at[kOutlierFours];  // 64 * index of the four in the block: its place in a kU8 tile
  float scale;
  float sum;                  // scale * sum(q), for the m of a block of weights
  std::int32_t negative_sum;  // -sum(q), for the zero point
  std::int32_t unused[2];
};
static_assert(sizeof(OutlierBlock) == 64);

/// Consecutive groups of one packed matrix times some rows of activations.
struct MatmulTask {
  const std::byte* groups = nullptr;
  std::size_t group_bytes = 0;  // from one group to the next
  std::size_t group_count = 0;
  std::size_t outputs = 0;  // rows of the matrix in these groups: 16 * group_count, less the padding
  std::size_t cols = 0;
  std::uint8_t zero_shift = 0;           // quantized without has_min
  const std::byte* quantized = nullptr;  // quantized weights: rows as quantize_row makes them
  std::size_t quantized_stride = 0;      // bytes from one to the next
  const float* x = nullptr;              // float weights: [rows, cols], row stride x_stride
  std::size_t x_stride = 0;
  std::size_t rows = 0;         // activation rows
  const float* bias = nullptr;  // [outputs] or null
  float* y = nullptr;           // [rows, outputs], row stride y_stride
  std::size_t y_stride = 0;
  /// Only for kernels that finish: outputs are added to y; or (not null) these groups of another matrix of
  /// the same storage are multiplied too, and y = silu(outputs) * theirs.
  bool adds = false;
  const std::byte* factor_groups = nullptr;
  const std::byte* rounded = nullptr;  // rows from the first of a tile on, see kRowsPerTile
  std::uint8_t code_bits = 0;          // of u: 4, 5 or 8
  /// Working memory on a cache line, panel_bytes(): kernels with quantize_row can do without (null), more
  /// slowly.
  std::byte* panel = nullptr;
};

/// Rounded rows are integers of 16 bits, v = 256 high + low of signed bytes, times a scale of the row, and
/// lie in tiles of 16: of each step of 64 columns the 16 rows' 64 high bytes, then their low ones, then the
/// next step (columns that are not there are zero); at last 64 bytes a row that begin with the scale, a
/// float. The memory of a tile's missing rows is read, never used.
inline constexpr std::size_t kRowsPerTile = 16;
[[nodiscard]] constexpr std::size_t rounded_tile_bytes(std::size_t cols) {
  return (cols + 63) / 64 * (kRowsPerTile * 128) + kRowsPerTile * 64;
}
/// Working memory of kernels that round: a panel of two groups by 5 steps, and sums of 256 rows; or the steps
/// of one group.
inline constexpr std::size_t kTileWorkBytes = 5 * 2 * (kGroupRows * 128) + 256 * 2 * kGroupRows * 2 * 4;

/// One target's kernels. For each (row, output) the sequence of operations is the same whatever the task's
/// shape, so a result does not depend on batch, chunk or thread count.
struct MatmulKernels {
  using Product = void (*)(const MatmulTask&);
  Product u4 = nullptr;      // m from zero_shift
  Product u4_min = nullptr;  // m stored
  Product u8 = nullptr;
  Product u8_min = nullptr;
  Product f32 = nullptr;
  Product f16 = nullptr;
  Product bf16 = nullptr;
  /// What products with quantized weights read is made by one of these, the other is null: blocks of
  /// block_bytes, or a rounded row.
  void (*quantize_row)(const float* x, std::size_t cols, std::byte* row) = nullptr;
  std::size_t block_bytes = sizeof(QuantizedBlock);
  void (*round_row)(const float* x, std::size_t cols, std::byte* rounded) = nullptr;

  bool finishes = false;  // products take MatmulTask::adds and factor_groups

  /// Of a row that quantize_row makes: its blocks and a float.
  [[nodiscard]] constexpr std::size_t quantized_bytes(std::size_t cols) const {
    return cols / kBlockCols * block_bytes + sizeof(float);
  }
  [[nodiscard]] constexpr std::size_t groups_per_pass() const {
    return round_row != nullptr ? 2 : kGroupsPerPass;
  }
  /// Of one thread.
  [[nodiscard]] constexpr std::size_t panel_bytes(std::size_t cols) const {
    if (round_row == nullptr) return kGroupsPerPass * (cols / kBlockCols) * (512 + 64);
    const std::size_t group = (cols + 63) / 64 * (kGroupRows * 128);
    return group < kTileWorkBytes ? kTileWorkBytes : group;
  }
};

extern const MatmulKernels kScalarMatmulKernels;
extern const MatmulKernels kAvx2MatmulKernels;
extern const MatmulKernels kAvx512VnniMatmulKernels;
extern const MatmulKernels kOutlierMatmulKernels;  // AVX-512 VNNI; only quantized weights, the same
extern const MatmulKernels kAmxMatmulKernels;      // with quantized weights; for others as above

}  // namespace spillway::gpu::host
