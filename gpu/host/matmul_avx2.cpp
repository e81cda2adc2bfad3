// SPDX-License-Identifier: Apache-2.0
// The matrix kernels with AVX2. A group's 16 rows are two vectors of 8 lanes. There is no int8 quad dot
// product here; weights of 4 bits let pairs add up in 16 bits over a whole block without saturating (8 steps
// of at most 2 * 15 * 128 = 30720), and weights of 8 bits are taken as two nibbles for the same reason.

#include <immintrin.h>

#include "gpu/host/matmul_kernels.hpp"

namespace spillway::gpu::host {

namespace {

constexpr std::size_t kHalfRows = kGroupRows / 2;
constexpr std::size_t kRowsPerPass = 4;
constexpr std::size_t kPrefetchBytes = 6144;

void store_outputs(const MatmulTask& task, std::size_t row, std::size_t output, __m256 sum) {
  if (output >= task.outputs) return;
  float* y = task.y + row * task.y_stride + output;
  const std::size_t left = task.outputs - output;
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i lanes = _mm256_cmpgt_epi32(_mm256_set1_epi32(left > 8 ? 8 : static_cast<int>(left)), lane);
  if (task.bias != nullptr) sum = _mm256_add_ps(sum, _mm256_maskload_ps(task.bias + output, lanes));
  _mm256_maskstore_ps(y, lanes, sum);
}

__m256i broadcast_dword(const std::int8_t* values) {
  int dword;
  __builtin_memcpy(&dword, values, sizeof dword);
  return _mm256_set1_epi32(dword);
}

__m256i load(const std::byte* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }

__m256 load_halves(const std::byte* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

/// Sums stay where they are: left alone, g++ turns chains of integer additions into trees, and spills them.
void keep_order(__m256i& sum) { __asm__("" : "+x"(sum)); }

template <std::size_t kBytes>
void prefetch(const std::byte* from) {
  for (std::size_t line = 0; line < kBytes; line += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(from + line), _MM_HINT_T0);
  }
}

template <bool kHasMin>
constexpr std::size_t kScaleBytes = kHasMin ? 64 : 32;

/// Adds a block's integer dot products, scaled, to the sums of kRows rows and one half of a group. `scales`
/// are those of this half.
template <bool kHasMin, std::size_t kRows>
void add_block(const std::byte* scales, __m128i zero_shift, const QuantizedBlock* x, std::size_t blocks,
               const __m256i (&dot)[kRows], __m256 (&sum)[kRows]) {
  const __m256 d = load_halves(scales);
  for (std::size_t r = 0; r < kRows; ++r) {
    __m256i integer = dot[r];
    if constexpr (!kHasMin) {
      const __m256i negative_sum = _mm256_set1_epi32(x[r * blocks].negative_sum);
      integer = _mm256_add_epi32(integer, _mm256_sll_epi32(negative_sum, zero_shift));
    }
    const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(integer), d);
    sum[r] = _mm256_fmadd_ps(scaled, _mm256_set1_ps(x[r * blocks].scale), sum[r]);
  }
  if constexpr (kHasMin) {
    const __m256 m = load_halves(scales + 32);
    for (std::size_t r = 0; r < kRows; ++r) {
      sum[r] = _mm256_fmadd_ps(m, _mm256_set1_ps(x[r * blocks].scaled_sum), sum[r]);
    }
  }
}

/// dot += 256 * the sums of `pairs`: the products with outliers.
[[gnu::always_inline]] inline void add_outliers(__m256i pairs, __m256i& dot) {
  dot = _mm256_add_epi32(dot, _mm256_slli_epi32(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)), 8));
}

