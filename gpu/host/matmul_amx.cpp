// SPDX-License-Identifier: Apache-2.0
// Products with quantized weights by AMX tiles, in integers of 16 bits: activations and weights are
// fixed-point numbers v = 256 high + low of two signed bytes, scaled by the largest of a row of activations
// or of weights. Of the four products of bytes three are added up, high high apart from high low + low high,
// since the scales differ; low low, some 2^-16 of the largest product, is left out. Sums are exact integers,
// so a row's result depends on nothing beside it, whatever the order (32 bits hold 65536 columns). As exact
// as bfloat16 would be in two halves each (six products of half as many columns) at half of its time:
// docs/decisions/041.
//
// A tile product takes 16 rows, 64 columns and 16 outputs. With few rows making weights limits it, two lines
// of 64 at a time:
//   code   less its middle, in the upper bits of a word
//   scale  w = d' u + m' in one rounding multiplication (PMULHRSW) and an addition
//   split  m' has 128 added, so that the upper byte is rounded; then the lower byte's sign bit is turned.

#define SPW_VEC_TARGET 2
#include <immintrin.h>

#include "gpu/host/matmul_kernels.hpp"
#include "gpu/host/tile_config.inl"
#include "gpu/host/vec16.hpp"

namespace spillway::gpu::host {
namespace {

constexpr std::size_t kLine = 64;                  // bytes: four columns of 16 outputs, 64 of a row
constexpr std::size_t kTile = 16 * kLine;          // of one kind of byte
constexpr std::size_t kStepCols = 2 * kBlockCols;  // columns of a tile product
constexpr std::size_t kRowStep = 2 * kTile;        // upper bytes of 16 rows, then lower
constexpr std::size_t kGroupStep = 2 * kTile;      // upper bytes of 16 outputs, then lower
constexpr std::size_t kTileRows = kRowsPerTile;
/// Steps that a panel of two groups holds, and rows that are multiplied by one.
constexpr std::size_t kPanelSteps = 5, kSlabRows = 256;
constexpr std::size_t kPairStep = 2 * kGroupStep;
/// Integers that 16 rows' sums of two groups take while they wait.
constexpr std::size_t kWaiting = 4 * kTile / sizeof(std::int32_t);
static_assert(kTileWorkBytes ==
              kPanelSteps * kPairStep + kSlabRows / kTileRows * kWaiting * sizeof(std::int32_t));
/// What the largest activation and weight become. The largest d' is 16/15 of the latter.
constexpr float kLargestActivation = 127 * 256, kLargestWeight = 30000;

std::size_t steps_of(const MatmulTask& task) { return (task.cols + kStepCols - 1) / kStepCols; }

/// Groups in the order in which they are multiplied: of a gated product a gate's and its factor's in turn.
std::size_t groups_of(const MatmulTask& task) {
  return task.factor_groups != nullptr ? 2 * task.group_count : task.group_count;
}
const std::byte* group_at(const MatmulTask& task, std::size_t index) {
  if (task.factor_groups == nullptr) return task.groups + index * task.group_bytes;
  return (index % 2 == 0 ? task.groups : task.factor_groups) + index / 2 * task.group_bytes;
}

/// One group's 16 outputs: what makes fixed-point numbers of d and m, and what 256 of their steps mean.
struct GroupScales {
  __m512 d, m, step;

  GroupScales(const MatmulTask& task, std::size_t group) {
    const __m512 largest = _mm512_loadu_ps(group_at(task, group) + task.group_bytes - kLine);
    const __mmask16 some = _mm512_cmp_ps_mask(largest, _mm512_setzero_ps(), _CMP_GT_OQ);
    m = _mm512_maskz_div_ps(some, _mm512_set1_ps(kLargestWeight), largest);
    d = _mm512_mul_ps(m, _mm512_set1_ps(static_cast<float>(1 << (task.code_bits - 1))));
    step = _mm512_mul_ps(largest, _mm512_set1_ps(256 / kLargestWeight));
  }
};

/// Makes the bytes of one matrix's weights.
template <Storage kStorage, bool kHasMin>
class Unpacker {
 public:
  static constexpr std::size_t kQuantBytes = kStorage == Storage::kU4 ? 256 : 512;
  static constexpr std::size_t kTileBytes = kQuantBytes + (kHasMin ? 64 : 32);

