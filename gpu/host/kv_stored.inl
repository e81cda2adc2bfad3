// SPDX-License-Identifier: Apache-2.0

// How a KV cache of each type is read and written, 16 elements at a time. Part of attention_kernels.inl, see
// there.

#pragma once

#include "gpu/host/attention_kernels.hpp"
#include "gpu/host/vec16.hpp"

namespace spillway::gpu::host {
namespace {

// ---- How each KV type is read: k16 gives 16 slots of dimension d, v16 gives 16 dimensions of a slot.
// ----------

struct KeyGroup {  // 16 slots of one chunk
  const std::byte* data;
  const std::uint16_t* scales;  // q8_0
};

template <KvDType T>
struct Stored;

template <>
struct Stored<KvDType::kF32> {
  static constexpr std::size_t kBytes = 4;
  static SPW_INLINE V16 read(const std::byte* p) { return load16(reinterpret_cast<const float*>(p)); }
  static SPW_INLINE void write(std::byte* p, V16 x) { store16(reinterpret_cast<float*>(p), x); }
};
template <>
struct Stored<KvDType::kF16> {
  static constexpr std::size_t kBytes = 2;
  static SPW_INLINE V16 read(const std::byte* p) {
    return load16_f16(reinterpret_cast<const std::uint16_t*>(p));
  }
  static SPW_INLINE void write(std::byte* p, V16 x) { store16_f16(reinterpret_cast<std::uint16_t*>(p), x); }
};
template <>
struct Stored<KvDType::kBF16> {
  static constexpr std::size_t kBytes = 2;
  static SPW_INLINE V16 read(const std::byte* p) {
    return load16_bf16(reinterpret_cast<const std::uint16_t*>(p));
  }
  static SPW_INLINE void write(std::byte* p, V16 x) { store16_bf16(reinterpret_cast<std::uint16_t*>(p), x); }
};
template <>
struct Stored<KvDType::kQ8_0> {
  static constexpr std::size_t kBytes = 1;
  static SPW_INLINE V16 read(const std::byte* p) {
    return load16_i8(reinterpret_cast<const std::int8_t*>(p));
  }
  static SPW_INLINE void write(std::byte* p, V16 x) { store16_i8(reinterpret_cast<std::int8_t*>(p), x); }
};

SPW_INLINE float widen_scale(const std::uint16_t* p) {
#if SPW_VEC_TARGET > 0
  return _cvtsh_ss(*p);
#else
  return widen_f16(*p);
#endif
}

}  // namespace
}  // namespace spillway::gpu::host
