// SPDX-License-Identifier: Apache-2.0
// Products with quantized weights by AMX tiles, in bfloat16: a tile product takes 16 rows, 32 columns and 16
// outputs, two tiles of rows by two groups use all eight tiles. Each sum adds the blocks of 32 columns in
// order, whichever row of a tile it is in, so that a row's result depends on nothing beside it.
//
// What limits it with few rows is making weights, 512 a tile. In fp16 that takes 6 instructions for 32 of
// them (48 cycles a tile; from fp32 it was 80, 32 of them for rounding alone):
//   code   bits n of fp16 mean n * 2^-24 for all n < 2048, so shifting a code into place makes a number of
//   it; scale  w = d' u + m' in one fused step, where d' takes that factor back. A matrix's largest weight is
//          brought under 2 by a power of two, its `exponent`, so that nothing overflows;
//   round  to the 7 bits of a bfloat16's fraction. fp16's exponent stays as it is, which in a bfloat16 means
//   a
//          factor of 2^-112, given back half in the activations and half in the sums.
// Weights under 2^-14 of the largest, about, become 0. docs/decisions/015.

#include <immintrin.h>

#include "gpu/host/matmul_kernels.hpp"
#include "gpu/host/tile_config.inl"

namespace spillway::gpu::host {
namespace {

constexpr std::size_t kPanelLine = 64;  // bytes: a pair of columns of 16 outputs
constexpr std::size_t kPanelBlock = kBlockCols / 2 * kPanelLine;
constexpr std::size_t kRowBlock = 2 * kBlockCols;  // bytes of a row of activations
constexpr std::size_t kTileRows = kRowsPerTile;
constexpr std::size_t kRowTile = kTileRows * kRowBlock;
constexpr std::size_t kGroupsAtOnce = 2;
/// Blocks that a panel holds, and rows that are multiplied by one.
constexpr std::size_t kPanelBlocks = 9, kSlabRows = 256;
/// Weights are made this many blocks before they are multiplied: a tile cannot be loaded from stores that
/// have not reached the cache.
constexpr std::size_t kBlocksAhead = 2;
constexpr std::size_t kRingBlocks = 2 * kBlocksAhead;
static_assert(kRingBlocks <= kPanelBlocks);  // the ring lies where the panel would
/// Half of the exponents between an fp16 and a bfloat16 of the same bits.
constexpr float kHalfScale = 0x1p56f;

/// For each half of a quadword (two outputs' fours of columns): the codes at bit `at` and at + 8 of it,
/// `shift` up in words of their own. A byte of the control names the bit that becomes lowest.
struct alignas(64) SelectBits {
  std::uint8_t control[64] = {};
  constexpr SelectBits(int at, int shift) {
    for (int i = 0; i < 32; ++i) {
      const int code = at + (i & 1) * 8 + (i >> 1 & 1) * 32;
      control[2 * i] = static_cast<std::uint8_t>((code - shift) & 63);
      control[2 * i + 1] = static_cast<std::uint8_t>((code - shift + 8) & 63);
    }
  }
};
constexpr int shift_for(int code_bits) { return 11 - code_bits; }
constexpr SelectBits kSelect4[] = {
    {0, shift_for(4)}, {16, shift_for(4)}, {4, shift_for(4)}, {20, shift_for(4)}};
constexpr SelectBits kSelect5[] = {{0, shift_for(5)}, {16, shift_for(5)}};
constexpr SelectBits kSelect8[] = {{0, shift_for(8)}, {16, shift_for(8)}};

/// Makes bfloat16 weights, less 112 in the exponent, of one matrix's codes.
template <Storage kStorage, bool kHasMin>
class Unpacker {
 public:
  static constexpr std::size_t kQuantBytes = kStorage == Storage::kU4 ? 256 : 512;
  static constexpr std::size_t kTileBytes = kQuantBytes + (kHasMin ? 64 : 32);

