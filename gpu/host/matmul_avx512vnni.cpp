// SPDX-License-Identifier: Apache-2.0
// The matrix kernels with AVX-512 VNNI. A vector's 16 lanes are 16 output rows; activations are broadcast
// from memory, so no lane is ever summed with another. Eight activation rows are taken per pass over three
// groups: what is widened serves eight rows and what is broadcast three groups. The 24 integer sums fill the
// registers; the float sums, touched once a block, stay in memory.
//
// For a block of 32 columns, 16 outputs and one activation row this is 16 dot products (of two columns a
// lane), 1 conversion and 1 or 2 multiply-adds: where dot products and multiply-adds share their units (Zen
// 4), 16/18 (with stored minimum) or 16/17 of the dot product peak is the limit.

#include <immintrin.h>

#include "gpu/host/matmul_avx512.inl"

namespace spillway::gpu::host {

namespace {

const QuantizedBlock& block_at(const std::byte* from) {
  return *reinterpret_cast<const QuantizedBlock*>(from);
}
float scale_at(const std::byte* from) {
  float scale;
  __builtin_memcpy(&scale, from, sizeof scale);
  return scale;
}

/// Two columns' activations, for every lane.
[[gnu::always_inline]] inline __m512i broadcast_pair(const std::int16_t* values) {
  int pair;
  __builtin_memcpy(&pair, values, sizeof pair);
  return _mm512_set1_epi32(pair);
}

/// dot += the products of two columns of weights with those of kRows activation rows; the next row's lie
/// `stride` bytes further.
template <std::size_t kRows, std::size_t kGroups>
[[gnu::always_inline]] inline void add_pair(const __m512i (&weights)[kGroups], const std::byte* x,
                                            std::size_t stride, std::size_t at,
                                            __m512i (&dot)[kGroups][kRows]) {
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
    const __m512i values = broadcast_pair(block_at(x + r * stride).values + at);
#pragma GCC unroll 3
    for (std::size_t g = 0; g < kGroups; ++g) {
      dot[g][r] = _mm512_dpwssd_epi32(dot[g][r], weights[g], values);
    }
  }
}

/// One block's dot products.
template <Storage kStorage, std::size_t kRows, std::size_t kGroups>
[[gnu::always_inline]] inline void add_dots(const std::byte* tile, std::size_t group_bytes,
                                            const std::byte* x, std::size_t stride,
                                            __m512i (&dot)[kGroups][kRows]) {
  const __m512i bytes = _mm512_set1_epi16(255), nibbles = _mm512_set1_epi16(15);
  constexpr std::size_t kLines = kStorage == Storage::kU4 ? 4 : 8;
#pragma GCC unroll 8
  for (std::size_t j = 0; j < kLines; ++j) {
    __m512i stored[kGroups], weights[kGroups];
    const auto each_group = [&](auto&& widen) {
#pragma GCC unroll 3
      for (std::size_t g = 0; g < kGroups; ++g) weights[g] = widen(stored[g]);
    };
#pragma GCC unroll 3
    for (std::size_t g = 0; g < kGroups; ++g) stored[g] = _mm512_loadu_si512(tile + g * group_bytes + 64 * j);
    if constexpr (kStorage == Storage::kU8) {
      each_group([&](__m512i v) { return _mm512_and_si512(v, bytes); });
      add_pair<kRows, kGroups>(weights, x, stride, 4 * j, dot);
      each_group([&](__m512i v) { return _mm512_srli_epi16(v, 8); });
      add_pair<kRows, kGroups>(weights, x, stride, 4 * j + 2, dot);
    } else {
      each_group([&](__m512i v) { return _mm512_and_si512(v, nibbles); });
      add_pair<kRows, kGroups>(weights, x, stride, 4 * j, dot);
      each_group([&](__m512i v) { return _mm512_and_si512(_mm512_srli_epi16(v, 8), nibbles); });
      add_pair<kRows, kGroups>(weights, x, stride, 4 * j + 2, dot);
      each_group([&](__m512i v) { return _mm512_and_si512(_mm512_srli_epi16(v, 4), nibbles); });
      add_pair<kRows, kGroups>(weights, x, stride, 16 + 4 * j, dot);
      each_group([&](__m512i v) { return _mm512_srli_epi16(v, 12); });
      add_pair<kRows, kGroups>(weights, x, stride, 16 + 4 * j + 2, dot);
    }
  }
}

struct Pass {
  static constexpr std::size_t kRows = 8;

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
    for (std::size_t b = 0; b < blocks; ++b, tile += kTileBytes, x += sizeof(QuantizedBlock)) {
      ahead.fetch();
      if constexpr (kRowCount * kGroups > 12) __asm__ volatile("" : "+m"(sum));  // registers are for integers
      __m512i dot[kGroups][kRowCount];
#pragma GCC unroll 8
      for (std::size_t r = 0; r < kRowCount; ++r) {
        __m512i zero = _mm512_setzero_si512();
        if constexpr (!kHasMin) {
          zero = _mm512_sll_epi32(_mm512_set1_epi32(block_at(x + r * stride).negative_sum), zero_shift);
        }
#pragma GCC unroll 3
        for (std::size_t g = 0; g < kGroups; ++g) dot[g][r] = zero;
      }
      add_dots<kStorage, kRowCount, kGroups>(tile, group_bytes, x, stride, dot);
#pragma GCC unroll 3
      for (std::size_t g = 0; g < kGroups; ++g) {
        const auto* scales = reinterpret_cast<const __m256i*>(tile + g * group_bytes + kQuantBytes);
        const __m512 d = _mm512_cvtph_ps(_mm256_loadu_si256(scales));
#pragma GCC unroll 8
        for (std::size_t r = 0; r < kRowCount; ++r) {
          sum[g][r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[g][r]), d, sum[g][r]);
        }
        if constexpr (kHasMin) {
          const __m512 m = _mm512_cvtph_ps(_mm256_loadu_si256(scales + 1));
#pragma GCC unroll 8
          for (std::size_t r = 0; r < kRowCount; ++r) {
            sum[g][r] = _mm512_fmadd_ps(m, _mm512_set1_ps(block_at(x + r * stride).sum), sum[g][r]);
          }
        }
      }
    }
    for (std::size_t r = 0; r < kRowCount; ++r) {
      const __m512 scale = _mm512_set1_ps(scale_at(x + r * stride));
      for (std::size_t g = 0; g < kGroups; ++g) {
        store_outputs(task, first_row + r, first_group + g, _mm512_mul_ps(sum[g][r], scale));
      }
    }
  }
};