  explicit Unpacker(const MatmulTask& task)
      : even_(_mm512_set1_epi16(static_cast<short>(16 - task.code_bits))),
        odd_(_mm512_set1_epi16(static_cast<short>(8 - task.code_bits))),
        upper_(_mm512_set1_epi16(static_cast<short>(0xffffu << (16 - task.code_bits)))) {}

  /// A block of 32 columns, as 8 lines of upper bytes and, kLower behind, 8 of lower ones.
  template <std::size_t kLower>
  [[gnu::always_inline]] void make(const std::byte* tile, const GroupScales& scales, std::byte* lines) const {
    const auto* stored = reinterpret_cast<const __m256i*>(tile + kQuantBytes);
    const __m512 scaled = _mm512_mul_ps(_mm512_cvtph_ps(_mm256_loadu_si256(stored)), scales.d);
    const __m512i d = twice(scaled);
    __m512i m = _mm512_set1_epi16(128);
    if constexpr (kHasMin) {
      const __m512 least = _mm512_cvtph_ps(_mm256_loadu_si256(stored + 1));
      m = _mm512_add_epi16(m, twice(_mm512_fmadd_ps(least, scales.m, scaled)));
    }
    const __m512i middle = _mm512_set1_epi16(static_cast<short>(0x8000));
    for (std::size_t j = 0; j < 4; ++j) {
      const __m512i codes = _mm512_loadu_si512(tile + kLine * j);
      std::byte* const low = lines + j * kLine;
      std::byte* const high = low + 4 * kLine;
      if constexpr (kStorage == Storage::kU4) {
        const __m512i upper = _mm512_set1_epi16(static_cast<short>(0xf000));
        store<kLower>(_mm512_xor_si512(_mm512_slli_epi16(codes, 12), middle),
                      masked(_mm512_slli_epi16(codes, 4), upper, middle), d, m, low);
        store<kLower>(masked(_mm512_slli_epi16(codes, 8), upper, middle), masked(codes, upper, middle), d, m,
                      high);
      } else {
        wide<kLower>(codes, d, m, low);
        wide<kLower>(_mm512_loadu_si512(tile + 256 + kLine * j), d, m, high);
      }
    }
  }

 private:
  /// Rounded to integers, each in both halves of a lane.
  static __m512i twice(__m512 x) {
    const __m512i whole = _mm512_cvtps_epi32(x);
    return _mm512_or_si512(_mm512_and_si512(whole, _mm512_set1_epi32(0xffff)), _mm512_slli_epi32(whole, 16));
  }
  /// (a & b) ^ c
  [[gnu::always_inline]] static __m512i masked(__m512i a, __m512i b, __m512i c) {
    return _mm512_ternarylogic_epi32(a, b, c, 0x6a);
  }
  template <std::size_t kLower>
  [[gnu::always_inline]] void wide(__m512i codes, __m512i d, __m512i m, std::byte* to) const {
    const __m512i middle = _mm512_set1_epi16(static_cast<short>(0x8000));
    store<kLower>(_mm512_xor_si512(_mm512_sllv_epi16(codes, even_), middle),
                  masked(_mm512_sllv_epi16(codes, odd_), upper_, middle), d, m, to);
  }
  /// The weights of even and of odd columns, as a line of upper and one of lower bytes.
  template <std::size_t kLower>
  [[gnu::always_inline]] static void store(__m512i even, __m512i odd, __m512i d, __m512i m, std::byte* to) {
    even = _mm512_add_epi16(_mm512_mulhrs_epi16(even, d), m);
    odd = _mm512_add_epi16(_mm512_mulhrs_epi16(odd, d), m);
    const __m512i upper = _mm512_set1_epi16(static_cast<short>(0xff00)), sign = _mm512_set1_epi8(-128);
    // a | (b & c); select by c
    _mm512_store_si512(to, _mm512_ternarylogic_epi32(_mm512_srli_epi16(even, 8), odd, upper, 0xf8));
    const __m512i low = _mm512_ternarylogic_epi32(_mm512_slli_epi16(odd, 8), even, upper, 0xe4);
    _mm512_store_si512(to + kLower, _mm512_xor_si512(low, sign));
  }

