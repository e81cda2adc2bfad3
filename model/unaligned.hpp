// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace spillway::model {

/// Element `index` of an array of T that starts anywhere in a file. The bytes must be there.
template <class T>
[[nodiscard]] T read_unaligned(std::span<const std::byte> bytes, std::uint64_t index = 0) noexcept {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

}  // namespace spillway::model