/// The largest magnitude; as integers they order like floats, and NaN ranks above infinity: it ends in the
/// scale, not unseen.
float largest_magnitude(const float* x, std::size_t cols) {
  const __m512i magnitude_bits = _mm512_set1_epi32(0x7fffffff);
  __m512i largest[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
  for (std::size_t at = 0; at < cols; at += kBlockCols) {
    for (std::size_t half = 0; half < 2; ++half) {
      const __m512i bits = _mm512_loadu_si512(x + at + 16 * half);
      largest[half] = _mm512_max_epu32(largest[half], _mm512_and_si512(bits, magnitude_bits));
    }
  }
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(
      static_cast<int>(_mm512_reduce_max_epu32(_mm512_max_epu32(largest[0], largest[1]))))));
}

void quantize_row(const float* x, std::size_t cols, std::byte* row) {
  auto* blocks = reinterpret_cast<QuantizedBlock*>(row);
  const float amax = largest_magnitude(x, cols);
  const bool zero = amax < kLeastMagnitude;  // false for NaN
  const __m512 inverse = _mm512_set1_ps(zero ? 0.0f : kLargestQuantized / amax);
  for (std::size_t b = 0; b < cols / kBlockCols; ++b, x += kBlockCols) {
    __m512i q[2];
    for (std::size_t half = 0; half < 2; ++half) {
      q[half] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16 * half), inverse));
      __m256i words = _mm512_cvtepi32_epi16(q[half]);
      words = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(words, 0xd8), 0xd8);  // each four as 0 2 1 3
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(blocks[b].values + 16 * half), words);
    }
    const int sum = _mm512_reduce_add_epi32(_mm512_add_epi32(q[0], q[1]));
    blocks[b].sum = static_cast<float>(sum);
    blocks[b].negative_sum = static_cast<int>(0u - static_cast<unsigned>(sum));  // NaN gives INT_MIN
  }
  const float scale = zero ? 0.0f : amax * (1.0f / kLargestQuantized);
  __builtin_memcpy(blocks + cols / kBlockCols, &scale, sizeof scale);
}

