// SPDX-License-Identifier: Apache-2.0
#pragma once

// V16: sixteen fp32 lanes, for kernels that are compiled once per instruction set. Only files that are built
// with one target's flags include this (attention_avx512.cpp, rows_avx2.cpp, ...). Everything here has
// internal linkage, so that no function built for AVX-512 can be picked by the linker for a machine without
// it.
//
// SPW_VEC_TARGET: 2 = AVX-512 (F BW DQ VL), 1 = AVX2 + FMA + F16C, 0 = plain C++.
// Lane order and the order of operations are the same in every target; only fma rounds differently in target
// 0.

#include <cstddef>
#include <cstdint>
#include <cstring>

#if !defined(SPW_VEC_TARGET)
#error "SPW_VEC_TARGET must be defined by the including file"
#endif

#if SPW_VEC_TARGET > 0
#include <immintrin.h>
#endif

namespace spillway::gpu::host {
namespace {

#define SPW_INLINE inline __attribute__((always_inline))

#if SPW_VEC_TARGET == 2

struct V16 {
  __m512 v;
};
SPW_INLINE V16 zero16() { return {_mm512_setzero_ps()}; }
SPW_INLINE V16 set16(float x) { return {_mm512_set1_ps(x)}; }
SPW_INLINE V16 load16(const float* p) { return {_mm512_loadu_ps(p)}; }
SPW_INLINE void store16(float* p, V16 a) { _mm512_storeu_ps(p, a.v); }
SPW_INLINE V16 fma16(V16 a, V16 b, V16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
SPW_INLINE V16 add16(V16 a, V16 b) { return {_mm512_add_ps(a.v, b.v)}; }
SPW_INLINE V16 sub16(V16 a, V16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
SPW_INLINE V16 mul16(V16 a, V16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
SPW_INLINE V16 div16(V16 a, V16 b) { return {_mm512_div_ps(a.v, b.v)}; }
SPW_INLINE V16 max16(V16 a, V16 b) { return {_mm512_max_ps(a.v, b.v)}; }
SPW_INLINE V16 min16(V16 a, V16 b) { return {_mm512_min_ps(a.v, b.v)}; }
/// Loads of stored types, widened to fp32 (exact).
SPW_INLINE V16 load16_f16(const std::uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
SPW_INLINE V16 load16_bf16(const std::uint16_t* p) {
  const __m512i w = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(w, 16))};
}
SPW_INLINE V16 load16_i8(const std::int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
/// Round to nearest even; a finite value beyond fp16's range becomes its largest finite one.
SPW_INLINE void store16_f16(std::uint16_t* p, V16 a) {
  const __m512 limit = _mm512_set1_ps(65504.0f);
  const __m512 c = _mm512_max_ps(_mm512_min_ps(a.v, limit), _mm512_sub_ps(_mm512_setzero_ps(), limit));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(c, _MM_FROUND_TO_NEAREST_INT));
}
SPW_INLINE void store16_bf16(std::uint16_t* p, V16 a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}
SPW_INLINE void store16_i8(std::int8_t* p, V16 a) {  // nearest even, lanes already within [-127, 127]
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v)));
}
SPW_INLINE V16 round16(V16 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT)}; }
SPW_INLINE V16 abs16(V16 a) { return {_mm512_abs_ps(a.v)}; }
/// a * 2^n for integral n in [-126, 127].
SPW_INLINE V16 scale_by_power16(V16 a, V16 n) { return {_mm512_scalef_ps(a.v, n.v)}; }
/// Lane i is a's when lo <= i < hi, else b's.
SPW_INLINE V16 select_range16(int lo, int hi, V16 a, V16 b) {
  const unsigned below_hi = hi >= 16 ? 0xffffu : hi <= 0 ? 0u : (1u << hi) - 1u;
  const unsigned below_lo = lo >= 16 ? 0xffffu : lo <= 0 ? 0u : (1u << lo) - 1u;
  return {_mm512_mask_blend_ps(static_cast<__mmask16>(below_hi & ~below_lo), b.v, a.v)};
}
/// Lane is a's where x >= limit, else b's.
SPW_INLINE V16 select_ge16(V16 x, V16 limit, V16 a, V16 b) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, limit.v, _CMP_GE_OQ), b.v, a.v)};
}
/// Bit i is set where a_i > b_i; false where either is NaN.
SPW_INLINE unsigned mask_gt16(V16 a, V16 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ); }
SPW_INLINE unsigned mask_nan16(V16 a) { return _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q); }