/// One block of 4-bit weights times 32 activations a row; the next row's lie `row_blocks` further.
template <std::size_t kRows>
[[gnu::always_inline]] inline void u4_dots(const std::byte* tile, const QuantizedBlock* x,
                                           std::size_t row_blocks, __m256i (&dot)[2][kRows]) {
  const __m256i low_nibbles = _mm256_set1_epi8(15);
  __m256i pairs[2][kRows];  // 16 bits
#pragma GCC unroll 8
  for (std::size_t j = 0; j < 8; ++j) {
    __m256i u[2];
    for (std::size_t half = 0; half < 2; ++half) {
      const __m256i both = load(tile + 64 * (j % 4) + 32 * half);
      u[half] = _mm256_and_si256(j < 4 ? both : _mm256_srli_epi16(both, 4), low_nibbles);
    }
    for (std::size_t r = 0; r < kRows; ++r) {
      const __m256i values = broadcast_dword(x[r * row_blocks].values + 4 * j);
      for (std::size_t half = 0; half < 2; ++half) {
        const __m256i pair = _mm256_maddubs_epi16(u[half], values);
        pairs[half][r] = j == 0 ? pair : _mm256_add_epi16(pairs[half][r], pair);
        keep_order(pairs[half][r]);
      }
    }
  }
  for (std::size_t half = 0; half < 2; ++half) {
    for (std::size_t r = 0; r < kRows; ++r) {
      dot[half][r] = _mm256_madd_epi16(pairs[half][r], _mm256_set1_epi16(1));
    }
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    const QuantizedBlock& block = x[r * row_blocks];
    __m256i upper[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (std::size_t o = 0; o < kOutlierFours; ++o) {
      const std::size_t at = block.outlier_at[o];
      const __m128i shift = _mm_cvtsi32_si128(static_cast<int>(at / 256 * 4));
      const __m256i values = broadcast_dword(block.outliers[o]);
      for (std::size_t half = 0; half < 2; ++half) {
        const __m256i both = load(tile + at % 256 + 32 * half);
        const __m256i u = _mm256_and_si256(_mm256_srl_epi16(both, shift), low_nibbles);
        upper[half] = _mm256_add_epi16(upper[half], _mm256_maddubs_epi16(u, values));
      }
    }
    for (std::size_t half = 0; half < 2; ++half) add_outliers(upper[half], dot[half][r]);
  }
}

/// One block of half a group of 8-bit weights times 32 activations a row.
template <std::size_t kRows>
[[gnu::always_inline]] inline void u8_dots(const std::byte* tile, const QuantizedBlock* x,
                                           std::size_t row_blocks, __m256i (&dot)[kRows]) {
  const __m256i low_nibbles = _mm256_set1_epi8(15);
  __m256i low_pairs[kRows];
  __m256i high_pairs[kRows];
#pragma GCC unroll 8
  for (std::size_t j = 0; j < 8; ++j) {
    const __m256i both = load(tile + 64 * j);
    const __m256i low = _mm256_and_si256(both, low_nibbles);
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), low_nibbles);
    for (std::size_t r = 0; r < kRows; ++r) {
      const __m256i values = broadcast_dword(x[r * row_blocks].values + 4 * j);
      const __m256i low_pair = _mm256_maddubs_epi16(low, values);
      const __m256i high_pair = _mm256_maddubs_epi16(high, values);
      low_pairs[r] = j == 0 ? low_pair : _mm256_add_epi16(low_pairs[r], low_pair);
      high_pairs[r] = j == 0 ? high_pair : _mm256_add_epi16(high_pairs[r], high_pair);
    }
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    dot[r] = _mm256_add_epi32(_mm256_madd_epi16(low_pairs[r], _mm256_set1_epi16(1)),
                              _mm256_madd_epi16(high_pairs[r], _mm256_set1_epi16(16)));
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    const QuantizedBlock& block = x[r * row_blocks];
    for (std::size_t o = 0; o < kOutlierFours; ++o) {
      const __m256i values = broadcast_dword(block.outliers[o]);
      const __m256i both = load(tile + block.outlier_at[o]);
      const __m256i low = _mm256_and_si256(both, low_nibbles);
      const __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), low_nibbles);
      const __m256i low_sums = _mm256_madd_epi16(_mm256_maddubs_epi16(low, values), _mm256_set1_epi16(1));
      const __m256i high_sums = _mm256_madd_epi16(_mm256_maddubs_epi16(high, values), _mm256_set1_epi16(16));
      dot[r] = _mm256_add_epi32(dot[r], _mm256_slli_epi32(_mm256_add_epi32(low_sums, high_sums), 8));
    }
  }
}

