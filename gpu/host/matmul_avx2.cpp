// SPDX-License-Identifier: Apache-2.0
// The matrix kernels with AVX2. A group's 16 rows are two vectors of 8 lanes. Activations are integers of 16
// bits and weights are widened to as many, two columns a lane: a multiplication of pairs (PMADDWD) and an
// addition for each 8 outputs, two columns and row of activations, exact in 32 bits.

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

const QuantizedBlock& block_at(const std::byte* from) {
  return *reinterpret_cast<const QuantizedBlock*>(from);
}
float scale_at(const std::byte* from) {
  float scale;
  __builtin_memcpy(&scale, from, sizeof scale);
  return scale;
}

/// Two columns' activations, for every lane.
[[gnu::always_inline]] inline __m256i broadcast_pair(const std::int16_t* values) {
  int pair;
  __builtin_memcpy(&pair, values, sizeof pair);
  return _mm256_set1_epi32(pair);
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

/// dot += the products of two columns of weights, of both halves of a group, with those of kRows activation
/// rows; the next row's lie `stride` bytes further.
template <std::size_t kRows>
[[gnu::always_inline]] inline void add_pair(const __m256i (&weights)[2], const std::byte* x,
                                            std::size_t stride, std::size_t at, __m256i (&dot)[2][kRows]) {
#pragma GCC unroll 4
  for (std::size_t r = 0; r < kRows; ++r) {
    const __m256i values = broadcast_pair(block_at(x + r * stride).values + at);
    for (std::size_t half = 0; half < 2; ++half) {
      dot[half][r] = _mm256_add_epi32(dot[half][r], _mm256_madd_epi16(weights[half], values));
      keep_order(dot[half][r]);
    }
  }
}

/// One block's dot products.
template <Storage kStorage, std::size_t kRows>
[[gnu::always_inline]] inline void add_dots(const std::byte* tile, const std::byte* x, std::size_t stride,
                                            __m256i (&dot)[2][kRows]) {
  const __m256i bytes = _mm256_set1_epi16(255), nibbles = _mm256_set1_epi16(15);
  constexpr std::size_t kLines = kStorage == Storage::kU4 ? 4 : 8;
#pragma GCC unroll 8
  for (std::size_t j = 0; j < kLines; ++j) {
    const __m256i stored[2] = {load(tile + 64 * j), load(tile + 64 * j + 32)};
    __m256i weights[2];
    const auto widen = [&](auto&& each) {
      for (std::size_t half = 0; half < 2; ++half) weights[half] = each(stored[half]);
    };
    if constexpr (kStorage == Storage::kU8) {
      widen([&](__m256i v) { return _mm256_and_si256(v, bytes); });
      add_pair<kRows>(weights, x, stride, 4 * j, dot);
      widen([&](__m256i v) { return _mm256_srli_epi16(v, 8); });
      add_pair<kRows>(weights, x, stride, 4 * j + 2, dot);
    } else {
      widen([&](__m256i v) { return _mm256_and_si256(v, nibbles); });
      add_pair<kRows>(weights, x, stride, 4 * j, dot);
      widen([&](__m256i v) { return _mm256_and_si256(_mm256_srli_epi16(v, 8), nibbles); });
      add_pair<kRows>(weights, x, stride, 4 * j + 2, dot);
      widen([&](__m256i v) { return _mm256_and_si256(_mm256_srli_epi16(v, 4), nibbles); });
      add_pair<kRows>(weights, x, stride, 16 + 4 * j, dot);
      widen([&](__m256i v) { return _mm256_srli_epi16(v, 12); });
      add_pair<kRows>(weights, x, stride, 16 + 4 * j + 2, dot);
    }
  }
}

/// kRows activation rows from `first_row` times one group.
template <Storage kStorage, bool kHasMin, std::size_t kRows>
void quantized_group(const MatmulTask& task, std::size_t first_row, std::size_t group,
                     std::size_t prefetch_bytes) {
  constexpr std::size_t kQuantBytes = kStorage == Storage::kU4 ? 256 : 512;
  constexpr std::size_t kTileBytes = kQuantBytes + kScaleBytes<kHasMin>;
  const std::size_t blocks = task.cols / kBlockCols;
  const std::byte* tile = task.groups + group * task.group_bytes;
  const std::size_t stride = task.quantized_stride;
  const std::byte* x = task.quantized + first_row * stride;
  const __m128i zero_shift = _mm_cvtsi32_si128(task.zero_shift);
  __m256 sum[2][kRows];
  for (auto& half : sum) {
    for (__m256& s : half) s = _mm256_setzero_ps();
  }
  for (std::size_t b = 0; b < blocks; ++b, tile += kTileBytes, x += sizeof(QuantizedBlock)) {
    if (prefetch_bytes != 0) prefetch<kTileBytes>(tile + prefetch_bytes);
    if constexpr (kRows > 2) __asm__ volatile("" : "+m"(sum));  // registers are for integers
    __m256i dot[2][kRows];
    for (std::size_t r = 0; r < kRows; ++r) {
      __m256i zero = _mm256_setzero_si256();
      if constexpr (!kHasMin) {
        zero = _mm256_sll_epi32(_mm256_set1_epi32(block_at(x + r * stride).negative_sum), zero_shift);
      }
      dot[0][r] = dot[1][r] = zero;
    }
    add_dots<kStorage, kRows>(tile, x, stride, dot);
    for (std::size_t half = 0; half < 2; ++half) {
      const __m256 d = load_halves(tile + kQuantBytes + 16 * half);
      for (std::size_t r = 0; r < kRows; ++r) {
        sum[half][r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[half][r]), d, sum[half][r]);
      }
      if constexpr (kHasMin) {
        const __m256 m = load_halves(tile + kQuantBytes + 32 + 16 * half);
        for (std::size_t r = 0; r < kRows; ++r) {
          sum[half][r] = _mm256_fmadd_ps(m, _mm256_set1_ps(block_at(x + r * stride).sum), sum[half][r]);
        }
      }
    }
  }
  for (std::size_t half = 0; half < 2; ++half) {
    for (std::size_t r = 0; r < kRows; ++r) {
      const __m256 scale = _mm256_set1_ps(scale_at(x + r * stride));
      store_outputs(task, first_row + r, group * kGroupRows + half * kHalfRows,
                    _mm256_mul_ps(sum[half][r], scale));
    }
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

/// The largest magnitude; as integers they order like floats, and NaN ranks above infinity: it ends in the
/// scale, not unseen.
float largest_magnitude(const float* x, std::size_t cols) {
  const __m256i magnitude_bits = _mm256_set1_epi32(0x7fffffff);
  __m256i v = _mm256_setzero_si256();
  for (std::size_t i = 0; i < cols; i += 8) {
    const __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(x + i));
    v = _mm256_max_epu32(v, _mm256_and_si256(bits, magnitude_bits));
  }
  v = _mm256_max_epu32(v, _mm256_permute2x128_si256(v, v, 1));
  v = _mm256_max_epu32(v, _mm256_shuffle_epi32(v, 0x4e));
  v = _mm256_max_epu32(v, _mm256_shuffle_epi32(v, 0xb1));
  return _mm256_cvtss_f32(_mm256_castsi256_ps(v));
}

int sum_of_lanes(__m256i v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
  return _mm_cvtsi128_si32(s);
}

void quantize_row(const float* x, std::size_t cols, std::byte* row) {
  auto* blocks = reinterpret_cast<QuantizedBlock*>(row);
  const float amax = largest_magnitude(x, cols);
  const bool zero = amax < kLeastMagnitude;  // false for NaN
  const __m256 inverse = _mm256_set1_ps(zero ? 0.0f : kLargestQuantized / amax);
  for (std::size_t b = 0; b < cols / kBlockCols; ++b, x += kBlockCols) {
    __m256i q[4];
    for (std::size_t i = 0; i < 4; ++i) {
      q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), inverse));
    }
    for (std::size_t i = 0; i < 2; ++i) {
      // Packing works in 128-bit halves; each four is stored as 0 2 1 3.
      __m256i words = _mm256_packs_epi32(q[2 * i], q[2 * i + 1]);
      words = _mm256_permute4x64_epi64(words, 0xd8);
      words = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(words, 0xd8), 0xd8);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(blocks[b].values + 16 * i), words);
    }
    const int sum =
        sum_of_lanes(_mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3])));
    blocks[b].sum = static_cast<float>(sum);
    blocks[b].negative_sum = static_cast<int>(0u - static_cast<unsigned>(sum));  // NaN gives INT_MIN
  }
  const float scale = zero ? 0.0f : amax * (1.0f / kLargestQuantized);
  __builtin_memcpy(blocks + cols / kBlockCols, &scale, sizeof scale);
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
