// SPDX-License-Identifier: Apache-2.0
// The matrix kernels with AVX-512 VNNI. A vector's 16 lanes are 16 output rows; activations are broadcast
// from memory, so no lane is ever summed with another. Four activation rows are taken per pass over three
// groups: what is unpacked serves four rows and what is broadcast three groups, and the 24 sums fit the
// registers.
//
// For a block of 32 columns, 16 outputs and one activation row this is 8 dot products, 1 conversion, 1
// product and 1 or 2 multiply-adds: where dot products and multiply-adds share their units (Zen 4), 8/11
// (with stored minimum) or 8/10 of the dot product peak is the limit. Activations of 16 bits double the dot
// products and add a shift.

#include <immintrin.h>

#include "gpu/host/matmul_kernels.hpp"

namespace spillway::gpu::host {

namespace {

constexpr std::size_t kRowsPerPass = 4;
/// With few rows the limit is the memory; hardware prefetchers stop at 4 KiB pages, this does not.
constexpr std::size_t kPrefetchBytes = 6144;

__mmask16 lanes_of(std::size_t outputs) {
  return outputs >= kGroupRows ? __mmask16{0xffff} : static_cast<__mmask16>((1u << outputs) - 1);
}

void store_outputs(const MatmulTask& task, std::size_t row, std::size_t group, __m512 sum) {
  const std::size_t output = group * kGroupRows;
  const __mmask16 lanes = lanes_of(task.outputs - output);
  if (task.bias != nullptr) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, task.bias + output));
  _mm512_mask_storeu_ps(task.y + row * task.y_stride + output, lanes, sum);
}

__m512i broadcast_dword(const std::int8_t* values) {
  int dword;
  __builtin_memcpy(&dword, values, sizeof dword);
  return _mm512_set1_epi32(dword);
}

/// Adds one block's products with 32 activation bytes a row; the next row's lie `row_bytes` further.
template <Storage kStorage, std::size_t kRows, std::size_t kGroups>
[[gnu::always_inline]] inline void add_dots(const std::byte* tile, std::size_t group_bytes,
                                            const std::int8_t* x, std::size_t row_bytes,
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
      const __m512i values = broadcast_dword(x + r * row_bytes + 4 * j);
      for (std::size_t g = 0; g < kGroups; ++g) dot[g][r] = _mm512_dpbusd_epi32(dot[g][r], low[g], values);
    }
    for (std::size_t r = 0; r < kRows; ++r) {
      const __m512i values = broadcast_dword(x + r * row_bytes + 16 + 4 * j);
      for (std::size_t g = 0; g < kGroups; ++g) dot[g][r] = _mm512_dpbusd_epi32(dot[g][r], high[g], values);
    }
  }
}