  __m512i even_, odd_, upper_;
};

/// Logits: rows of a vocabulary, read once and much later, go past the caches.
[[gnu::always_inline]] inline bool streams_out(const MatmulTask& task) {
  constexpr std::size_t kLongRow = 16384;
  return !task.adds && task.y_stride >= kLongRow && task.y_stride % 16 == 0 &&
         reinterpret_cast<std::uintptr_t>(task.y) % 64 == 0;
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

/// What rows from `first` on of one group are multiplied by at last: where a tile of them ends.
const std::byte* row_scales(const MatmulTask& task, std::size_t first) {
  const std::size_t steps = steps_of(task);
  return task.rounded + first / kTileRows * rounded_tile_bytes(task.cols) + steps * kRowStep;
}

/// x / (1 + e^-x), to some 2^-22; a division would take three times as long.
[[gnu::always_inline]] inline __m512 silu(__m512 x) {
  const __m512 two = _mm512_set1_ps(2), one = _mm512_set1_ps(1);
  // 1 + e^80 is finite, as the step of Newton's needs it. NaN stays.
  const __m512 power = _mm512_min_ps(_mm512_set1_ps(80), _mm512_sub_ps(_mm512_setzero_ps(), x));
  const __m512 divisor = _mm512_add_ps(one, exp_16({power}).v);
  const __m512 about = _mm512_rcp14_ps(divisor);
  return _mm512_mul_ps(x, _mm512_mul_ps(about, _mm512_fnmadd_ps(divisor, about, two)));
}

/// Outputs of up to 16 rows from `first_row` on, of sums [high high, the others][16 rows][16 outputs].
void finish_sums(const MatmulTask& task, std::size_t first_row, std::size_t group, const GroupScales& scales,
                 const std::int32_t* sums) {
  const bool gated = task.factor_groups != nullptr, factor = gated && group % 2 == 1;
  const std::size_t output = (gated ? group / 2 : group) * kGroupRows, left = task.outputs - output;
  const __mmask16 lanes = left >= kGroupRows ? __mmask16{0xffff} : static_cast<__mmask16>((1u << left) - 1);
  const std::size_t rows = task.rows - first_row < kTileRows ? task.rows - first_row : kTileRows;
  const bool streams = streams_out(task) && left >= kGroupRows;
  const std::byte* steps = row_scales(task, first_row);
  const __m512 bias =
      task.bias != nullptr ? _mm512_maskz_loadu_ps(lanes, task.bias + output) : _mm512_setzero_ps();
  float* to = task.y + first_row * task.y_stride + output;
  for (std::size_t r = 0; r < rows; ++r, sums += kGroupRows, steps += kLine, to += task.y_stride) {
    const __m512 high = _mm512_cvtepi32_ps(_mm512_load_si512(sums));
    const __m512 low = _mm512_cvtepi32_ps(_mm512_load_si512(sums + kTile / sizeof(std::int32_t)));
    const __m512 step = _mm512_mul_ps(_mm512_set1_ps(*reinterpret_cast<const float*>(steps)), scales.step);
    __m512 y = _mm512_mul_ps(_mm512_fmadd_ps(high, _mm512_set1_ps(256), low), step);
    if (task.bias != nullptr) y = _mm512_add_ps(y, bias);
    if (factor) y = _mm512_mul_ps(silu(_mm512_maskz_loadu_ps(lanes, to)), y);
    if (task.adds) y = _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, to), y);
    if (streams) {
      _mm512_stream_ps(to, y);
    } else {
      _mm512_mask_storeu_ps(to, lanes, y);
    }
  }
}

/// Asks for the lines that finish_sums() will write, whose rows lie far apart.
[[gnu::always_inline]] inline void fetch_outputs(const MatmulTask& task, std::size_t first_row,
                                                 std::size_t group, std::size_t groups) {
  const bool gated = task.factor_groups != nullptr;
  const std::size_t rows = task.rows - first_row < kTileRows ? task.rows - first_row : kTileRows;
  const float* to = task.y + first_row * task.y_stride + (gated ? group / 2 : group) * kGroupRows;
  for (std::size_t r = 0; r < rows; ++r, to += task.y_stride) {
    __builtin_prefetch(to, 1);
    if (groups == 2 && !gated) __builtin_prefetch(to + kGroupRows, 1);
  }
}

// Tiles 0 and 2 are sums of high high, 1 and 3 of high low + low high, of one and another tile of rows or
// group.

/// Adds one step of 16 rows and one or two groups, whose bytes lie [high, high, low, low].
template <bool kTwo>
[[gnu::always_inline]] inline void add_pair(const std::byte* x, const std::byte* panel) {
  constexpr std::size_t kLower = kTwo ? 2 * kTile : kTile;
  _tile_loadd(4, x, kLine);
  _tile_loadd(6, panel, kLine);
  _tile_dpbssd(0, 4, 6);
  if constexpr (kTwo) _tile_loadd(7, panel + kTile, kLine);
  if constexpr (kTwo) _tile_dpbssd(2, 4, 7);
  _tile_loadd(5, x + kTile, kLine);
  _tile_dpbssd(1, 5, 6);
  if constexpr (kTwo) _tile_dpbssd(3, 5, 7);
  _tile_loadd(6, panel + kLower, kLine);
  _tile_dpbssd(1, 4, 6);
  if constexpr (kTwo) _tile_loadd(7, panel + kLower + kTile, kLine);
  if constexpr (kTwo) _tile_dpbssd(3, 4, 7);
}

/// Adds one step of one or two tiles of rows, `row_tile` bytes apart, and one group.
template <bool kTwo>
[[gnu::always_inline]] inline void add_column(const std::byte* x, std::size_t row_tile,
                                              const std::byte* panel) {
  _tile_loadd(6, panel, kLine);
  _tile_loadd(4, x, kLine);
  _tile_dpbssd(0, 4, 6);
  if constexpr (kTwo) _tile_loadd(5, x + row_tile, kLine);
  if constexpr (kTwo) _tile_dpbssd(2, 5, 6);
  _tile_loadd(7, panel + kTile, kLine);
  _tile_dpbssd(1, 4, 7);
  if constexpr (kTwo) _tile_dpbssd(3, 5, 7);
  _tile_loadd(4, x + kTile, kLine);
  _tile_dpbssd(1, 4, 6);
  if constexpr (kTwo) _tile_loadd(5, x + row_tile + kTile, kLine);
  if constexpr (kTwo) _tile_dpbssd(3, 5, 6);
}

template <bool kTwo>
[[gnu::always_inline]] inline void zero_sums() {
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (kTwo) _tile_zero(2);
  if constexpr (kTwo) _tile_zero(3);
}

template <bool kTwo>
[[gnu::always_inline]] inline void keep_sums(std::int32_t* to) {
  _tile_stored(0, to, kLine);
  _tile_stored(1, to + 256, kLine);
  if constexpr (kTwo) _tile_stored(2, to + 512, kLine);
  if constexpr (kTwo) _tile_stored(3, to + 768, kLine);
}

template <bool kTwo>
[[gnu::always_inline]] inline void take_sums(const std::int32_t* from) {
  _tile_loadd(0, from, kLine);
  _tile_loadd(1, from + 256, kLine);
  if constexpr (kTwo) _tile_loadd(2, from + 512, kLine);
  if constexpr (kTwo) _tile_loadd(3, from + 768, kLine);
}

/// Calls make(s) for all steps, each one before multiply(s): a tile cannot be loaded from stores that have
/// not reached the cache.
template <class Make, class Multiply>
[[gnu::always_inline]] inline void make_and_multiply(std::size_t steps, Make&& make, Multiply&& multiply) {
  make(0);
  for (std::size_t s = 0; s < steps; ++s) {
    if (s + 1 < steps) make(s + 1);
    multiply(s);
  }
}

/// Makes a step of `kGroups` groups from `group` on: [high of each, low of each]. Of the last step's second
/// block there may be none; it is multiplied by zeros.
template <Storage kStorage, bool kHasMin, std::size_t kGroups>
[[gnu::always_inline]] inline void make_step(const MatmulTask& task,
                                             const Unpacker<kStorage, kHasMin>& unpacker,
                                             const GroupScales* scales, std::size_t group, std::size_t step,
                                             std::byte* to) {
  constexpr std::size_t kTileBytes = Unpacker<kStorage, kHasMin>::kTileBytes;
  const std::size_t blocks = task.cols / kBlockCols;
  for (std::size_t b = 2 * step; b < 2 * step + 2 && b < blocks; ++b) {
    for (std::size_t g = 0; g < kGroups; ++g) {
      const std::byte* tile = group_at(task, group + g) + b * kTileBytes;
      fetch_ahead<kTileBytes>(tile);
      unpacker.template make<kGroups * kTile>(tile, scales[g], to + g * kTile + b % 2 * (kTile / 2));
    }
  }
}

/// Up to 16 rows times one or two groups.
template <Storage kStorage, bool kHasMin, bool kTwo>
void few_rows(const MatmulTask& task, const Unpacker<kStorage, kHasMin>& unpacker, std::size_t group) {
  constexpr std::size_t kGroups = kTwo ? 2 : 1;
  const GroupScales scales[] = {{task, group}, {task, group + kGroups - 1}};
  const auto ring = [&](std::size_t s) { return task.panel + s % 2 * kPairStep; };
  zero_sums<kTwo>();
  make_and_multiply(
      steps_of(task),
      [&](std::size_t s) {
        make_step<kStorage, kHasMin, kGroups>(task, unpacker, scales, group, s, ring(s));
      },
      [&](std::size_t s) { add_pair<kTwo>(task.rounded + s * kRowStep, ring(s)); });
  alignas(64) std::int32_t sums[kWaiting];
  keep_sums<kTwo>(sums);
  finish_sums(task, 0, group, scales[0], sums);
  if constexpr (kTwo) finish_sums(task, 0, group + 1, scales[1], sums + kWaiting / 2);
}

template <Storage kStorage, bool kHasMin>
void product_of_few(const MatmulTask& task, const Unpacker<kStorage, kHasMin>& unpacker) {
  configure_tiles(task.rows, task.rows);
  std::size_t group = 0;
  for (; group + 2 <= groups_of(task); group += 2) few_rows<kStorage, kHasMin, true>(task, unpacker, group);
  if (group < groups_of(task)) few_rows<kStorage, kHasMin, false>(task, unpacker, group);
}

/// The outputs of one group for one or two tiles of rows.
template <bool kTwo>
void finish_column(const MatmulTask& task, std::size_t row, std::size_t group, const GroupScales& scales) {
  alignas(64) std::int32_t sums[kWaiting];
  keep_sums<kTwo>(sums);
  finish_sums(task, row, group, scales, sums);
  if constexpr (kTwo) finish_sums(task, row + kTileRows, group, scales, sums + kWaiting / 2);
}

/// Some tiles of rows, one group at a time: the first two have its weights made, the others take them.
template <Storage kStorage, bool kHasMin>
void product_of_some(const MatmulTask& task, const Unpacker<kStorage, kHasMin>& unpacker) {
  const std::size_t steps = steps_of(task), row_tile = rounded_tile_bytes(task.cols);
  configure_tiles(kTileRows, task.rows < 2 * kTileRows ? task.rows - kTileRows : kTileRows);
  for (std::size_t group = 0; group < groups_of(task); ++group) {
    const GroupScales scales(task, group);
    zero_sums<true>();
    make_and_multiply(
        steps,
        [&](std::size_t s) {
          make_step<kStorage, kHasMin, 1>(task, unpacker, &scales, group, s, task.panel + s * kGroupStep);
        },
        [&](std::size_t s) {
          add_column<true>(task.rounded + s * kRowStep, row_tile, task.panel + s * kGroupStep);
        });
    finish_column<true>(task, 0, group, scales);
    for (std::size_t row = 2 * kTileRows; row < task.rows; row += 2 * kTileRows) {
      const std::byte* x = task.rounded + row / kTileRows * row_tile;
      if (row + kTileRows < task.rows) {
        zero_sums<true>();
        for (std::size_t s = 0; s < steps; ++s)
          add_column<true>(x + s * kRowStep, row_tile, task.panel + s * kGroupStep);
        finish_column<true>(task, row, group, scales);
      } else {
        zero_sums<false>();
        for (std::size_t s = 0; s < steps; ++s)
          add_column<false>(x + s * kRowStep, row_tile, task.panel + s * kGroupStep);
        finish_column<false>(task, row, group, scales);
      }
    }
  }
}

/// Rows [first_row, last_row) of one slab times one or two groups. A panel is made of as many columns as
/// leave room for the rows in the first-level cache: what limits this is reading both from the second.
template <Storage kStorage, bool kHasMin, bool kTwo>
void multiply_slab(const MatmulTask& task, const Unpacker<kStorage, kHasMin>& unpacker, std::size_t group,
                   std::size_t first_row, std::size_t last_row) {
  constexpr std::size_t kGroups = kTwo ? 2 : 1, kStep = kGroups * kGroupStep;
  const std::size_t steps = steps_of(task), row_tile = rounded_tile_bytes(task.cols);
  const GroupScales scales[] = {{task, group}, {task, group + kGroups - 1}};
  auto* const all_waiting = reinterpret_cast<std::int32_t*>(task.panel + kPanelSteps * kPairStep);
  alignas(64) std::int32_t sums[kWaiting];
  for (std::size_t begin = 0; begin < steps; begin += kPanelSteps) {
    const std::size_t end = begin + kPanelSteps < steps ? begin + kPanelSteps : steps;
    for (std::size_t s = begin; s < end; ++s)
      make_step<kStorage, kHasMin, kGroups>(task, unpacker, scales, group, s,
                                            task.panel + (s - begin) * kStep);
    for (std::size_t row = first_row; row < last_row; row += kTileRows) {
      const std::byte* x = task.rounded + row / kTileRows * row_tile;
      std::int32_t* const waiting = all_waiting + (row - first_row) / kTileRows * kWaiting;
      if (end == steps && !streams_out(task)) fetch_outputs(task, row, group, kGroups);
      if (begin == 0) {
        zero_sums<kTwo>();
      } else {
        take_sums<kTwo>(waiting);
      }
      for (std::size_t s = begin; s < end; ++s)
        add_pair<kTwo>(x + s * kRowStep, task.panel + (s - begin) * kStep);
      if (end < steps) {
        keep_sums<kTwo>(waiting);
        continue;
      }
      keep_sums<kTwo>(sums);
      finish_sums(task, row, group, scales[0], sums);
      if constexpr (kTwo) finish_sums(task, row, group + 1, scales[1], sums + kWaiting / 2);
    }
  }
}

template <Storage kStorage, bool kHasMin>
void product_of_many(const MatmulTask& task, const Unpacker<kStorage, kHasMin>& unpacker) {
  configure_tiles(kTileRows, kTileRows);
  for (std::size_t row = 0; row < task.rows; row += kSlabRows) {
    const std::size_t last = row + kSlabRows < task.rows ? row + kSlabRows : task.rows;
    std::size_t group = 0;
    for (; group + 2 <= groups_of(task); group += 2)
      multiply_slab<kStorage, kHasMin, true>(task, unpacker, group, row, last);
    if (group < groups_of(task)) multiply_slab<kStorage, kHasMin, false>(task, unpacker, group, row, last);
  }
}

template <Storage kStorage, bool kHasMin>
void product(const MatmulTask& task) {
  const Unpacker<kStorage, kHasMin> unpacker(task);
  if (task.rows <= kTileRows) {
    product_of_few<kStorage, kHasMin>(task, unpacker);
  } else if (task.rows <= 4 * kTileRows) {
    product_of_some<kStorage, kHasMin>(task, unpacker);
  } else {
    product_of_many<kStorage, kHasMin>(task, unpacker);
  }
  if (streams_out(task)) _mm_sfence();
  _tile_release();  // a thread without tiles in use is cheaper to switch
}

/// The largest magnitude, as bits: NaN is above infinity is above all numbers.
__m512i largest_bits(const float* x, std::size_t cols) {
  __m512i largest[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  for (std::size_t k = 0; k < cols; k += kBlockCols) {
    for (std::size_t i = 0; i < 2; ++i) {
      const __m512i bits = _mm512_and_si512(_mm512_loadu_si512(x + k + 16 * i), magnitude);
      largest[i] = _mm512_max_epu32(largest[i], bits);
    }
  }
  return _mm512_max_epu32(largest[0], largest[1]);
}

/// 16 activations as integers; of those past the last column none.
[[gnu::always_inline]] inline __m512i integers(const float* x, std::size_t at, std::size_t cols,
                                               __m512 scale) {
  if (at >= cols) return _mm512_setzero_si512();
  return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + at), scale));
}

