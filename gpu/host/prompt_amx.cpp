// SPDX-License-Identifier: Apache-2.0
// Prompt kernels with AMX: a tile product takes 16 rows, 32 columns and 16 outputs. Two tiles of rows by two
// groups use all eight tiles and need as many loads as products. Each sum adds the blocks of 32 columns in
// order, whichever row of a tile it is in.

#define SPW_VEC_TARGET 2
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

/// The u whose lowest bit is bit kShift of each dword, as floats.
template <Storage kStorage, int kShift>
[[gnu::always_inline]] inline __m512 unsigned_of(__m512i line) {
  const __m512i shifted = _mm512_srli_epi32(line, kShift);
  if constexpr (kStorage == Storage::kU4) {  // the lookup reads the low 4 bits alone
    const __m512 values = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    return _mm512_permutexvar_ps(shifted, values);
  } else {
    return _mm512_cvtepi32_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(255)));
  }
}

/// Columns 4j .. 4j+3 of a dword as two panel lines; nibbles from bit kFirst on, kStep bits apart.
template <Storage kStorage, int kFirst>
[[gnu::always_inline]] inline void unpack_line(__m512i line, __m512 d, __m512 m, std::byte* panel) {
  const auto weight = [&](__m512 u) { return _mm512_fmadd_ps(u, d, m); };
  const __m512 a = weight(unsigned_of<kStorage, kFirst>(line));
  const __m512 b = weight(unsigned_of<kStorage, kFirst + 8>(line));
  const __m512 c = weight(unsigned_of<kStorage, kFirst + 16>(line));
  const __m512 e = weight(unsigned_of<kStorage, kFirst + 24>(line));
  _mm512_store_si512(panel, pairs_of(a, b));
  _mm512_store_si512(panel + kPanelLine, pairs_of(c, e));
}

/// Dequantizes `groups` groups from `first_group` into task.panel.
template <Storage kStorage, bool kHasMin>
void fill_panel(const MatmulTask& task, std::size_t first_group, std::size_t groups) {
  constexpr std::size_t kQuantBytes = kStorage == Storage::kU4 ? 256 : 512;
  constexpr std::size_t kTileBytes = kQuantBytes + (kHasMin ? 64 : 32);
  const std::size_t blocks = task.cols / kBlockCols;
  const __m512 zero = _mm512_set1_ps(-static_cast<float>(1 << task.zero_shift));
  for (std::size_t g = 0; g < groups; ++g) {
    const std::byte* tile = task.groups + (first_group + g) * task.group_bytes;
    std::byte* panel = task.panel + g * blocks * kPanelBlock;
    for (std::size_t b = 0; b < blocks; ++b, tile += kTileBytes, panel += kPanelBlock) {
      for (std::size_t line = 0; line < kTileBytes; line += 64)
        _mm_prefetch(reinterpret_cast<const char*>(tile + 2048 + line), _MM_HINT_T0);
      const auto* scales = reinterpret_cast<const __m256i*>(tile + kQuantBytes);
      const __m512 d = _mm512_cvtph_ps(_mm256_loadu_si256(scales));
      const __m512 m = kHasMin ? _mm512_cvtph_ps(_mm256_loadu_si256(scales + 1)) : _mm512_mul_ps(d, zero);
      for (std::size_t j = 0; j < 4; ++j) {
        const __m512i low = _mm512_loadu_si512(tile + 64 * j);
        unpack_line<kStorage, 0>(low, d, m, panel + 2 * j * kPanelLine);
        std::byte* upper = panel + (kPairsPerBlock / 2 + 2 * j) * kPanelLine;
        if constexpr (kStorage == Storage::kU4) {
          unpack_line<kStorage, 4>(low, d, m, upper);
        } else {
          unpack_line<kStorage, 0>(_mm512_loadu_si512(tile + 256 + 64 * j), d, m, upper);
        }
      }
    }
  }
}

[[gnu::always_inline]] inline void store_outputs(const MatmulTask& task, std::size_t row, std::size_t group,
                                                 __m512 sum) {
  const std::size_t output = group * kGroupRows, left = task.outputs - output;
  const __mmask16 lanes = left >= kGroupRows ? __mmask16{0xffff} : static_cast<__mmask16>((1u << left) - 1);
  if (task.bias != nullptr) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, task.bias + output));
  _mm512_mask_storeu_ps(task.y + row * task.y_stride + output, lanes, sum);
}

