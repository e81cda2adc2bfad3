// SPDX-License-Identifier: Apache-2.0

// The KV write: one token's key and value into its slot, in each type. Part of attention_kernels.inl, see there.

#pragma once

#include "gpu/host/kv_stored.inl"

namespace spillway::gpu::host {
namespace {

/// Stores up to 16 lanes of x as T.
template <KvDType T>
SPW_INLINE void write_lanes(std::byte* out, V16 x, std::uint32_t lanes) {
  if (lanes == 16) return Stored<T>::write(out, x);
  std::byte narrow[64];
  Stored<T>::write(narrow, x);
  __builtin_memcpy(out, narrow, lanes * Stored<T>::kBytes);
}

/// x[0, n) with zeros behind it.
SPW_INLINE V16 load_padded(const float* x, std::uint32_t n) {
  if (n >= 16) return load16(x);
  float padded[16] = {};
  for (std::uint32_t i = 0; i < n; ++i) padded[i] = x[i];
  return load16(padded);
}

/// Narrows x[0, n) (n <= 16) into consecutive elements, for the scattered store of a key.
template <KvDType T>
SPW_INLINE void scatter_key(const std::byte* narrow, std::byte* chunk, std::uint32_t d, std::uint32_t n,
                            std::uint32_t block_size, std::uint32_t slot) {
  for (std::uint32_t i = 0; i < n; ++i) {
    __builtin_memcpy(chunk + (std::size_t{d + i} * block_size + slot) * Stored<T>::kBytes,
                     narrow + i * Stored<T>::kBytes, Stored<T>::kBytes);
  }
}

template <KvDType T>
void write_plain(const KvLayout& layout, std::byte* k_chunk, std::byte* v_chunk, std::uint32_t slot,
                 const float* k, const float* v) {
  for (std::uint32_t d = 0; d < layout.padded_dim; d += 16) {
    const std::uint32_t n = layout.head_dim - d < 16 ? layout.head_dim - d : 16;
    std::byte narrow[64];
    Stored<T>::write(narrow, load_padded(k + d, n));
    scatter_key<T>(narrow, k_chunk, d, n, layout.block_size, slot);
    Stored<T>::write(v_chunk + (std::size_t{slot} * layout.padded_dim + d) * Stored<T>::kBytes,
                     load_padded(v + d, n));
  }
}

/// One block of 32: int8 values and the fp16 scale amax / 127.
SPW_INLINE std::uint16_t quantize_block(const float* x, std::byte* values) {
  const V16 lo = load16(x), hi = load16(x + 16);
  const float amax = max_lanes(max16(abs16(lo), abs16(hi)));
  std::uint16_t stored[16];
  store16_f16(stored, set16(amax / 127.0f));
  const float scale = widen_scale(stored);
  const V16 inverse = set16(scale > 0 ? 1.0f / scale : 0.0f);
  const V16 top = set16(127.0f), bottom = set16(-127.0f);
  Stored<KvDType::kQ8_0>::write(values, max16(min16(mul16(lo, inverse), top), bottom));
  Stored<KvDType::kQ8_0>::write(values + 16, max16(min16(mul16(hi, inverse), top), bottom));
  return stored[0];
}

void write_q8(const KvLayout& layout, std::byte* k_chunk, std::byte* v_chunk, std::uint32_t slot,
              const float* k, const float* v) {
  auto* k_scales = reinterpret_cast<std::uint16_t*>(k_chunk + layout.k_scale_offset);
  auto* v_scales = reinterpret_cast<std::uint16_t*>(v_chunk + layout.v_scale_offset);
  for (std::uint32_t d = 0; d < layout.head_dim; d += 32) {
    std::byte narrow[32];
    k_scales[d / 32 * layout.block_size + slot] = quantize_block(k + d, narrow);
    scatter_key<KvDType::kQ8_0>(narrow, k_chunk, d, 32, layout.block_size, slot);
    v_scales[slot * (layout.head_dim / 32) + d / 32] =
        quantize_block(v + d, v_chunk + std::size_t{slot} * layout.padded_dim + d);
  }
}

void write_kv(const KvLayout& layout, std::byte* k_chunk, std::byte* v_chunk, std::uint32_t slot,
              const float* k, const float* v) {
  switch (layout.dtype) {
    case KvDType::kF32:
      return write_plain<KvDType::kF32>(layout, k_chunk, v_chunk, slot, k, v);
    case KvDType::kF16:
      return write_plain<KvDType::kF16>(layout, k_chunk, v_chunk, slot, k, v);
    case KvDType::kBF16:
      return write_plain<KvDType::kBF16>(layout, k_chunk, v_chunk, slot, k, v);
    case KvDType::kQ8_0:
      return write_q8(layout, k_chunk, v_chunk, slot, k, v);
  }
}

}  // namespace
}  // namespace spillway::gpu::host
