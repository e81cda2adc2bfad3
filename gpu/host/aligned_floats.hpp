// SPDX-License-Identifier: Apache-2.0
#pragma once

// AlignedFloats: a std::vector<float> that begins on a cache line, so that rows of whole lines do too: a
// vector store across two lines costs two.

#include <cstddef>
#include <new>
#include <vector>

namespace spillway::gpu::host {

template <class T>
struct LineAllocator {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};

  LineAllocator() = default;
  template <class U>
  explicit LineAllocator(const LineAllocator<U>&) noexcept {}

  [[nodiscard]] T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kLine)); }
  void deallocate(T* p, std::size_t) noexcept { ::operator delete(p, kLine); }
  bool operator==(const LineAllocator&) const noexcept { return true; }
};

using AlignedFloats = std::vector<float, LineAllocator<float>>;

}  // namespace spillway::gpu::host