struct V8 {
  __m256 v;
};
SPW_INLINE V8 low8(V16 a) { return {_mm512_castps512_ps256(a.v)}; }
SPW_INLINE V8 high8(V16 a) { return {_mm512_extractf32x8_ps(a.v, 1)}; }

#elif SPW_VEC_TARGET == 1

struct V16 {
  __m256 a, b;
};
SPW_INLINE V16 zero16() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
SPW_INLINE V16 set16(float x) {
  const __m256 v = _mm256_set1_ps(x);
  return {v, v};
}
SPW_INLINE V16 load16(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
SPW_INLINE void store16(float* p, V16 x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
SPW_INLINE V16 fma16(V16 x, V16 y, V16 z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
SPW_INLINE V16 add16(V16 x, V16 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
SPW_INLINE V16 sub16(V16 x, V16 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
SPW_INLINE V16 mul16(V16 x, V16 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
SPW_INLINE V16 div16(V16 x, V16 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
SPW_INLINE V16 max16(V16 x, V16 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
SPW_INLINE V16 min16(V16 x, V16 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
SPW_INLINE V16 load16_f16(const std::uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
SPW_INLINE __m256 widen_bf16(const std::uint16_t* p) {
  const __m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
}
SPW_INLINE V16 load16_bf16(const std::uint16_t* p) { return {widen_bf16(p), widen_bf16(p + 8)}; }
SPW_INLINE __m256 widen_i8(const std::int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
SPW_INLINE V16 load16_i8(const std::int8_t* p) { return {widen_i8(p), widen_i8(p + 8)}; }
SPW_INLINE __m128i narrow_f16(__m256 x) {
  const __m256 limit = _mm256_set1_ps(65504.0f);
  const __m256 c = _mm256_max_ps(_mm256_min_ps(x, limit), _mm256_sub_ps(_mm256_setzero_ps(), limit));
  return _mm256_cvtps_ph(c, _MM_FROUND_TO_NEAREST_INT);
}
SPW_INLINE void store16_f16(std::uint16_t* p, V16 x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow_f16(x.a));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), narrow_f16(x.b));
}
SPW_INLINE __m256i rounded_bf16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  return _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
}
SPW_INLINE void store16_bf16(std::uint16_t* p, V16 x) {
  const __m256i packed = _mm256_packus_epi32(rounded_bf16(x.a), rounded_bf16(x.b));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}
SPW_INLINE void store16_i8(std::int8_t* p, V16 x) {
  const __m256i words =
      _mm256_permute4x64_epi64(_mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)), 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
SPW_INLINE V16 round16(V16 x) {
  return {_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
          _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
SPW_INLINE V16 abs16(V16 x) {
  const __m256 m = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  return {_mm256_and_ps(x.a, m), _mm256_and_ps(x.b, m)};
}
SPW_INLINE __m256 power_of_two(__m256 n) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
SPW_INLINE V16 scale_by_power16(V16 x, V16 n) {
  return {_mm256_mul_ps(x.a, power_of_two(n.a)), _mm256_mul_ps(x.b, power_of_two(n.b))};
}
SPW_INLINE V16 select_range16(int lo, int hi, V16 x, V16 y) {
  const __m256i first = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i second = _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15);
  const __m256i low = _mm256_set1_epi32(lo), high = _mm256_set1_epi32(hi);
  const __m256 in_a = _mm256_castsi256_ps(
      _mm256_andnot_si256(_mm256_cmpgt_epi32(low, first), _mm256_cmpgt_epi32(high, first)));
  const __m256 in_b = _mm256_castsi256_ps(
      _mm256_andnot_si256(_mm256_cmpgt_epi32(low, second), _mm256_cmpgt_epi32(high, second)));
  return {_mm256_blendv_ps(y.a, x.a, in_a), _mm256_blendv_ps(y.b, x.b, in_b)};
}
SPW_INLINE V16 select_ge16(V16 x, V16 limit, V16 a, V16 b) {
  return {_mm256_blendv_ps(b.a, a.a, _mm256_cmp_ps(x.a, limit.a, _CMP_GE_OQ)),
          _mm256_blendv_ps(b.b, a.b, _mm256_cmp_ps(x.b, limit.b, _CMP_GE_OQ))};
}
SPW_INLINE unsigned mask_gt16(V16 x, V16 y) {
  return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ))) |
         static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ))) << 8;
}
SPW_INLINE unsigned mask_nan16(V16 x) {
  return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(x.a, x.a, _CMP_UNORD_Q))) |
         static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(x.b, x.b, _CMP_UNORD_Q))) << 8;
}

