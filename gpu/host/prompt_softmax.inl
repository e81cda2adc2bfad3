// SPDX-License-Identifier: Apache-2.0

// Scores of prompt tokens to probabilities in bfloat16, a partition of a row at a time, in the scores' own
// memory. Needs AVX-512 BF16.

#pragma once

#include "gpu/host/attention_rows.inl"
#include "gpu/host/prompt_panel.inl"

namespace spillway::gpu::host {
namespace {

/// 2^x for x <= 0 and -infinity, to 9e-5 relative: the result is rounded to bfloat16, whose step is 4e-3.
SPW_INLINE __m512 exp2_rounded(__m512 x) {
  const __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);  // in [0, 1)
  __m512 y = _mm512_set1_ps(0.07706762f);
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0.22764436f));
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0.69511693f));
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(y, x);  // by 2^floor(x)
}

/// Which of the 16 slots from `slot` on a row attends to.
SPW_INLINE __mmask16 lanes_within(SlotRange range, std::uint32_t slot) {
  const std::uint32_t lo = range.begin > slot ? range.begin - slot : 0;
  const std::uint32_t hi = range.end > slot ? range.end - slot : 0;
  const std::uint32_t below_hi = hi >= 16 ? 0xffffu : (1u << hi) - 1u;
  return static_cast<__mmask16>(lo >= 16 ? 0 : below_hi & ~((1u << lo) - 1u));
}

/// Every lane the largest, or the sum, of all.
SPW_INLINE __m512 max_everywhere(__m512 x) {
  x = _mm512_max_ps(x, _mm512_shuffle_f32x4(x, x, 0x4e));
  x = _mm512_max_ps(x, _mm512_shuffle_f32x4(x, x, 0xb1));
  x = _mm512_max_ps(x, _mm512_permute_ps(x, 0x4e));
  return _mm512_max_ps(x, _mm512_permute_ps(x, 0xb1));
}
SPW_INLINE __m512 sum_everywhere(__m512 x) {
  x = _mm512_add_ps(x, _mm512_shuffle_f32x4(x, x, 0x4e));
  x = _mm512_add_ps(x, _mm512_shuffle_f32x4(x, x, 0xb1));
  x = _mm512_add_ps(x, _mm512_permute_ps(x, 0x4e));
  return _mm512_add_ps(x, _mm512_permute_ps(x, 0xb1));
}

/// soften_rounded of rows that all attend to their whole partition, in halves, while the largest score of the
/// next row is looked for: as much as a processor does beside a step of tile products, and nothing in it
/// waits for long.
struct WholeRows {
  __m512 reference, top, sum_low, sum_high;

