// SPDX-License-Identifier: Apache-2.0

// What the prompt kernels of every target share: panels and rounding. Needs AVX-512 BF16.

#pragma once

#include <immintrin.h>

#include "gpu/host/matmul_kernels.hpp"
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

/// 32 floats, rounded.
[[gnu::always_inline]] inline __m512i rounded32(const float* x) {
  return (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + 16), _mm512_loadu_ps(x));
}

void round_row(const float* x, std::size_t cols, std::byte* rounded) {
  for (std::size_t k = 0; k < cols; k += kBlockCols) _mm512_store_si512(rounded + 2 * k, rounded32(x + k));
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