  explicit Unpacker(const MatmulTask& task) {
    const int shift = shift_for(task.code_bits);
    const SelectBits* select = kStorage == Storage::kU4 ? kSelect4
                               : task.code_bits == 5    ? kSelect5
                                                        : kSelect8;
    for (std::size_t i = 0; i < kLines; ++i) select_[i] = _mm512_load_si512(select[i].control);
    mask_ = _mm512_set1_epi16(static_cast<short>(((1 << task.code_bits) - 1) << shift));
    // Factors of 2^(24 - shift + exponent) and 2^exponent, in steps that fp16 can hold.
    const int exponent = 24 - shift + task.weight_exponent;
    d_factor_[0] = power_of_two(exponent / 3);
    d_factor_[1] = power_of_two(exponent - 2 * (exponent / 3));
    m_factor_[0] = power_of_two(task.weight_exponent / 2);
    m_factor_[1] = power_of_two(task.weight_exponent - task.weight_exponent / 2);
    zero_ = _mm512_set1_ph(static_cast<_Float16>(-static_cast<float>(1 << task.zero_shift)));
  }

  /// One block of 32 columns.
  void make(const std::byte* tile, std::byte* panel) const {
    const auto* scales = reinterpret_cast<const __m256i*>(tile + kQuantBytes);
    const __m512h stored = twice(_mm256_loadu_si256(scales));
    const __m512h d =
        _mm512_mul_ph(_mm512_mul_ph(_mm512_mul_ph(stored, d_factor_[0]), d_factor_[0]), d_factor_[1]);
    const __m512h m = _mm512_mul_ph(
        _mm512_mul_ph(kHasMin ? twice(_mm256_loadu_si256(scales + 1)) : _mm512_mul_ph(stored, m_factor_[0]),
                      kHasMin ? m_factor_[0] : zero_),
        m_factor_[1]);
    for (std::size_t j = 0; j < 4; ++j) {
      const __m512i low = _mm512_loadu_si512(tile + 64 * j);
      const __m512i high = kStorage == Storage::kU4 ? low : _mm512_loadu_si512(tile + 256 + 64 * j);
      for (std::size_t pair = 0; pair < 2; ++pair) {
        std::byte* line = panel + (2 * j + pair) * kPanelLine;
        // Ties go away from zero in every other pair of columns, else towards it: weights do not grow.
        const __m512i half = _mm512_set1_epi16(static_cast<short>(pair == 0 ? 4 : 3));
        _mm512_store_si512(line, weights(low, select_[pair], d, m, half));
        _mm512_store_si512(line + kPanelBlock / 2,
                           weights(high, select_[kStorage == Storage::kU4 ? 2 + pair : pair], d, m, half));
      }
    }
  }

 private:
  static constexpr std::size_t kLines = kStorage == Storage::kU4 ? 4 : 2;

  static __m512h power_of_two(int exponent) {
    return _mm512_set1_ph(static_cast<_Float16>(__builtin_ldexpf(1.0f, exponent)));
  }

  /// Each of 16 halves in both halves of a lane.
  static __m512h twice(__m256i halves) {
    const __m512i wide = _mm512_cvtepu16_epi32(halves);
    return (__m512h)_mm512_or_si512(wide, _mm512_slli_epi32(wide, 16));
  }

  [[gnu::always_inline]] __m512i weights(__m512i codes, __m512i select, __m512h d, __m512h m,
                                         __m512i half) const {
    const __m512i u = _mm512_and_si512(_mm512_multishift_epi64_epi8(select, codes), mask_);
    const __m512i w = (__m512i)_mm512_fmadd_ph((__m512h)u, d, m);
    // Under 2 the upper bit of the exponent is 0: what the sign brings in stops there.
    const __m512i narrow = _mm512_srai_epi16(_mm512_add_epi16(w, half), 3);
    return _mm512_and_si512(narrow, _mm512_set1_epi16(static_cast<short>(0x87ff)));
  }