  /// Before the first row.
  void begin(const float* row) {
    top = _mm512_set1_ps(kMinusInfinity);
    look(row);
    look(row + kPartitionSlots / 2);
    reference = max_everywhere(top);
  }
  /// Half `kHalf` of a row. `next` is the row after it, or of the last row any scores.
  template <std::uint32_t kHalf>
  [[gnu::noinline]] void soften(float* row, const float* next, float* maximum, float* total) {
    constexpr std::uint32_t kBlocks = kPartitionSlots / 64;
    const __m512 off = reference;
    __m512 low_sum = kHalf == 0 ? _mm512_setzero_ps() : sum_low, high_sum = kHalf == 0 ? low_sum : sum_high;
#pragma GCC unroll 4
    for (std::uint32_t b = kHalf * kBlocks; b < (kHalf + 1) * kBlocks; ++b) {
      const __m512 low = exp2_rounded(_mm512_sub_ps(_mm512_load_ps(row + 32 * b), off));
      const __m512 high = exp2_rounded(_mm512_sub_ps(_mm512_load_ps(row + 32 * b + 16), off));
      low_sum = _mm512_add_ps(low_sum, low);
      high_sum = _mm512_add_ps(high_sum, high);
      // what is written lies before what is still to be read
      _mm512_store_si512(reinterpret_cast<std::byte*>(row) + b * kRowBlock,
                         (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
    if constexpr (kHalf == 0) {
      sum_low = low_sum, sum_high = high_sum;
      top = _mm512_set1_ps(kMinusInfinity);
      look(next);
    } else {
      look(next + kPartitionSlots / 2);
      *maximum = _mm512_cvtss_f32(off);
      *total = _mm512_cvtss_f32(sum_everywhere(_mm512_add_ps(low_sum, high_sum)));
      reference = max_everywhere(top);
    }
  }

 private:
  SPW_INLINE void look(const float* scores) {
    __m512 a = _mm512_load_ps(scores), b = _mm512_load_ps(scores + 16);
#pragma GCC unroll 3
    for (std::uint32_t i = 32; i < kPartitionSlots / 2; i += 32) {
      a = _mm512_max_ps(a, _mm512_load_ps(scores + i));
      b = _mm512_max_ps(b, _mm512_load_ps(scores + i + 16));
    }
    top = _mm512_max_ps(top, _mm512_max_ps(a, b));
  }
};

/// Turns a row's scores into bfloat16 probabilities 2^(s - max) in the row's own memory, in blocks [b0, b1)
/// of 32 slots; slots outside its range become 0, whatever their scores are.
void soften_rounded(float* row, SlotRange range, std::uint32_t b0, std::uint32_t b1, float* maximum,
                    float* total) {
  auto* out = reinterpret_cast<std::byte*>(row);
  *maximum = kMinusInfinity;
  *total = 0;
  if (range.begin == range.end) {
    for (std::uint32_t b = b0; b < b1; ++b) _mm512_store_si512(out + b * kRowBlock, _mm512_setzero_si512());
    return;
  }
  // Blocks [r0, r1) hold attended slots, all of those in [w0, w1) are.
  const std::uint32_t r0 = range.begin / 32, r1 = (range.end + 31) / 32;
  const std::uint32_t w0 = (range.begin + 31) / 32, w1 = range.end / 32;
  __m512 top_low = _mm512_set1_ps(kMinusInfinity), top_high = top_low;
  for (std::uint32_t b = r0; b < r1; ++b) {
    const float* s = row + b * 32;
    if (b >= w0 && b < w1) {
      top_low = _mm512_max_ps(top_low, _mm512_load_ps(s));
      top_high = _mm512_max_ps(top_high, _mm512_load_ps(s + 16));
    } else {
      top_low = _mm512_mask_max_ps(top_low, lanes_within(range, b * 32), top_low, _mm512_load_ps(s));
      top_high =
          _mm512_mask_max_ps(top_high, lanes_within(range, b * 32 + 16), top_high, _mm512_load_ps(s + 16));
    }
  }
  const __m512 reference = max_everywhere(_mm512_max_ps(top_low, top_high));
  __m512 sum_low = _mm512_setzero_ps(), sum_high = sum_low;
  for (std::uint32_t b = b0; b < r0; ++b) _mm512_store_si512(out + b * kRowBlock, _mm512_setzero_si512());
  for (std::uint32_t b = r0; b < r1;
       ++b) {  // what is written of a block lies before what is still to be read
    __m512 low = exp2_rounded(_mm512_sub_ps(_mm512_load_ps(row + b * 32), reference));
    __m512 high = exp2_rounded(_mm512_sub_ps(_mm512_load_ps(row + b * 32 + 16), reference));
    if (b < w0 || b >= w1) {
      low = _mm512_maskz_mov_ps(lanes_within(range, b * 32), low);
      high = _mm512_maskz_mov_ps(lanes_within(range, b * 32 + 16), high);
    }
    sum_low = _mm512_add_ps(sum_low, low);
    sum_high = _mm512_add_ps(sum_high, high);
    _mm512_store_si512(out + b * kRowBlock, (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
  for (std::uint32_t b = r1; b < b1; ++b) _mm512_store_si512(out + b * kRowBlock, _mm512_setzero_si512());
  *maximum = _mm512_cvtss_f32(reference);
  *total = _mm512_cvtss_f32(sum_everywhere(_mm512_add_ps(sum_low, sum_high)));
}

}  // namespace
}  // namespace spillway::gpu::host