/// kRows activation rows from `first_row` times kGroups groups from `first_group`. Prefetches what lies
/// `prefetch_bytes` ahead, unless that is 0.
template <Storage kStorage, bool kHasMin, Precision kPrecision, std::size_t kRows, std::size_t kGroups>
void quantized_groups(const MatmulTask& task, std::size_t first_row, std::size_t first_group,
                      std::size_t prefetch_bytes) {
  constexpr std::size_t kQuantBytes = kStorage == Storage::kU4 ? 256 : 512;
  constexpr std::size_t kTileBytes = kQuantBytes + (kHasMin ? 64 : 32);
  const std::size_t blocks = task.cols / kBlockCols;
  const std::size_t group_bytes = task.group_bytes;
  const std::byte* tile = task.groups + first_group * group_bytes;
  const QuantizedBlock* x = task.quantized + first_row * blocks;
  const __m128i zero_shift = _mm_cvtsi32_si128(task.zero_shift);
  __m512 sum[kGroups][kRows];
  for (std::size_t g = 0; g < kGroups; ++g) {
    for (std::size_t r = 0; r < kRows; ++r) sum[g][r] = _mm512_setzero_ps();
  }
  for (std::size_t b = 0; b < blocks; ++b, tile += kTileBytes, ++x) {
    if (prefetch_bytes != 0) {
      for (std::size_t g = 0; g < kGroups; ++g) {
        const auto* ahead = reinterpret_cast<const char*>(tile + g * group_bytes + prefetch_bytes);
        for (std::size_t line = 0; line < kTileBytes; line += 64) _mm_prefetch(ahead + line, _MM_HINT_T0);
      }
    }
    __m512i dot[kGroups][kRows];
    for (std::size_t r = 0; r < kRows; ++r) {
      const __m512i start = kHasMin || kPrecision == Precision::kInt16
                                ? _mm512_setzero_si512()
                                : _mm512_sll_epi32(_mm512_set1_epi32(x[r * blocks].negative_sum), zero_shift);
      for (std::size_t g = 0; g < kGroups; ++g) dot[g][r] = start;
    }
    add_dots<kStorage, kRows, kGroups>(tile, group_bytes, x->values, blocks * sizeof(QuantizedBlock), dot);
    if constexpr (kPrecision == Precision::kInt16) {
      for (std::size_t r = 0; r < kRows; ++r) {
        const __m512i start =
            kHasMin ? _mm512_setzero_si512()
                    : _mm512_sll_epi32(_mm512_set1_epi32(x[r * blocks].negative_sum), zero_shift);
        for (std::size_t g = 0; g < kGroups; ++g) {
          dot[g][r] = _mm512_slli_epi32(dot[g][r], 8);
          if constexpr (!kHasMin) dot[g][r] = _mm512_add_epi32(dot[g][r], start);
        }
      }
      add_dots<kStorage, kRows, kGroups>(tile, group_bytes, x->residuals, blocks * sizeof(QuantizedBlock),
                                         dot);
    }
    for (std::size_t g = 0; g < kGroups; ++g) {
      const auto* scales = reinterpret_cast<const __m256i*>(tile + g * group_bytes + kQuantBytes);
      const __m512 d = _mm512_cvtph_ps(_mm256_loadu_si256(scales));
      for (std::size_t r = 0; r < kRows; ++r) {
        const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[g][r]), d);
        sum[g][r] = _mm512_fmadd_ps(scaled, _mm512_set1_ps(x[r * blocks].scale), sum[g][r]);
      }
      if constexpr (kHasMin) {
        const __m512 m = _mm512_cvtph_ps(_mm256_loadu_si256(scales + 1));
        for (std::size_t r = 0; r < kRows; ++r) {
          sum[g][r] = _mm512_fmadd_ps(m, _mm512_set1_ps(x[r * blocks].scaled_sum), sum[g][r]);
        }
      }
    }
  }
  for (std::size_t g = 0; g < kGroups; ++g) {
    for (std::size_t r = 0; r < kRows; ++r) store_outputs(task, first_row + r, first_group + g, sum[g][r]);
  }
}

/// Up to kRowsPerPass rows from `first_row`.
template <Storage kStorage, bool kHasMin, Precision kPrecision, std::size_t kGroups>
void quantized_pass(const MatmulTask& task, std::size_t first_row, std::size_t first_group,
                    std::size_t ahead) {
  switch (task.rows - first_row) {
    case 0:
      return;
    case 1:
      return quantized_groups<kStorage, kHasMin, kPrecision, 1, kGroups>(task, first_row, first_group, ahead);
    case 2:
      return quantized_groups<kStorage, kHasMin, kPrecision, 2, kGroups>(task, first_row, first_group, ahead);
    case 3:
      return quantized_groups<kStorage, kHasMin, kPrecision, 3, kGroups>(task, first_row, first_group, ahead);
    default:
      return quantized_groups<kStorage, kHasMin, kPrecision, 4, kGroups>(task, first_row, first_group, ahead);
  }
}

