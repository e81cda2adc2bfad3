// SPDX-License-Identifier: Apache-2.0
// Prompt kernels with AMX: a tile product takes 16 rows, 32 columns and 16 outputs. Two tiles of rows by two
// groups use all eight tiles and need as many loads as products. Each sum adds the blocks of 32 columns in
// order, whichever row of a tile it is in.

#include "gpu/host/prompt_panel.inl"

namespace spillway::gpu::host {
namespace {

constexpr std::size_t kGroupsAtOnce = 2;
constexpr std::size_t kTileRows = 16;

// Tiles: 0..3 sums [rows tile][group], 4 and 5 activations, 6 and 7 weights; all 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

void configure_tiles() {
  const TileConfig config;
  // g++ 12 believes that only the first 8 bytes are read, and would drop the stores to the others.
  __asm__ volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
}

template <bool kTwoTiles, bool kTwoGroups>
void multiply_tiles(const MatmulTask& task, std::size_t first_row, std::size_t first_group) {
  const std::size_t blocks = task.cols / kBlockCols, row_bytes = blocks * sizeof(QuantizedBlock);
  const auto* x = reinterpret_cast<const std::byte*>(task.quantized + first_row * blocks);
  const std::byte* panel = task.panel;
  const std::size_t group_bytes = blocks * kPanelBlock;
  _tile_zero(0);
  if constexpr (kTwoGroups) _tile_zero(1);
  if constexpr (kTwoTiles) _tile_zero(2);
  if constexpr (kTwoTiles && kTwoGroups) _tile_zero(3);
  for (std::size_t b = 0; b < blocks; ++b, x += sizeof(QuantizedBlock), panel += kPanelBlock) {
    _tile_loadd(6, panel, kPanelLine);
    if constexpr (kTwoGroups) _tile_loadd(7, panel + group_bytes, kPanelLine);
    _tile_loadd(4, x, row_bytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kTwoGroups) _tile_dpbf16ps(1, 4, 7);
    if constexpr (kTwoTiles) {
      _tile_loadd(5, x + kTileRows * row_bytes, row_bytes);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (kTwoGroups) _tile_dpbf16ps(3, 5, 7);
    }
  }
  alignas(64) float sums[4][kTileRows][kGroupRows];
  _tile_stored(0, sums[0], kPanelLine);
  if constexpr (kTwoGroups) _tile_stored(1, sums[1], kPanelLine);
  if constexpr (kTwoTiles) _tile_stored(2, sums[2], kPanelLine);
  if constexpr (kTwoTiles && kTwoGroups) _tile_stored(3, sums[3], kPanelLine);
  for (std::size_t t = 0; t < (kTwoTiles ? 2 : 1); ++t) {
    const std::size_t row = first_row + t * kTileRows;
    const std::size_t rows = task.rows - row < kTileRows ? task.rows - row : kTileRows;
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t g = 0; g < (kTwoGroups ? 2 : 1); ++g)
        store_outputs(task, row + r, first_group + g, _mm512_load_ps(sums[2 * t + g][r]));
    }
  }
}

template <bool kTwoGroups>
void all_rows(const MatmulTask& task, std::size_t group) {
  std::size_t row = 0;
  for (; row + kTileRows < task.rows; row += 2 * kTileRows)
    multiply_tiles<true, kTwoGroups>(task, row, group);
  if (row < task.rows) multiply_tiles<false, kTwoGroups>(task, row, group);
}

template <Storage kStorage, bool kHasMin>
void product(const MatmulTask& task) {
  configure_tiles();
  for (std::size_t group = 0; group < task.group_count; group += kGroupsAtOnce) {
    if (task.group_count - group >= kGroupsAtOnce) {
      fill_panel<kStorage, kHasMin>(task, group, kGroupsAtOnce);
      all_rows<true>(task, group);
    } else {
      fill_panel<kStorage, kHasMin>(task, group, 1);
      all_rows<false>(task, group);
    }
  }
  _tile_release();  // a thread without tiles in use is cheaper to switch
}

}  // namespace

constinit const PromptKernels kAmxPromptKernels = {
    .u4 = product<Storage::kU4, false>,
    .u4_min = product<Storage::kU4, true>,
    .u8 = product<Storage::kU8, false>,
    .u8_min = product<Storage::kU8, true>,
    .round_row = round_row,
    .groups_per_pass = kGroupsAtOnce,
};

}  // namespace spillway::gpu::host