/// kRows activation rows from `first_row` times one group of 4-bit weights.
template <bool kHasMin, std::size_t kRows>
void u4_group(const MatmulTask& task, std::size_t first_row, std::size_t group, std::size_t prefetch_bytes) {
  constexpr std::size_t kTileBytes = 256 + kScaleBytes<kHasMin>;
  const std::size_t blocks = task.cols / kBlockCols;
  const std::byte* tile = task.groups + group * task.group_bytes;
  const QuantizedBlock* x = task.quantized + first_row * blocks;
  const __m128i zero_shift = _mm_cvtsi32_si128(task.zero_shift);
  __m256 sum[2][kRows];
  for (auto& half : sum) {
    for (__m256& s : half) s = _mm256_setzero_ps();
  }
  for (std::size_t b = 0; b < blocks; ++b, tile += kTileBytes, ++x) {
    if (prefetch_bytes != 0) prefetch<kTileBytes>(tile + prefetch_bytes);
    __m256i dot[2][kRows];
    u4_dots<kRows>(tile, x, blocks, dot);
    for (std::size_t half = 0; half < 2; ++half) {
      add_block<kHasMin>(tile + 256 + 16 * half, zero_shift, x, blocks, dot[half], sum[half]);
    }
  }
  for (std::size_t half = 0; half < 2; ++half) {
    for (std::size_t r = 0; r < kRows; ++r) {
      store_outputs(task, first_row + r, group * kGroupRows + half * kHalfRows, sum[half][r]);
    }
  }
}

/// kRows activation rows from `first_row` times one half (8 rows) of a group of 8-bit weights.
template <bool kHasMin, std::size_t kRows>
void u8_half(const MatmulTask& task, std::size_t first_row, std::size_t group, std::size_t half,
             std::size_t prefetch_bytes) {
  constexpr std::size_t kTileBytes = 512 + kScaleBytes<kHasMin>;
  const std::size_t blocks = task.cols / kBlockCols;
  const std::byte* tile = task.groups + group * task.group_bytes;
  const QuantizedBlock* x = task.quantized + first_row * blocks;
  const __m128i zero_shift = _mm_cvtsi32_si128(task.zero_shift);
  __m256 sum[kRows];
  for (__m256& s : sum) s = _mm256_setzero_ps();

  for (std::size_t b = 0; b < blocks; ++b, tile += kTileBytes, ++x) {
    if (prefetch_bytes != 0 && half == 0) prefetch<kTileBytes>(tile + prefetch_bytes);
    __m256i dot[kRows];
    u8_dots<kRows>(tile + 32 * half, x, blocks, dot);
    add_block<kHasMin>(tile + 512 + 16 * half, zero_shift, x, blocks, dot, sum);
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    store_outputs(task, first_row + r, group * kGroupRows + half * kHalfRows, sum[r]);
  }
}

template <Storage kStorage, bool kHasMin, std::size_t kRows>
void quantized_group(const MatmulTask& task, std::size_t first_row, std::size_t group, std::size_t ahead) {
  if constexpr (kStorage == Storage::kU4) {
    u4_group<kHasMin, kRows>(task, first_row, group, ahead);
  } else {
    u8_half<kHasMin, kRows>(task, first_row, group, 0, ahead);
    u8_half<kHasMin, kRows>(task, first_row, group, 1, 0);
  }
}

template <Storage kStorage, bool kHasMin>
void quantized_product(const MatmulTask& task) {
  for (std::size_t group = 0; group < task.group_count; ++group) {
    // The first pass fetches from memory, the others find the group in the cache.
    std::size_t ahead = kPrefetchBytes;
    std::size_t row = 0;
    for (; row + kRowsPerPass <= task.rows; row += kRowsPerPass, ahead = 0) {
      quantized_group<kStorage, kHasMin, kRowsPerPass>(task, row, group, ahead);
    }
    switch (task.rows - row) {
      case 1:
        quantized_group<kStorage, kHasMin, 1>(task, row, group, ahead);
        break;
      case 2:
        quantized_group<kStorage, kHasMin, 2>(task, row, group, ahead);
        break;
      case 3:
        quantized_group<kStorage, kHasMin, 3>(task, row, group, ahead);
        break;
      default:
        break;
    }
  }
}