/// All rows times kGroups groups, which stay in the cache meanwhile. The first pass fetches the next groups.
template <Storage kStorage, bool kHasMin, Precision kPrecision, std::size_t kGroups>
void quantized_rows(const MatmulTask& task, std::size_t first_group) {
  std::size_t ahead = kGroups * task.group_bytes;
  for (std::size_t row = 0; row < task.rows; row += kRowsPerPass, ahead = 0) {
    quantized_pass<kStorage, kHasMin, kPrecision, kGroups>(task, row, first_group, ahead);
  }
}

template <Storage kStorage, bool kHasMin, Precision kPrecision>
void product_of(const MatmulTask& task) {
  std::size_t group = 0;
  if (task.rows <= kRowsPerPass) {  // bound by memory: read it in one stream
    for (; group < task.group_count; ++group) {
      quantized_pass<kStorage, kHasMin, kPrecision, 1>(task, 0, group, kPrefetchBytes);
    }
    return;
  }
  for (; group + kGroupsPerPass <= task.group_count; group += kGroupsPerPass) {
    quantized_rows<kStorage, kHasMin, kPrecision, kGroupsPerPass>(task, group);
  }
  switch (task.group_count - group) {
    case 1:
      return quantized_rows<kStorage, kHasMin, kPrecision, 1>(task, group);
    case 2:
      return quantized_rows<kStorage, kHasMin, kPrecision, 2>(task, group);
    default:
      return;
  }
}

template <Storage kStorage, bool kHasMin>
void quantized_product(const MatmulTask& task) {
  return task.precision == Precision::kInt16 ? product_of<kStorage, kHasMin, Precision::kInt16>(task)
                                             : product_of<kStorage, kHasMin, Precision::kInt8>(task);
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

void store_bytes(__m512i q, Precision precision, std::int8_t* values, std::int8_t* residuals) {
  __m512i upper = q, rest = _mm512_setzero_si512();
  if (precision == Precision::kInt16) {
    upper = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(128)), 8);
    rest = _mm512_sub_epi32(q, _mm512_slli_epi32(upper, 8));
  }
  _mm_storeu_si128(reinterpret_cast<__m128i*>(values), _mm512_cvtepi32_epi8(upper));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(residuals), _mm512_cvtepi32_epi8(rest));
}

void quantize_row(const float* x, std::size_t cols, Precision precision, QuantizedBlock* blocks) {
  const float top = precision == Precision::kInt16 ? 127.0f * 256.0f : 127.0f;
  const __m512i magnitude_bits = _mm512_set1_epi32(0x7fffffff);
  for (std::size_t b = 0; b < cols / kBlockCols; ++b, x += kBlockCols) {
    QuantizedBlock& block = blocks[b];
    const __m512 first = _mm512_loadu_ps(x);
    const __m512 second = _mm512_loadu_ps(x + 16);
    // As integers magnitudes order like floats, and NaN ranks above infinity: it ends in the scale, not
    // unseen.
    const __m512i largest = _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(first), magnitude_bits),
                                             _mm512_and_si512(_mm512_castps_si512(second), magnitude_bits));
    const std::uint32_t amax_bits = _mm512_reduce_max_epu32(largest);
    float amax;
    __builtin_memcpy(&amax, &amax_bits, sizeof amax);
    const bool zero = amax < 1e-30f;  // false for NaN
    const __m512 inverse = _mm512_set1_ps(zero ? 0.0f : top / amax);
    const __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(first, inverse));
    const __m512i high = _mm512_cvtps_epi32(_mm512_mul_ps(second, inverse));
    store_bytes(low, precision, block.values, block.residuals);
    store_bytes(high, precision, block.values + 16, block.residuals + 16);
    const int sum = _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
    block.scale = zero ? 0.0f : amax * (1.0f / top);
    block.scaled_sum = block.scale * static_cast<float>(sum);
    block.negative_sum = static_cast<int>(0u - static_cast<unsigned>(sum));  // NaN gives INT_MIN
    block.unused = 0;
  }
}

}  // namespace

constinit const MatmulKernels kAvx512VnniMatmulKernels = {
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