  __m512i select_[kLines];
  __m512i mask_;
  __m512h d_factor_[2], m_factor_[2], zero_;
};

/// Logits: rows of a vocabulary, read once and much later, go past the caches.
[[gnu::always_inline]] inline bool streams_out(const MatmulTask& task) {
  constexpr std::size_t kLongRow = 16384;
  return task.y_stride >= kLongRow && task.y_stride % 16 == 0 &&
         reinterpret_cast<std::uintptr_t>(task.y) % 64 == 0;
}

[[gnu::always_inline]] inline void store_outputs(const MatmulTask& task, std::size_t row, std::size_t group,
                                                 __m512 sum, __m512 scale) {
  const std::size_t output = group * kGroupRows, left = task.outputs - output;
  const __mmask16 lanes = left >= kGroupRows ? __mmask16{0xffff} : static_cast<__mmask16>((1u << left) - 1);
  sum = _mm512_mul_ps(sum, scale);
  if (task.bias != nullptr) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, task.bias + output));
  float* const to = task.y + row * task.y_stride + output;
  if (streams_out(task) && left >= kGroupRows) return _mm512_stream_ps(to, sum);
  _mm512_mask_storeu_ps(to, lanes, sum);
}

/// What the sums lack.
__m512 scale_of(const MatmulTask& task) {
  return _mm512_set1_ps(kHalfScale * __builtin_ldexpf(1.0f, -task.weight_exponent));
}

template <bool kTwoTiles, bool kTwoGroups>
[[gnu::always_inline]] inline void zero_sums() {
  _tile_zero(0);
  if constexpr (kTwoGroups) _tile_zero(1);
  if constexpr (kTwoTiles) _tile_zero(2);
  if constexpr (kTwoTiles && kTwoGroups) _tile_zero(3);
}

/// Adds one block of columns. A tile of rows lies together; the second is `row_tile` bytes behind the first,
/// the second group's weights right behind the first's.
template <bool kTwoTiles, bool kTwoGroups>
[[gnu::always_inline]] inline void add_block(const std::byte* x, std::size_t row_tile,
                                             const std::byte* panel) {
  _tile_loadd(6, panel, kPanelLine);
  if constexpr (kTwoGroups) _tile_loadd(7, panel + kPanelBlock, kPanelLine);
  _tile_loadd(4, x, kRowBlock);
  _tile_dpbf16ps(0, 4, 6);
  if constexpr (kTwoGroups) _tile_dpbf16ps(1, 4, 7);
  if constexpr (kTwoTiles) {
    _tile_loadd(5, x + row_tile, kRowBlock);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (kTwoGroups) _tile_dpbf16ps(3, 5, 7);
  }
}

/// The sums of `rows` rows from `first_row` on, as outputs.
template <bool kTwoTiles, bool kTwoGroups>
void finish_sums(const MatmulTask& task, std::size_t first_row, std::size_t rows, std::size_t first_group) {
  constexpr std::size_t kGroups = kTwoGroups ? 2 : 1, kStride = kGroups * kGroupRows * sizeof(float);
  alignas(64) float sums[(kTwoTiles ? 2 : 1) * kTileRows][kGroups * kGroupRows];
  _tile_stored(0, sums[0], kStride);
  if constexpr (kTwoGroups) _tile_stored(1, sums[0] + kGroupRows, kStride);
  if constexpr (kTwoTiles) _tile_stored(2, sums[kTileRows], kStride);
  if constexpr (kTwoTiles && kTwoGroups) _tile_stored(3, sums[kTileRows] + kGroupRows, kStride);
  const __m512 scale = scale_of(task);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t g = 0; g < kGroups; ++g)
      store_outputs(task, first_row + r, first_group + g, _mm512_load_ps(&sums[r][g * kGroupRows]), scale);
  }
}

/// Asks for weights in two steps: far ahead into the second-level cache, then into the first.
template <std::size_t kBytes>
[[gnu::always_inline]] inline void fetch_ahead(const std::byte* tile) {
  constexpr std::size_t kNear = 2048, kFar = 12288;
  for (std::size_t line = 0; line < kBytes; line += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(tile + kFar + line), _MM_HINT_T1);
    _mm_prefetch(reinterpret_cast<const char*>(tile + kNear + line), _MM_HINT_T0);
  }
}