template <Storage kStorage>
__m256 load_weights(const std::byte* from) {
  if constexpr (kStorage == Storage::kF32) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(from));
  } else if constexpr (kStorage == Storage::kF16) {
    return load_halves(from);
  } else {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }
}

/// kRows activation rows times kGroups groups at once: enough independent sums to hide the latency.
template <Storage kStorage, std::size_t kRows, std::size_t kGroups>
void float_groups(const MatmulTask& task, std::size_t first_row, std::size_t group) {
  constexpr std::size_t kSize = kStorage == Storage::kF32 ? 4 : 2;
  const std::byte* weights = task.groups + group * task.group_bytes;
  const float* x = task.x + first_row * task.x_stride;
  __m256 sum[2 * kGroups][kRows];
  for (std::size_t h = 0; h < 2 * kGroups; ++h) {
    for (std::size_t r = 0; r < kRows; ++r) sum[h][r] = _mm256_setzero_ps();
  }
  for (std::size_t k = 0; k < task.cols; ++k, weights += kGroupRows * kSize, ++x) {
    __m256 w[2 * kGroups];
    for (std::size_t h = 0; h < 2 * kGroups; ++h) {
      w[h] = load_weights<kStorage>(weights + h / 2 * task.group_bytes + h % 2 * kHalfRows * kSize);
    }
    for (std::size_t r = 0; r < kRows; ++r) {
      const __m256 value = _mm256_set1_ps(x[r * task.x_stride]);
      for (std::size_t h = 0; h < 2 * kGroups; ++h) sum[h][r] = _mm256_fmadd_ps(w[h], value, sum[h][r]);
    }
  }
  for (std::size_t h = 0; h < 2 * kGroups; ++h) {
    for (std::size_t r = 0; r < kRows; ++r) {
      store_outputs(task, first_row + r, group * kGroupRows + h * kHalfRows, sum[h][r]);
    }
  }
}

template <Storage kStorage, std::size_t kRows, std::size_t kGroups>
void float_pass(const MatmulTask& task, std::size_t first_row) {
  std::size_t group = 0;
  for (; group + kGroups <= task.group_count; group += kGroups) {
    float_groups<kStorage, kRows, kGroups>(task, first_row, group);
  }
  for (; group < task.group_count; ++group) float_groups<kStorage, kRows, 1>(task, first_row, group);
}

template <Storage kStorage>
void float_product(const MatmulTask& task) {
  std::size_t row = 0;
  for (; row + 6 <= task.rows; row += 6) float_pass<kStorage, 6, 1>(task, row);
  for (; row + 2 <= task.rows; row += 2) float_pass<kStorage, 2, 2>(task, row);
  for (; row < task.rows; ++row) float_pass<kStorage, 1, 4>(task, row);
}

/// The largest lane, in all lanes.
__m256i largest_lane(__m256i v) {
  v = _mm256_max_epu32(v, _mm256_permute2x128_si256(v, v, 1));
  v = _mm256_max_epu32(v, _mm256_shuffle_epi32(v, 0x4e));
  return _mm256_max_epu32(v, _mm256_shuffle_epi32(v, 0xb1));
}

