// SPDX-License-Identifier: Apache-2.0
// Products with quantized weights with AVX-512 VNNI, of activations in 8 bits with their outliers in 16 (see
// OutlierBlock): for those who would rather have prompts a fifth sooner than 16 bits everywhere.
//
// For a block of 32 columns, 16 outputs and one activation row this is 10 dot products (two for outliers), 1
// conversion, 1 product and 1 or 2 multiply-adds: where dot products and multiply-adds share their units (Zen
// 4), 8/13 (with stored minimum) or 8/12 of the dot product peak is the limit.

#include "gpu/host/matmul_avx512.inl"

namespace spillway::gpu::host {

namespace {

const OutlierBlock& block_at(const std::byte* from) { return *reinterpret_cast<const OutlierBlock*>(from); }

__m512i broadcast_dword(const std::int8_t* values) {
  int dword;
  __builtin_memcpy(&dword, values, sizeof dword);
  return _mm512_set1_epi32(dword);
}

/// One block's dot products with the values of kRows activation rows; the next row's lie `stride`
/// bytes further.
template <Storage kStorage, std::size_t kRows, std::size_t kGroups>
[[gnu::always_inline]] inline void add_dots(const std::byte* tile, std::size_t group_bytes,
                                            const std::byte* x, std::size_t stride,
                                            __m512i (&dot)[kGroups][kRows]) {
  const __m512i low_nibbles = _mm512_set1_epi8(15);
#pragma GCC unroll 4
  for (std::size_t j = 0; j < 4; ++j) {
    __m512i low[kGroups];
    __m512i high[kGroups];
    for (std::size_t g = 0; g < kGroups; ++g) {
      low[g] = _mm512_loadu_si512(tile + g * group_bytes + 64 * j);
      if constexpr (kStorage == Storage::kU4) {
        high[g] = _mm512_and_si512(_mm512_srli_epi16(low[g], 4), low_nibbles);
        low[g] = _mm512_and_si512(low[g], low_nibbles);
      } else {
        high[g] = _mm512_loadu_si512(tile + g * group_bytes + 256 + 64 * j);
      }
    }
    for (std::size_t r = 0; r < kRows; ++r) {
      const __m512i values = broadcast_dword(block_at(x + r * stride).values + 4 * j);
      for (std::size_t g = 0; g < kGroups; ++g) dot[g][r] = _mm512_dpbusd_epi32(dot[g][r], low[g], values);
    }
    for (std::size_t r = 0; r < kRows; ++r) {
      const __m512i values = broadcast_dword(block_at(x + r * stride).values + 16 + 4 * j);
      for (std::size_t g = 0; g < kGroups; ++g) dot[g][r] = _mm512_dpbusd_epi32(dot[g][r], high[g], values);
    }
  }
}

/// The weights of the four at `at`, a byte each.
template <Storage kStorage>
[[gnu::always_inline]] inline __m512i outlier_weights(const std::byte* tile, std::size_t at) {
  if constexpr (kStorage == Storage::kU8) return _mm512_loadu_si512(tile + at);
  alignas(16) static constexpr std::uint64_t kShifts[2][2] = {{0, 0}, {4, 0}};  // upper fours: upper nibbles
  const __m128i shift = _mm_load_si128(reinterpret_cast<const __m128i*>(kShifts[at / 256]));
  return _mm512_and_si512(_mm512_srl_epi16(_mm512_loadu_si512(tile + at % 256), shift), _mm512_set1_epi8(15));
}

/// dot = 256 * the products with the rows' outliers.
template <Storage kStorage, std::size_t kRows, std::size_t kGroups>
[[gnu::always_inline]] inline void start_with_outliers(const std::byte* tile, std::size_t group_bytes,
                                                       const std::byte* x, std::size_t stride,
                                                       __m512i (&dot)[kGroups][kRows]) {
  for (std::size_t r = 0; r < kRows; ++r) {
    const OutlierBlock& block = block_at(x + r * stride);
    for (std::size_t g = 0; g < kGroups; ++g) dot[g][r] = _mm512_setzero_si512();
    for (std::size_t o = 0; o < kOutlierFours; ++o) {
      const __m512i values = broadcast_dword(block.outliers[o]);
      for (std::size_t g = 0; g < kGroups; ++g) {
        const __m512i weights = outlier_weights<kStorage>(tile + g * group_bytes, block.outlier_at[o]);
        dot[g][r] = _mm512_dpbusd_epi32(dot[g][r], weights, values);
      }
    }
    for (std::size_t g = 0; g < kGroups; ++g) dot[g][r] = _mm512_slli_epi32(dot[g][r], 8);
  }
}

struct Pass {
  static constexpr std::size_t kRows = 4;