/// The ring's place for block b.
std::byte* ring_at(const MatmulTask& task, std::size_t b) {
  return task.panel + b % kRingBlocks * (kGroupsAtOnce * kPanelBlock);
}

/// Calls make(b) for all blocks, each kBlocksAhead before multiply(b).
template <class Make, class Multiply>
[[gnu::always_inline]] inline void make_and_multiply(std::size_t blocks, Make&& make, Multiply&& multiply) {
  for (std::size_t b = 0; b < blocks + kBlocksAhead; ++b) {
    if (b < blocks) make(b);
    if (b >= kBlocksAhead) multiply(b - kBlocksAhead);
  }
}

/// Up to two tiles of rows.
template <Storage kStorage, bool kHasMin, bool kTwoTiles, bool kTwoGroups>
void few_rows(const MatmulTask& task, const Unpacker<kStorage, kHasMin>& unpacker, std::size_t group) {
  constexpr std::size_t kTileBytes = Unpacker<kStorage, kHasMin>::kTileBytes;
  const std::size_t blocks = task.cols / kBlockCols, row_tile = blocks * kRowTile;
  const std::byte* first = task.groups + group * task.group_bytes;
  zero_sums<kTwoTiles, kTwoGroups>();
  make_and_multiply(
      blocks,
      [&](std::size_t b) {
        const std::byte* tile = first + b * kTileBytes;
        fetch_ahead<kTileBytes>(tile);
        unpacker.make(tile, ring_at(task, b));
        if constexpr (kTwoGroups) {
          fetch_ahead<kTileBytes>(tile + task.group_bytes);
          unpacker.make(tile + task.group_bytes, ring_at(task, b) + kPanelBlock);
        }
      },
      [&](std::size_t b) {
        add_block<kTwoTiles, kTwoGroups>(task.rounded + b * kRowTile, row_tile, ring_at(task, b));
      });
  finish_sums<kTwoTiles, kTwoGroups>(task, 0, task.rows, group);
}

template <Storage kStorage, bool kHasMin, bool kTwoTiles>
void product_of_few(const MatmulTask& task, const Unpacker<kStorage, kHasMin>& unpacker) {
  configure_tiles(kTwoTiles ? kTileRows : task.rows, kTwoTiles ? task.rows - kTileRows : 1);
  std::size_t group = 0;
  for (; group + 2 <= task.group_count; group += 2)
    few_rows<kStorage, kHasMin, kTwoTiles, true>(task, unpacker, group);
  if (group < task.group_count) few_rows<kStorage, kHasMin, kTwoTiles, false>(task, unpacker, group);
}

/// Three or four tiles of rows, one group at a time: the weights of a block are made while the block before
/// them is multiplied. Rows past the last of a tile are multiplied too; nobody looks at them.
template <Storage kStorage, bool kHasMin, bool kFour>
void product_of_some(const MatmulTask& task, const Unpacker<kStorage, kHasMin>& unpacker) {
  constexpr std::size_t kTileBytes = Unpacker<kStorage, kHasMin>::kTileBytes;
  const std::size_t blocks = task.cols / kBlockCols, row_tile = blocks * kRowTile;
  configure_tiles(kTileRows, kTileRows);
  for (std::size_t group = 0; group < task.group_count; ++group) {
    const std::byte* first = task.groups + group * task.group_bytes;
    zero_sums<true, true>();
    make_and_multiply(
        blocks,
        [&](std::size_t b) {
          fetch_ahead<kTileBytes>(first + b * kTileBytes);
          unpacker.make(first + b * kTileBytes, ring_at(task, b));
        },
        [&](std::size_t b) {
          const std::byte* x = task.rounded + b * kRowTile;
          _tile_loadd(6, ring_at(task, b), kPanelLine);
          _tile_loadd(4, x, kRowBlock);
          _tile_dpbf16ps(0, 4, 6);
          _tile_loadd(5, x + row_tile, kRowBlock);
          _tile_dpbf16ps(1, 5, 6);
          _tile_loadd(4, x + 2 * row_tile, kRowBlock);
          _tile_dpbf16ps(2, 4, 6);
          if constexpr (kFour) {
            _tile_loadd(5, x + 3 * row_tile, kRowBlock);
            _tile_dpbf16ps(3, 5, 6);
          }
        });
    alignas(64) float sums[4 * kTileRows][kGroupRows];
    _tile_stored(0, sums[0], kPanelLine);
    _tile_stored(1, sums[kTileRows], kPanelLine);
    _tile_stored(2, sums[2 * kTileRows], kPanelLine);
    if constexpr (kFour) _tile_stored(3, sums[3 * kTileRows], kPanelLine);
    const __m512 scale = scale_of(task);
    for (std::size_t r = 0; r < task.rows; ++r) store_outputs(task, r, group, _mm512_load_ps(sums[r]), scale);
  }
}

