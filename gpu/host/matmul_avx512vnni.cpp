// SPDX-License-Identifier: Apache-2.0
// The matrix kernels with AVX-512 VNNI. A vector's 16 lanes are 16 output rows; activations are broadcast
// from memory, so no lane is ever summed with another. Four activation rows are taken per pass over three
// groups: what is unpacked serves four rows and what is broadcast three groups, and the 24 sums fit the
// registers.
//
// For a block of 32 columns, 16 outputs and one activation row this is 10 dot products (two for outliers), 1
// conversion, 1 product and 1 or 2 multiply-adds: where dot products and multiply-adds share their units (Zen
// 4), 8/13 (with stored minimum) or 8/12 of the dot product peak is the limit.

#include <immintrin.h>

#include "gpu/host/matmul_kernels.hpp"
#include "gpu/host/quantize_avx512.inl"

namespace spillway::gpu::host {

namespace {

constexpr std::size_t kRowsPerPass = 4;
/// With few rows the limit is the memory; hardware prefetchers stop at 4 KiB pages, this does not.
constexpr std::size_t kPrefetchBytes = 6144;

/// What passes fetch meanwhile: `bytes` with each block, until all has been asked for.
struct Ahead {
  const std::byte* next = nullptr;
  const std::byte* end = nullptr;
  std::size_t bytes = 0;  // whole lines