struct V8 {
  __m256 v;
};
SPW_INLINE V8 low8(V16 x) { return {x.a}; }
SPW_INLINE V8 high8(V16 x) { return {x.b}; }

#else

struct V16 {
  float v[16];
};
#define SPW_LANES(expression)                         \
  V16 r;                                              \
  for (int i = 0; i < 16; ++i) r.v[i] = (expression); \
  return r
SPW_INLINE V16 zero16() { SPW_LANES(0.0f); }
SPW_INLINE V16 set16(float x) { SPW_LANES(x); }
SPW_INLINE V16 load16(const float* p) { SPW_LANES(p[i]); }
SPW_INLINE void store16(float* p, V16 a) { std::memcpy(p, a.v, sizeof a.v); }
SPW_INLINE V16 fma16(V16 a, V16 b, V16 c) { SPW_LANES(a.v[i] * b.v[i] + c.v[i]); }
SPW_INLINE V16 add16(V16 a, V16 b) { SPW_LANES(a.v[i] + b.v[i]); }
SPW_INLINE V16 sub16(V16 a, V16 b) { SPW_LANES(a.v[i] - b.v[i]); }
SPW_INLINE V16 mul16(V16 a, V16 b) { SPW_LANES(a.v[i] * b.v[i]); }
SPW_INLINE V16 div16(V16 a, V16 b) { SPW_LANES(a.v[i] / b.v[i]); }
SPW_INLINE V16 max16(V16 a, V16 b) { SPW_LANES(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
SPW_INLINE V16 min16(V16 a, V16 b) { SPW_LANES(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
SPW_INLINE float bits_to_float(std::uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
SPW_INLINE std::uint32_t float_to_bits(float f) {
  std::uint32_t bits;
  std::memcpy(&bits, &f, 4);
  return bits;
}
SPW_INLINE float widen_f16(std::uint16_t h) {
  const std::uint32_t sign = std::uint32_t{h & 0x8000u} << 16, rest = h & 0x7fffu;
  if (rest >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  if (rest >= 0x400u) return bits_to_float(sign | ((rest << 13) + 0x38000000u));
  const float subnormal = static_cast<float>(rest) * 5.9604644775390625e-8f;  // rest * 2^-24, exact
  return sign != 0 ? -subnormal : subnormal;
}
SPW_INLINE std::uint16_t narrow_f16(float f) {
  const std::uint32_t bits = float_to_bits(f), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477fe000u) return static_cast<std::uint16_t>(sign | 0x7bffu);  // saturates at 65504
  if (magnitude < 0x38800000u) {  // subnormal half: adding 0.5 leaves round(|f| * 2^24) in the low bits
    const float shifted = bits_to_float(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (float_to_bits(shifted) - 0x3f000000u));
  }
  const std::uint32_t rounded = magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u);
  return static_cast<std::uint16_t>(sign | rounded >> 13);
}
SPW_INLINE V16 load16_f16(const std::uint16_t* p) { SPW_LANES(widen_f16(p[i])); }
SPW_INLINE V16 load16_bf16(const std::uint16_t* p) { SPW_LANES(bits_to_float(std::uint32_t{p[i]} << 16)); }
SPW_INLINE V16 load16_i8(const std::int8_t* p) { SPW_LANES(static_cast<float>(p[i])); }
SPW_INLINE void store16_f16(std::uint16_t* p, V16 a) {
  for (int i = 0; i < 16; ++i) p[i] = narrow_f16(a.v[i]);
}
SPW_INLINE void store16_bf16(std::uint16_t* p, V16 a) {
  for (int i = 0; i < 16; ++i) {
    const std::uint32_t bits = float_to_bits(a.v[i]);
    p[i] = static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  }
}
SPW_INLINE float round_to_even(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it leaves no fraction bits, |x| < 2^22
  return x > -4194304.0f && x < 4194304.0f ? (x + kMagic) - kMagic : x;
}
SPW_INLINE void store16_i8(std::int8_t* p, V16 a) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<std::int8_t>(round_to_even(a.v[i]));
}
SPW_INLINE V16 round16(V16 a) { SPW_LANES(round_to_even(a.v[i])); }
SPW_INLINE V16 abs16(V16 a) { SPW_LANES(bits_to_float(float_to_bits(a.v[i]) & 0x7fffffffu)); }
SPW_INLINE V16 scale_by_power16(V16 a, V16 n) {
  SPW_LANES(a.v[i] * bits_to_float(static_cast<std::uint32_t>(static_cast<int>(n.v[i]) + 127) << 23));
}
SPW_INLINE V16 select_range16(int lo, int hi, V16 a, V16 b) {
  SPW_LANES(i >= lo && i < hi ? a.v[i] : b.v[i]);
}
SPW_INLINE V16 select_ge16(V16 x, V16 limit, V16 a, V16 b) {
  SPW_LANES(x.v[i] >= limit.v[i] ? a.v[i] : b.v[i]);
}
SPW_INLINE unsigned mask_gt16(V16 a, V16 b) {
  unsigned m = 0;
  for (int i = 0; i < 16; ++i) m |= static_cast<unsigned>(a.v[i] > b.v[i]) << i;
  return m;
}
SPW_INLINE unsigned mask_nan16(V16 a) {
  unsigned m = 0;
  for (int i = 0; i < 16; ++i) m |= static_cast<unsigned>(a.v[i] != a.v[i]) << i;
  return m;
}
#undef SPW_LANES

#endif

/// Sum and maximum over lanes, folded 16 -> 8 -> 4 -> 2 -> 1 in every target.
#if SPW_VEC_TARGET > 0
SPW_INLINE float sum_lanes(V16 x) {
  const __m256 s8 = _mm256_add_ps(low8(x).v, high8(x).v);
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}
SPW_INLINE float max_lanes(V16 x) {
  const __m256 m8 = _mm256_max_ps(low8(x).v, high8(x).v);
  const __m128 m4 = _mm_max_ps(_mm256_castps256_ps128(m8), _mm256_extractf128_ps(m8, 1));
  const __m128 m2 = _mm_max_ps(m4, _mm_movehl_ps(m4, m4));
  return _mm_cvtss_f32(_mm_max_ss(m2, _mm_shuffle_ps(m2, m2, 1)));
}
#else
SPW_INLINE float sum_lanes(V16 x) {
  for (int n = 8; n > 0; n /= 2)
    for (int i = 0; i < n; ++i) x.v[i] += x.v[i + n];
  return x.v[0];
}
SPW_INLINE float max_lanes(V16 x) {
  for (int n = 8; n > 0; n /= 2)
    for (int i = 0; i < n; ++i) x.v[i] = x.v[i] > x.v[i + n] ? x.v[i] : x.v[i + n];
  return x.v[0];
}
#endif

/// Taylor series of e^t to degree 6 for |t| <= ln(2)/2: remainder 1.2e-7 relative, like one rounding.
SPW_INLINE V16 exp_series16(V16 t) {
  V16 y = set16(1.0f / 720.0f);
  y = fma16(y, t, set16(1.0f / 120.0f));
  y = fma16(y, t, set16(1.0f / 24.0f));
  y = fma16(y, t, set16(1.0f / 6.0f));
  y = fma16(y, t, set16(0.5f));
  y = fma16(y, t, set16(1.0f));
  return fma16(y, t, set16(1.0f));
}

/// 2^x. Below 2^-126 the result is 0 (no subnormals), above 2^127 it stays at the largest power.
SPW_INLINE V16 exp2_16(V16 x) {
  const V16 lowest = set16(-126.0f);
  const V16 c = min16(max16(x, lowest), set16(127.0f));
  const V16 n = round16(c);
  const V16 y = exp_series16(mul16(sub16(c, n), set16(0.69314718055994531f)));
  return select_ge16(x, lowest, scale_by_power16(y, n), zero16());
}

/// 2^x for x <= 0, as a softmax needs it: no upper clamp, and below 2^-126 the result stays there, which
/// nothing that is summed beside a 1 can feel.
SPW_INLINE V16 exp2_nonpositive16(V16 x) {
  const V16 c = max16(x, set16(-126.0f));
  const V16 n = round16(c);
  return scale_by_power16(exp_series16(mul16(sub16(c, n), set16(0.69314718055994531f))), n);
}

/// e^x with the argument reduced in two parts, so that large |x| keeps its relative accuracy.
SPW_INLINE V16 exp_16(V16 x) {
  const V16 lowest = set16(-87.0f);
  const V16 c = min16(max16(x, lowest), set16(88.0f));
  const V16 n = round16(mul16(c, set16(1.44269504088896341f)));
  V16 t = fma16(n, set16(-0.693359375f), c);  // ln 2 in two parts: the first has 9 bits, so n * it is exact
  t = fma16(n, set16(2.12194440054690583e-4f), t);
  return select_ge16(x, lowest, scale_by_power16(exp_series16(t), n), zero16());
}

}  // namespace
}  // namespace spillway::gpu::host