/// Where sums wait from one part of the columns to the next: four tiles for each 32 rows.
float* waiting_sums(const MatmulTask& task, std::size_t row) {
  static_assert(kTileWorkBytes == kGroupsAtOnce * kPanelBlocks * kPanelBlock +
                                      kSlabRows * kGroupsAtOnce * kGroupRows * sizeof(float));
  return reinterpret_cast<float*>(task.panel + kGroupsAtOnce * kPanelBlocks * kPanelBlock) +
         row * kGroupsAtOnce * kGroupRows;
}

template <bool kTwoTiles, bool kTwoGroups>
void keep_sums(float* to) {
  _tile_stored(0, to, kPanelLine);
  if constexpr (kTwoGroups) _tile_stored(1, to + 256, kPanelLine);
  if constexpr (kTwoTiles) _tile_stored(2, to + 512, kPanelLine);
  if constexpr (kTwoTiles && kTwoGroups) _tile_stored(3, to + 768, kPanelLine);
}

template <bool kTwoTiles, bool kTwoGroups>
void take_sums(const float* from) {
  _tile_loadd(0, from, kPanelLine);
  if constexpr (kTwoGroups) _tile_loadd(1, from + 256, kPanelLine);
  if constexpr (kTwoTiles) _tile_loadd(2, from + 512, kPanelLine);
  if constexpr (kTwoTiles && kTwoGroups) _tile_loadd(3, from + 768, kPanelLine);
}

/// The part [begin, end) of the blocks of one or two tiles of rows, times the panel made of them.
template <bool kTwoTiles, bool kTwoGroups>
void multiply_panel(const MatmulTask& task, std::size_t first_row, std::size_t group, std::size_t begin,
                    std::size_t end) {
  constexpr std::size_t kMost = (kTwoTiles ? 2 : 1) * kTileRows;
  const std::size_t blocks = task.cols / kBlockCols, row_tile = blocks * kRowTile;
  const std::byte* x = task.rounded + first_row / kTileRows * row_tile;
  float* const waiting = waiting_sums(task, first_row % kSlabRows);
  if (begin == 0) {
    zero_sums<kTwoTiles, kTwoGroups>();
  } else {
    take_sums<kTwoTiles, kTwoGroups>(waiting);
  }
  for (std::size_t b = begin; b < end; ++b) {
    add_block<kTwoTiles, kTwoGroups>(x + b * kRowTile, row_tile,
                                     task.panel + (b - begin) * kGroupsAtOnce * kPanelBlock);
  }
  const std::size_t left = task.rows - first_row;
  if (end < blocks) {
    keep_sums<kTwoTiles, kTwoGroups>(waiting);
  } else {
    finish_sums<kTwoTiles, kTwoGroups>(task, first_row, left < kMost ? left : kMost, group);
  }
}