  void fetch() {
    const std::byte* stop = end - next < static_cast<std::ptrdiff_t>(bytes) ? end : next + bytes;
    for (; next < stop; next += 64) _mm_prefetch(reinterpret_cast<const char*>(next), _MM_HINT_T0);
  }
};

std::size_t whole_lines(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

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

/// One block's dot products with the values of kRows activation rows; the next row's lie `row_blocks`
/// further.
template <Storage kStorage, std::size_t kRows, std::size_t kGroups>
[[gnu::always_inline]] inline void add_dots(const std::byte* tile, std::size_t group_bytes,
                                            const QuantizedBlock* x, std::size_t row_blocks,
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
      const __m512i values = broadcast_dword(x[r * row_blocks].values + 4 * j);
      for (std::size_t g = 0; g < kGroups; ++g) dot[g][r] = _mm512_dpbusd_epi32(dot[g][r], low[g], values);
    }
    for (std::size_t r = 0; r < kRows; ++r) {
      const __m512i values = broadcast_dword(x[r * row_blocks].values + 16 + 4 * j);
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
                                                       const QuantizedBlock* x, std::size_t row_blocks,
                                                       __m512i (&dot)[kGroups][kRows]) {
  for (std::size_t r = 0; r < kRows; ++r) {
    const QuantizedBlock& block = x[r * row_blocks];
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

/// kRows activation rows from `first_row` times kGroups groups from `first_group`.
template <Storage kStorage, bool kHasMin, std::size_t kRows, std::size_t kGroups>
void quantized_groups(const MatmulTask& task, std::size_t first_row, std::size_t first_group, Ahead& ahead) {
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
    ahead.fetch();
    __m512i dot[kGroups][kRows];
    start_with_outliers<kStorage, kRows, kGroups>(tile, group_bytes, x, blocks, dot);
    if constexpr (!kHasMin) {
      for (std::size_t r = 0; r < kRows; ++r) {
        const __m512i zero = _mm512_sll_epi32(_mm512_set1_epi32(x[r * blocks].negative_sum), zero_shift);
        for (std::size_t g = 0; g < kGroups; ++g) dot[g][r] = _mm512_add_epi32(dot[g][r], zero);
      }
    }
    add_dots<kStorage, kRows, kGroups>(tile, group_bytes, x, blocks, dot);
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
template <Storage kStorage, bool kHasMin, std::size_t kGroups>
void quantized_pass(const MatmulTask& task, std::size_t first_row, std::size_t first_group, Ahead& ahead) {
  switch (task.rows - first_row) {
    case 0:
      return;
    case 1:
      return quantized_groups<kStorage, kHasMin, 1, kGroups>(task, first_row, first_group, ahead);
    case 2:
      return quantized_groups<kStorage, kHasMin, 2, kGroups>(task, first_row, first_group, ahead);
    case 3:
      return quantized_groups<kStorage, kHasMin, 3, kGroups>(task, first_row, first_group, ahead);
    default:
      return quantized_groups<kStorage, kHasMin, 4, kGroups>(task, first_row, first_group, ahead);
  }
}

/// All rows times kGroups groups, which stay in the cache meanwhile, as what comes `next` enters it.
template <Storage kStorage, bool kHasMin, std::size_t kGroups>
void quantized_rows(const MatmulTask& task, std::size_t first_group, const std::byte* next,
                    std::size_t next_bytes) {
  const std::size_t passes = (task.rows + kRowsPerPass - 1) / kRowsPerPass;
  Ahead ahead{next, next + next_bytes, whole_lines(next_bytes / (passes * (task.cols / kBlockCols)))};
  for (std::size_t row = 0; row < task.rows; row += kRowsPerPass) {
    quantized_pass<kStorage, kHasMin, kGroups>(task, row, first_group, ahead);
  }
}

/// Copies kGroups groups of 4-bit weights as kU8 tiles, one group after the other.
template <bool kHasMin>
void unpack_groups(const MatmulTask& task, std::size_t first_group, std::size_t groups) {
  constexpr std::size_t kScaleBytes = kHasMin ? 64 : 32;
  const __m512i low_nibbles = _mm512_set1_epi8(15);
  std::byte* to = task.panel;
  for (std::size_t g = first_group; g < first_group + groups; ++g) {
    const std::byte* tile = task.groups + g * task.group_bytes;
    for (std::size_t b = 0; b < task.cols / kBlockCols; ++b, tile += 256 + kScaleBytes) {
      for (std::size_t j = 0; j < 4; ++j) {
        const __m512i both = _mm512_loadu_si512(tile + 64 * j);
        _mm512_storeu_si512(to + 64 * j, _mm512_and_si512(both, low_nibbles));
        _mm512_storeu_si512(to + 256 + 64 * j, _mm512_and_si512(_mm512_srli_epi16(both, 4), low_nibbles));
      }
      __builtin_memcpy(to + 512, tile + 256, kScaleBytes);
      to += 512 + kScaleBytes;
    }
  }
}

/// All rows times kGroups groups: 4-bit weights are unpacked once for all of them.
template <Storage kStorage, bool kHasMin, std::size_t kGroups>
void many_rows(const MatmulTask& task, std::size_t first_group) {
  const std::size_t blocks = task.cols / kBlockCols;
  const std::byte* next = task.groups + (first_group + kGroups) * task.group_bytes;
  const std::size_t next_bytes = kGroups * task.group_bytes;
  if constexpr (kStorage == Storage::kU4) {
    if (task.panel != nullptr) {
      unpack_groups<kHasMin>(task, first_group, kGroups);
      MatmulTask unpacked = task;
      unpacked.groups = task.panel;
      unpacked.group_bytes = blocks * (512 + (kHasMin ? 64 : 32));
      unpacked.outputs = task.outputs - first_group * kGroupRows;
      unpacked.y = task.y + first_group * kGroupRows;
      unpacked.bias = task.bias == nullptr ? nullptr : task.bias + first_group * kGroupRows;
      return quantized_rows<Storage::kU8, kHasMin, kGroups>(unpacked, 0, next, next_bytes);
    }
  }
  quantized_rows<kStorage, kHasMin, kGroups>(task, first_group, next, next_bytes);
}

template <Storage kStorage, bool kHasMin>
void quantized_product(const MatmulTask& task) {
  std::size_t group = 0;
  const std::size_t tile_bytes = task.group_bytes / (task.cols / kBlockCols);
  if (task.rows <= kRowsPerPass) {  // bound by memory: read it in one stream
    for (; group < task.group_count; ++group) {
      const std::byte* ahead_of = task.groups + group * task.group_bytes + kPrefetchBytes;
      Ahead ahead{ahead_of, ahead_of + task.group_bytes, whole_lines(tile_bytes)};
      quantized_pass<kStorage, kHasMin, 1>(task, 0, group, ahead);
    }
    return;
  }
  for (; group + kGroupsPerPass <= task.group_count; group += kGroupsPerPass) {
    many_rows<kStorage, kHasMin, kGroupsPerPass>(task, group);
  }
  switch (task.group_count - group) {
    case 1:
      return many_rows<kStorage, kHasMin, 1>(task, group);
    case 2:
      return many_rows<kStorage, kHasMin, 2>(task, group);
    default:
      return;
  }
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