  /// kRows activation rows from `first_row` times kGroups groups from `first_group`.
  template <Storage kStorage, bool kHasMin, std::size_t kRowCount, std::size_t kGroups>
  static void groups(const MatmulTask& task, std::size_t first_row, std::size_t first_group, Ahead& ahead) {
    constexpr std::size_t kQuantBytes = kStorage == Storage::kU4 ? 256 : 512;
    constexpr std::size_t kTileBytes = kQuantBytes + (kHasMin ? 64 : 32);
    const std::size_t blocks = task.cols / kBlockCols;
    const std::size_t group_bytes = task.group_bytes;
    const std::byte* tile = task.groups + first_group * group_bytes;
    const std::size_t stride = task.quantized_stride;
    const std::byte* x = task.quantized + first_row * stride;
    const __m128i zero_shift = _mm_cvtsi32_si128(task.zero_shift);
    __m512 sum[kGroups][kRowCount];
    for (std::size_t g = 0; g < kGroups; ++g) {
      for (std::size_t r = 0; r < kRowCount; ++r) sum[g][r] = _mm512_setzero_ps();
    }
    for (std::size_t b = 0; b < blocks; ++b, tile += kTileBytes, x += sizeof(OutlierBlock)) {
      ahead.fetch();
      __m512i dot[kGroups][kRowCount];
      start_with_outliers<kStorage, kRowCount, kGroups>(tile, group_bytes, x, stride, dot);
      if constexpr (!kHasMin) {
        for (std::size_t r = 0; r < kRowCount; ++r) {
          const __m512i zero =
              _mm512_sll_epi32(_mm512_set1_epi32(block_at(x + r * stride).negative_sum), zero_shift);
          for (std::size_t g = 0; g < kGroups; ++g) dot[g][r] = _mm512_add_epi32(dot[g][r], zero);
        }
      }
      add_dots<kStorage, kRowCount, kGroups>(tile, group_bytes, x, stride, dot);
      for (std::size_t g = 0; g < kGroups; ++g) {
        const auto* scales = reinterpret_cast<const __m256i*>(tile + g * group_bytes + kQuantBytes);
        const __m512 d = _mm512_cvtph_ps(_mm256_loadu_si256(scales));
        for (std::size_t r = 0; r < kRowCount; ++r) {
          const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[g][r]), d);
          sum[g][r] = _mm512_fmadd_ps(scaled, _mm512_set1_ps(block_at(x + r * stride).scale), sum[g][r]);
        }
        if constexpr (kHasMin) {
          const __m512 m = _mm512_cvtph_ps(_mm256_loadu_si256(scales + 1));
          for (std::size_t r = 0; r < kRowCount; ++r) {
            sum[g][r] = _mm512_fmadd_ps(m, _mm512_set1_ps(block_at(x + r * stride).sum), sum[g][r]);
          }
        }
      }
    }
    for (std::size_t g = 0; g < kGroups; ++g) {
      for (std::size_t r = 0; r < kRowCount; ++r)
        store_outputs(task, first_row + r, first_group + g, sum[g][r]);
    }
  }
};

/// The largest magnitude of each four of a block, as integers: they order like floats, and NaN ranks above
/// infinity: it ends in the scale, not unseen.
__m256i largest_of_fours(__m512 first, __m512 second) {
  const __m512i magnitude_bits = _mm512_set1_epi32(0x7fffffff);
  __m512i low = _mm512_and_si512(_mm512_castps_si512(first), magnitude_bits);
  __m512i high = _mm512_and_si512(_mm512_castps_si512(second), magnitude_bits);
  low = _mm512_max_epu32(low, _mm512_shuffle_epi32(low, _MM_PERM_CDAB));
  high = _mm512_max_epu32(high, _mm512_shuffle_epi32(high, _MM_PERM_CDAB));
  low = _mm512_max_epu32(low, _mm512_shuffle_epi32(low, _MM_PERM_BADC));
  high = _mm512_max_epu32(high, _mm512_shuffle_epi32(high, _MM_PERM_BADC));
  const __m512i one_each = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
  return _mm512_castsi512_si256(_mm512_permutex2var_epi32(low, one_each, high));
}

/// Blocks whose outliers are found at once: lanes are blocks.
constexpr std::size_t kBlocksAtOnce = 8;

/// The three largest keys of each block; a key is a magnitude with the rank of its four in the last 3 bits.
struct TopKeys {
  __m256i largest, second, third;
};