/// Rows [first_row, last_row) of one slab times one or two groups. A panel is made of as many columns as
/// leave room for the rows in the first-level cache: what limits this is reading both from the second.
template <Storage kStorage, bool kHasMin, bool kTwoGroups>
void multiply_slab(const MatmulTask& task, const Unpacker<kStorage, kHasMin>& unpacker, std::size_t group,
                   std::size_t first_row, std::size_t last_row) {
  constexpr std::size_t kTileBytes = Unpacker<kStorage, kHasMin>::kTileBytes;
  const std::size_t blocks = task.cols / kBlockCols;
  const std::byte* first = task.groups + group * task.group_bytes;
  for (std::size_t begin = 0; begin < blocks; begin += kPanelBlocks) {
    const std::size_t end = begin + kPanelBlocks < blocks ? begin + kPanelBlocks : blocks;
    for (std::size_t b = begin; b < end; ++b) {
      std::byte* panel = task.panel + (b - begin) * kGroupsAtOnce * kPanelBlock;
      fetch_ahead<kTileBytes>(first + b * kTileBytes);
      unpacker.make(first + b * kTileBytes, panel);
      if constexpr (kTwoGroups) {
        fetch_ahead<kTileBytes>(first + task.group_bytes + b * kTileBytes);
        unpacker.make(first + task.group_bytes + b * kTileBytes, panel + kPanelBlock);
      }
    }
    std::size_t row = first_row;
    for (; row + kTileRows < last_row; row += 2 * kTileRows)
      multiply_panel<true, kTwoGroups>(task, row, group, begin, end);
    if (row < last_row) multiply_panel<false, kTwoGroups>(task, row, group, begin, end);
  }
}

template <Storage kStorage, bool kHasMin>
void product_of_many(const MatmulTask& task, const Unpacker<kStorage, kHasMin>& unpacker) {
  configure_tiles(kTileRows, kTileRows);
  for (std::size_t row = 0; row < task.rows; row += kSlabRows) {
    const std::size_t last = row + kSlabRows < task.rows ? row + kSlabRows : task.rows;
    std::size_t group = 0;
    for (; group + 2 <= task.group_count; group += 2)
      multiply_slab<kStorage, kHasMin, true>(task, unpacker, group, row, last);
    if (group < task.group_count) multiply_slab<kStorage, kHasMin, false>(task, unpacker, group, row, last);
  }
}

template <Storage kStorage, bool kHasMin>
void product(const MatmulTask& task) {
  const Unpacker<kStorage, kHasMin> unpacker(task);
  switch ((task.rows + kTileRows - 1) / kTileRows) {
    case 1:
      product_of_few<kStorage, kHasMin, false>(task, unpacker);
      break;
    case 2:
      product_of_few<kStorage, kHasMin, true>(task, unpacker);
      break;
    case 3:
      product_of_some<kStorage, kHasMin, false>(task, unpacker);
      break;
    case 4:
      product_of_some<kStorage, kHasMin, true>(task, unpacker);
      break;
    default:
      product_of_many<kStorage, kHasMin>(task, unpacker);
  }
  if (streams_out(task)) _mm_sfence();
  _tile_release();  // a thread without tiles in use is cheaper to switch
}

/// A block of 32 columns every kRowTile bytes.
void round_row(const float* x, std::size_t cols, std::byte* rounded) {
  const __m512 scale = _mm512_set1_ps(kHalfScale);
  for (std::size_t k = 0; k < cols; k += kBlockCols, rounded += kRowTile) {
    const __m512 low = _mm512_mul_ps(_mm512_loadu_ps(x + k), scale);
    const __m512 high = _mm512_mul_ps(_mm512_loadu_ps(x + k + 16), scale);
    _mm512_store_si512(rounded, (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
}

}  // namespace

constinit const MatmulKernels kAmxMatmulKernels = {
    .u4 = product<Storage::kU4, false>,
    .u4_min = product<Storage::kU4, true>,
    .u8 = product<Storage::kU8, false>,
    .u8_min = product<Storage::kU8, true>,
    .round_row = round_row,
};

}  // namespace spillway::gpu::host