/// The sums of one or two tiles of rows by one or two groups, left in tiles 0 to 3. Rows past the last of a
/// tile are read and multiplied too; nobody looks at them.
template <bool kTwoTiles, bool kTwoGroups>
[[gnu::always_inline]] inline void add_blocks(const std::byte* x, std::size_t row_bytes,
                                              const std::byte* panel, std::size_t group_bytes,
                                              std::size_t blocks) {
  _tile_zero(0);
  if constexpr (kTwoGroups) _tile_zero(1);
  if constexpr (kTwoTiles) _tile_zero(2);
  if constexpr (kTwoTiles && kTwoGroups) _tile_zero(3);
  for (std::size_t b = 0; b < blocks; ++b, x += kRowBlock, panel += kPanelBlock) {
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

template <bool kTwoTiles, bool kTwoGroups>
void multiply_panel(const MatmulTask& task, std::size_t first_row, std::size_t first_group) {
  constexpr std::size_t kGroups = kTwoGroups ? 2 : 1;
  const std::size_t blocks = task.cols / kBlockCols, row_bytes = 2 * task.cols;
  add_blocks<kTwoTiles, kTwoGroups>(task.rounded + first_row * row_bytes, row_bytes, task.panel,
                                    blocks * kPanelBlock, blocks);
  alignas(64) float sums[(kTwoTiles ? 2 : 1) * kTileRows][kGroups * kGroupRows];
  store_sums<kTwoTiles, kTwoGroups>(sums[0], kGroups * kGroupRows);
  const std::size_t most = (kTwoTiles ? 2 : 1) * kTileRows, left = task.rows - first_row;
  for (std::size_t r = 0; r < (left < most ? left : most); ++r) {
    for (std::size_t g = 0; g < kGroups; ++g)
      store_outputs(task, first_row + r, first_group + g, _mm512_load_ps(&sums[r][g * kGroupRows]));
  }
}

template <bool kTwoGroups>
void all_rows(const MatmulTask& task, std::size_t group) {
  std::size_t row = 0;
  for (; row + kTileRows < task.rows; row += 2 * kTileRows)
    multiply_panel<true, kTwoGroups>(task, row, group);
  if (row < task.rows) multiply_panel<false, kTwoGroups>(task, row, group);
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

template <bool kTwoTiles, bool kTwoGroups>
void multiply_tile(const TileProduct& t, std::size_t row, std::size_t group) {
  add_blocks<kTwoTiles, kTwoGroups>(t.a + row * t.a_row_bytes, t.a_row_bytes, t.panel + group * t.group_bytes,
                                    t.group_bytes, t.blocks);
  store_sums<kTwoTiles, kTwoGroups>(t.c + row * t.c_stride + group * kGroupRows, t.c_stride);
}

template <bool kTwoGroups>
void tile_rows(const TileProduct& t, std::size_t group) {
  std::size_t row = 0;
  for (; row + kTileRows < t.rows; row += 2 * kTileRows) multiply_tile<true, kTwoGroups>(t, row, group);
  if (row < t.rows) multiply_tile<false, kTwoGroups>(t, row, group);
}

void multiply_tiles(const TileProduct& t) {
  std::size_t group = 0;
  for (; group + 2 <= t.groups; group += 2) tile_rows<true>(t, group);
  if (group < t.groups) tile_rows<false>(t, group);
}

void begin_tiles() { configure_tiles(); }
void end_tiles() { _tile_release(); }

}  // namespace
}  // namespace spillway::gpu::host

#include "gpu/host/attention_prompt.inl"

namespace spillway::gpu::host {

constinit const PromptKernels kAmxPromptKernels = {
    .u4 = product<Storage::kU4, false>,
    .u4_min = product<Storage::kU4, true>,
    .u8 = product<Storage::kU8, false>,
    .u8_min = product<Storage::kU8, true>,
    .round_row = round_row,
    .attend = attend_rounded,
    .groups_per_pass = kGroupsAtOnce,
};

}  // namespace spillway::gpu::host
