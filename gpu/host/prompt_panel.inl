// SPDX-License-Identifier: Apache-2.0

// What the prompt kernels of every target share: panels of weights, rounding, stores. Needs AVX-512 BF16.

#include <immintrin.h>

#include "gpu/host/prompt_kernels.hpp"

namespace spillway::gpu::host {
namespace {

constexpr std::size_t kPairsPerBlock = kBlockCols / 2;
constexpr std::size_t kPanelLine = 64;  // bytes: one pair of columns of 16 outputs
constexpr std::size_t kPanelBlock = kPairsPerBlock * kPanelLine;
constexpr std::size_t kRowBlock = 2 * kBlockCols;  // bytes of a row of activations

/// 16 pairs (low, high) as bfloat16, low first.
[[gnu::always_inline]] inline __m512i pairs_of(__m512 low, __m512 high) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                                         22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(high, low));
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

/// 32 floats, rounded.
[[gnu::always_inline]] inline __m512i rounded32(const float* x) {
  return (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + 16), _mm512_loadu_ps(x));
}

void round_row(const float* x, std::size_t cols, std::byte* rounded) {
  for (std::size_t k = 0; k < cols; k += kBlockCols) _mm512_store_si512(rounded + 2 * k, rounded32(x + k));
}

[[gnu::always_inline]] inline void store_outputs(const MatmulTask& task, std::size_t row, std::size_t group,
                                                 __m512 sum) {
  const std::size_t output = group * kGroupRows, left = task.outputs - output;
  const __mmask16 lanes = left >= kGroupRows ? __mmask16{0xffff} : static_cast<__mmask16>((1u << left) - 1);
  if (task.bias != nullptr) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, task.bias + output));
  _mm512_mask_storeu_ps(task.y + row * task.y_stride + output, lanes, sum);
}

/// c[row][16 * group + lane] = sum over columns of a[row] and the panel's groups. The file that includes this
/// defines multiply_tiles(), to be called between begin_tiles() and end_tiles().
struct TileProduct {
  const std::byte* a = nullptr;  // bfloat16; memory for the padding rows must follow
  std::size_t a_row_bytes = 0;
  std::size_t rows = 0;
  const std::byte* panel = nullptr;  // of the first group
  std::size_t group_bytes = 0;
  std::size_t groups = 0;
  std::size_t blocks = 0;  // of 32 columns
  float* c = nullptr;      // 64-byte aligned, with room for the padding rows
  std::size_t c_stride = 0;
};

}  // namespace
}  // namespace spillway::gpu::host
