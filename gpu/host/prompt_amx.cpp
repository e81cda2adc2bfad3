// SPDX-License-Identifier: Apache-2.0
// Attention of prompt tokens with AMX: a tile product takes 16 rows, 32 columns and 16 outputs. Two tiles of
// rows by two groups use all eight tiles and need as many loads as products. Each sum adds the blocks of 32
// columns in order, whichever row of a tile it is in.

#define SPW_VEC_TARGET 2
#include "gpu/host/prompt_panel.inl"
#include "gpu/host/tile_config.inl"

namespace spillway::gpu::host {
namespace {

constexpr std::size_t kTileRows = 16;

template <bool kTwoTiles, bool kTwoGroups>
[[gnu::always_inline]] inline void zero_sums() {
  _tile_zero(0);
  if constexpr (kTwoGroups) _tile_zero(1);
  if constexpr (kTwoTiles) _tile_zero(2);
  if constexpr (kTwoTiles && kTwoGroups) _tile_zero(3);
}

/// One block of one or two tiles of rows. Rows past the last of a tile are read and multiplied too; nobody
/// looks at them.
template <bool kTwoTiles>
[[gnu::always_inline]] inline void load_rows(const std::byte* x, std::size_t next_tile,
                                             std::size_t row_bytes) {
  _tile_loadd(4, x, row_bytes);
  if constexpr (kTwoTiles) _tile_loadd(5, x + next_tile, row_bytes);
}

template <bool kTwoTiles, bool kTwoGroups>
[[gnu::always_inline]] inline void add_products() {
  _tile_dpbf16ps(0, 4, 6);
  if constexpr (kTwoGroups) _tile_dpbf16ps(1, 4, 7);
  if constexpr (kTwoTiles) _tile_dpbf16ps(2, 5, 6);
  if constexpr (kTwoTiles && kTwoGroups) _tile_dpbf16ps(3, 5, 7);
}

/// The sums of one or two tiles of rows by one or two groups, left in tiles 0 to 3. After each step of up to
/// four products it does what there is to do `between`: on vectors, which the processor computes beside
/// tiles.
template <bool kTwoTiles, bool kTwoGroups, class Between>
[[gnu::always_inline]] inline void add_blocks(const std::byte* x, std::size_t row_bytes,
                                              const std::byte* panel, std::size_t group_bytes,
                                              std::size_t blocks, Between& between) {
  zero_sums<kTwoTiles, kTwoGroups>();
  for (std::size_t b = 0; b < blocks; ++b, x += kRowBlock, panel += kPanelBlock) {
    _tile_loadd(6, panel, kPanelLine);
    if constexpr (kTwoGroups) _tile_loadd(7, panel + group_bytes, kPanelLine);
    load_rows<kTwoTiles>(x, kTileRows * row_bytes, row_bytes);
    add_products<kTwoTiles, kTwoGroups>();
    between();
  }
}

/// Stores them as rows of `stride` floats.
template <bool kTwoTiles, bool kTwoGroups>
[[gnu::always_inline]] inline void store_sums(float* c, std::size_t stride) {
  const std::size_t bytes = stride * sizeof(float);
  _tile_stored(0, c, bytes);
  if constexpr (kTwoGroups) _tile_stored(1, c + kGroupRows, bytes);
  if constexpr (kTwoTiles) _tile_stored(2, c + kTileRows * stride, bytes);
  if constexpr (kTwoTiles && kTwoGroups) _tile_stored(3, c + kTileRows * stride + kGroupRows, bytes);
}

template <bool kTwoTiles, bool kTwoGroups, class Between>
void multiply_tile(const TileProduct& t, std::size_t row, std::size_t group, Between& between) {
  add_blocks<kTwoTiles, kTwoGroups>(t.a + row * t.a_row_bytes, t.a_row_bytes, t.panel + group * t.group_bytes,
                                    t.group_bytes, t.blocks, between);
  store_sums<kTwoTiles, kTwoGroups>(t.c + row * t.c_stride + group * kGroupRows, t.c_stride);
}

template <bool kTwoGroups, class Between>
void tile_rows(const TileProduct& t, std::size_t group, Between& between) {
  std::size_t row = 0;
  for (; row + kTileRows < t.rows; row += 2 * kTileRows)
    multiply_tile<true, kTwoGroups>(t, row, group, between);
  if (row < t.rows) multiply_tile<false, kTwoGroups>(t, row, group, between);
}

template <class Between>
void multiply_tiles(const TileProduct& t, Between& between) {
  std::size_t group = 0;
  for (; group + 2 <= t.groups; group += 2) tile_rows<true>(t, group, between);
  if (group < t.groups) tile_rows<false>(t, group, between);
}

// Scores are exponents: what bfloat16 takes off queries and keys would be most of the error of all attention
// (docs/decisions/041). Both have two halves, and all products but that of the second ones are added.
constexpr std::size_t kScoreParts = 2;

template <bool kTwoTiles, bool kTwoGroups, class Between>
void score_tile(const TileProduct& t, std::size_t row, std::size_t group, Between& between) {
  const std::size_t rest = t.blocks * kRowBlock, panel_rest = t.blocks * kPanelBlock;
  const std::byte* x = t.a + row * t.a_row_bytes;
  const std::byte* panel = t.panel + group * t.group_bytes;
  const std::size_t next_tile = kTileRows * t.a_row_bytes;
  zero_sums<kTwoTiles, kTwoGroups>();
  for (std::size_t b = 0; b < t.blocks; ++b, x += kRowBlock, panel += kPanelBlock) {
    _tile_loadd(6, panel, kPanelLine);
    if constexpr (kTwoGroups) _tile_loadd(7, panel + t.group_bytes, kPanelLine);
    load_rows<kTwoTiles>(x + rest, next_tile, t.a_row_bytes);
    add_products<kTwoTiles, kTwoGroups>();
    between();
    load_rows<kTwoTiles>(x, next_tile, t.a_row_bytes);
    add_products<kTwoTiles, kTwoGroups>();
    between();
    _tile_loadd(6, panel + panel_rest, kPanelLine);
    if constexpr (kTwoGroups) _tile_loadd(7, panel + panel_rest + t.group_bytes, kPanelLine);
    add_products<kTwoTiles, kTwoGroups>();
    between();
  }
  store_sums<kTwoTiles, kTwoGroups>(t.c + row * t.c_stride + group * kGroupRows, t.c_stride);
}

template <bool kTwoGroups, class Between>
void score_rows(const TileProduct& t, std::size_t group, Between& between) {
  std::size_t row = 0;
  for (; row + kTileRows < t.rows; row += 2 * kTileRows) score_tile<true, kTwoGroups>(t, row, group, between);
  if (row < t.rows) score_tile<false, kTwoGroups>(t, row, group, between);
}

template <class Between>
void multiply_scores(const TileProduct& t, Between& between) {
  std::size_t group = 0;
  for (; group + 2 <= t.groups; group += 2) score_rows<true>(t, group, between);
  if (group < t.groups) score_rows<false>(t, group, between);
}

void begin_tiles() { configure_tiles(kTileRows, kTileRows); }
void end_tiles() { _tile_release(); }

}  // namespace
}  // namespace spillway::gpu::host

#include "gpu/host/attention_prompt.inl"

namespace spillway::gpu::host {

constinit const PromptKernels kAmxPromptKernels = {
    .attend = attend_rounded,
    .task_rows = kPromptTaskRows,
};

}  // namespace spillway::gpu::host