template <Storage kStorage>
__m512 load_weights(const std::byte* from) {
  if constexpr (kStorage == Storage::kF32) {
    return _mm512_loadu_ps(from);
  } else {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    if constexpr (kStorage == Storage::kF16) return _mm512_cvtph_ps(halves);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
}

/// kRows activation rows times kGroups groups at once: enough independent sums to hide the latency.
template <Storage kStorage, std::size_t kRows, std::size_t kGroups>
void float_groups(const MatmulTask& task, std::size_t first_row, std::size_t group) {
  constexpr std::size_t kColumnBytes = kGroupRows * (kStorage == Storage::kF32 ? 4 : 2);
  const std::byte* weights = task.groups + group * task.group_bytes;
  const float* x = task.x + first_row * task.x_stride;
  __m512 sum[kGroups][kRows];
  for (std::size_t g = 0; g < kGroups; ++g) {
    for (std::size_t r = 0; r < kRows; ++r) sum[g][r] = _mm512_setzero_ps();
  }
  for (std::size_t k = 0; k < task.cols; ++k, weights += kColumnBytes, ++x) {
    __m512 w[kGroups];
    for (std::size_t g = 0; g < kGroups; ++g) {
      if constexpr (kRows == 1) {
        _mm_prefetch(reinterpret_cast<const char*>(weights + g * task.group_bytes + 2048), _MM_HINT_T0);
      }
      w[g] = load_weights<kStorage>(weights + g * task.group_bytes);
    }
    for (std::size_t r = 0; r < kRows; ++r) {
      const __m512 value = _mm512_set1_ps(x[r * task.x_stride]);
      for (std::size_t g = 0; g < kGroups; ++g) sum[g][r] = _mm512_fmadd_ps(w[g], value, sum[g][r]);
    }
  }
  for (std::size_t g = 0; g < kGroups; ++g) {
    for (std::size_t r = 0; r < kRows; ++r) store_outputs(task, first_row + r, group + g, sum[g][r]);
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
  for (; row + 8 <= task.rows; row += 8) float_pass<kStorage, 8, 2>(task, row);
  for (; row + 4 <= task.rows; row += 4) float_pass<kStorage, 4, 2>(task, row);
  for (; row + 2 <= task.rows; row += 2) float_pass<kStorage, 2, 4>(task, row);
  for (; row < task.rows; ++row) float_pass<kStorage, 1, 8>(task, row);
}

}  // namespace

constinit const MatmulKernels kAvx512VnniMatmulKernels = {
    .u4 = quantized_product<Pass, Storage::kU4, false>,
    .u4_min = quantized_product<Pass, Storage::kU4, true>,
    .u8 = quantized_product<Pass, Storage::kU8, false>,
    .u8_min = quantized_product<Pass, Storage::kU8, true>,
    .f32 = float_product<Storage::kF32>,
    .f16 = float_product<Storage::kF16>,
    .bf16 = float_product<Storage::kBF16>,
    .quantize_row = quantize_row,
};

}  // namespace spillway::gpu::host