/// rows[b] holds the keys of block b.
TopKeys top_keys(const __m256i (&rows)[kBlocksAtOnce]) {
  __m256i pairs[8], quads[8];
  for (std::size_t i = 0; i < 4; ++i) {
    pairs[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
    pairs[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
  }
  for (std::size_t i = 0; i < 2; ++i) {
    for (std::size_t half = 0; half < 2; ++half) {
      const __m256i a = pairs[4 * i + half], b = pairs[4 * i + 2 + half];
      quads[4 * i + 2 * half] = _mm256_unpacklo_epi64(a, b);
      quads[4 * i + 2 * half + 1] = _mm256_unpackhi_epi64(a, b);
    }
  }
  TopKeys top{_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
  for (std::size_t four = 0; four < 8; ++four) {
    __m256i key = four < 4 ? _mm256_permute2x128_si256(quads[four], quads[four + 4], 0x20)
                           : _mm256_permute2x128_si256(quads[four - 4], quads[four], 0x31);
    const __m256i below = _mm256_min_epu32(top.largest, key);
    top.largest = _mm256_max_epu32(top.largest, key);
    const __m256i rest = _mm256_min_epu32(top.second, below);
    top.second = _mm256_max_epu32(top.second, below);
    top.third = _mm256_max_epu32(top.third, rest);
  }
  return top;
}

/// What a batch of blocks is quantized by.
struct BlockScales {
  alignas(32) float step[kBlocksAtOnce];
  alignas(32) float inverse[kBlocksAtOnce];
  alignas(32) std::uint32_t outlier[kOutlierFours][kBlocksAtOnce];  // index of the four
};

void find_scales(const float* x, std::size_t blocks, BlockScales* scales) {
  const __m256i last_bits = _mm256_set1_epi32(7);
  const __m256i ranks = _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0);
  __m256i keys[kBlocksAtOnce];
  for (std::size_t b = 0; b < kBlocksAtOnce; ++b) {
    if (b >= blocks) {
      keys[b] = ranks;
      continue;
    }
    const float* block = x + b * kBlockCols;
    const __m256i largest = largest_of_fours(_mm512_loadu_ps(block), _mm512_loadu_ps(block + 16));
    keys[b] = _mm256_or_si256(_mm256_andnot_si256(last_bits, largest), ranks);
  }
  const TopKeys top = top_keys(keys);
  const __m256 amax = _mm256_castsi256_ps(_mm256_or_si256(top.largest, last_bits));
  const __m256 rest = _mm256_castsi256_ps(_mm256_or_si256(top.third, last_bits));
  const __m256 least = _mm256_mul_ps(amax, _mm256_set1_ps(1.0f / 256.0f));
  const __mmask8 rest_rules = _mm256_cmp_ps_mask(least, rest, _CMP_LE_OQ);  // NaN wins
  const __m256 limit = _mm256_mask_blend_ps(rest_rules, least, rest);
  const __mmask8 nonzero = _mm256_cmp_ps_mask(amax, _mm256_set1_ps(1e-30f), _CMP_NLT_UQ);  // NaN too
  const __m256 top_value = _mm256_set1_ps(127.0f);
  _mm256_store_ps(scales->step, _mm256_maskz_mul_ps(nonzero, limit, _mm256_set1_ps(1.0f / 127.0f)));
  _mm256_store_ps(scales->inverse, _mm256_maskz_div_ps(nonzero, top_value, limit));
  const __m256i fours[kOutlierFours] = {top.largest, top.second};
  for (std::size_t o = 0; o < kOutlierFours; ++o) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(scales->outlier[o]),
                       _mm256_andnot_si256(fours[o], last_bits));
  }
}

void quantize_row(const float* x, std::size_t cols, std::byte* row) {
  auto* blocks = reinterpret_cast<OutlierBlock*>(row);
  const __m512i half = _mm512_set1_epi32(128);
  const std::size_t count = cols / kBlockCols;
  BlockScales scales;
  for (std::size_t b = 0; b < count; ++b, x += kBlockCols) {
    const std::size_t at = b % kBlocksAtOnce;
    if (at == 0) find_scales(x, count - b, &scales);
    OutlierBlock& block = blocks[b];
    const __m512 inverse = _mm512_set1_ps(scales.inverse[at]);
    const __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), inverse));
    const __m512i high = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16), inverse));
    _mm_store_si128(reinterpret_cast<__m128i*>(block.values), _mm512_cvtepi32_epi8(low));
    _mm_store_si128(reinterpret_cast<__m128i*>(block.values + 16), _mm512_cvtepi32_epi8(high));
    alignas(16) std::int8_t upper[kBlockCols];
    _mm_store_si128(reinterpret_cast<__m128i*>(upper),
                    _mm512_cvtepi32_epi8(_mm512_srai_epi32(_mm512_add_epi32(low, half), 8)));
    _mm_store_si128(reinterpret_cast<__m128i*>(upper + 16),
                    _mm512_cvtepi32_epi8(_mm512_srai_epi32(_mm512_add_epi32(high, half), 8)));
    for (std::size_t o = 0; o < kOutlierFours; ++o) {
      const std::uint32_t four = scales.outlier[o][at];
      __builtin_memcpy(block.outliers[o], upper + kFour * four, kFour);
      block.outlier_at[o] = static_cast<std::uint16_t>(64 * four);
    }
    const int sum = _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
    block.scale = scales.step[at];
    block.sum = block.scale * static_cast<float>(sum);
    block.negative_sum = static_cast<int>(0u - static_cast<unsigned>(sum));  // NaN gives INT_MIN
    block.unused[0] = block.unused[1] = 0;
  }
}

}  // namespace

constinit const MatmulKernels kOutlierMatmulKernels = {
    .u4 = quantized_product<Pass, Storage::kU4, false>,
    .u4_min = quantized_product<Pass, Storage::kU4, true>,
    .u8 = quantized_product<Pass, Storage::kU8, false>,
    .u8_min = quantized_product<Pass, Storage::kU8, true>,
    .quantize_row = quantize_row,
    .block_bytes = sizeof(OutlierBlock),
};

}  // namespace spillway::gpu::host