float as_float(std::uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

/// The largest magnitude of each four of a block, as integers: they order like floats, and NaN ranks above
/// infinity: it ends in the scale, not unseen.
__m256i largest_of_fours(const __m256 (&v)[4]) {
  const __m256i magnitude_bits = _mm256_set1_epi32(0x7fffffff);
  __m256i fours[4];  // 128-bit half h of vector i holds the largest of four 2i + h, in all its lanes
  for (std::size_t i = 0; i < 4; ++i) {
    fours[i] = _mm256_and_si256(_mm256_castps_si256(v[i]), magnitude_bits);
    fours[i] = _mm256_max_epu32(fours[i], _mm256_shuffle_epi32(fours[i], 0xb1));
    fours[i] = _mm256_max_epu32(fours[i], _mm256_shuffle_epi32(fours[i], 0x4e));
  }
  // Halves now hold the fours (0 2 4 6) and (1 3 5 7).
  const __m256i pairs = _mm256_blend_epi32(fours[0], fours[1], 0x22);
  const __m256i more = _mm256_blend_epi32(fours[2], fours[3], 0x88);
  const __m256i mixed = _mm256_blend_epi32(pairs, more, 0xcc);
  return _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

int sum_of_lanes(__m256i v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
  return _mm_cvtsi128_si32(s);
}

void store_bytes(const __m256i (&q)[4], std::int8_t* bytes) {
  const __m256i words = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
  // Packing works in 128-bit halves: put the dwords back in order.
  const __m256i ordered = _mm256_permutevar8x32_epi32(words, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes), ordered);
}

void quantize_row(const float* x, std::size_t cols, QuantizedBlock* blocks) {
  const __m256i ranks = _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0);
  for (std::size_t b = 0; b < cols / kBlockCols; ++b, x += kBlockCols) {
    QuantizedBlock& block = blocks[b];
    __m256 v[4];
    for (std::size_t i = 0; i < 4; ++i) v[i] = _mm256_loadu_ps(x + 8 * i);
    __m256i keys = _mm256_or_si256(_mm256_andnot_si256(_mm256_set1_epi32(7), largest_of_fours(v)), ranks);
    std::uint32_t key[kOutlierFours + 1];
    for (std::uint32_t& k : key) {
      const __m256i largest = largest_lane(keys);
      k = static_cast<std::uint32_t>(_mm256_cvtsi256_si32(largest));
      keys = _mm256_andnot_si256(_mm256_cmpeq_epi32(keys, largest), keys);
    }
    const float amax = as_float(key[0] | 7);
    const float rest = as_float(key[kOutlierFours] | 7);
    const float least = amax * (1.0f / 256.0f);
    const float top = least <= rest ? rest : least;  // NaN wins
    const bool zero = amax < 1e-30f;                 // false for NaN
    const __m256 inverse = _mm256_set1_ps(zero ? 0.0f : 127.0f / top);
    __m256i q[4], rounded[4];
    for (std::size_t i = 0; i < 4; ++i) {
      q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
      rounded[i] = _mm256_srai_epi32(_mm256_add_epi32(q[i], _mm256_set1_epi32(128)), 8);
    }
    const int sum =
        sum_of_lanes(_mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3])));
    alignas(32) std::int8_t upper[kBlockCols];
    store_bytes(rounded, upper);
    for (std::size_t i = 0; i < 4; ++i) q[i] = _mm256_sub_epi32(q[i], _mm256_slli_epi32(rounded[i], 8));
    store_bytes(q, block.values);
    for (std::size_t o = 0; o < kOutlierFours; ++o) {
      const std::uint32_t four = 7 - (key[o] & 7);
      __builtin_memcpy(block.outliers[o], upper + kFour * four, kFour);
      block.outlier_at[o] = static_cast<std::uint16_t>(64 * four);
    }
    block.scale = zero ? 0.0f : top * (1.0f / 127.0f);
    block.scaled_sum = block.scale * static_cast<float>(sum);
    block.negative_sum = static_cast<int>(0u - static_cast<unsigned>(sum));  // NaN gives INT_MIN
    block.unused[0] = block.unused[1] = 0;
  }
}

}  // namespace

constinit const MatmulKernels kAvx2MatmulKernels = {
    .u4 = quantized_product<Storage::kU4, false>,
    .u4_min = quantized_product<Storage::kU4, true>,
    .u8 = quantized_product<Storage::kU8, false>,
    .u8_min = quantized_product<Storage::kU8, true>,
    .f32 = float_product<Storage::kF32>,
    .f16 = float_product<Storage::kF16>,
    .bf16 = float_product<Storage::kBF16>,
    .quantize_row = quantize_row,
};

}  // namespace spillway::gpu::host