/// Upper bytes every kRowStep bytes, lower ones kTile behind them, and behind all the scale.
void round_row(const float* x, std::size_t cols, std::byte* rounded) {
  const float largest = __builtin_bit_cast(float, _mm512_reduce_max_epu32(largest_bits(x, cols)));
  constexpr float kLeast = 0x1p-100f;  // below, a row counts as zeros
  const bool finite = largest <= __FLT_MAX__;
  const __m512 scale = _mm512_set1_ps(finite && largest > kLeast ? kLargestActivation / largest : 0);
  // Packing goes by lanes of 128 bits: fours of each of its sources, one after the other.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i half = _mm512_set1_epi16(128), low = _mm512_set1_epi16(255);
  for (std::size_t k = 0; k < cols; k += kStepCols, rounded += kRowStep) {
    const __m512i a = _mm512_packs_epi32(integers(x, k, cols, scale), integers(x, k + 16, cols, scale));
    const __m512i b = _mm512_packs_epi32(integers(x, k + 32, cols, scale), integers(x, k + 48, cols, scale));
    const __m512i upper = _mm512_packs_epi16(_mm512_srai_epi16(_mm512_add_epi16(a, half), 8),
                                             _mm512_srai_epi16(_mm512_add_epi16(b, half), 8));
    const __m512i lower = _mm512_packus_epi16(_mm512_and_si512(a, low), _mm512_and_si512(b, low));
    _mm512_store_si512(rounded, _mm512_permutexvar_epi32(order, upper));
    _mm512_store_si512(rounded + kTile, _mm512_permutexvar_epi32(order, lower));
  }
  *reinterpret_cast<float*>(rounded) = finite ? largest / kLargestActivation : __builtin_nanf("");
}

}  // namespace

constinit const MatmulKernels kAmxMatmulKernels = {
    .u4 = product<Storage::kU4, false>,
    .u4_min = product<Storage::kU4, true>,
    .u8 = product<Storage::kU8, false>,
    .u8_min = product<Storage::kU8, true>,
    .round_row = round_row,
    .finishes = true,
};

}  // namespace spillway::gpu::host
