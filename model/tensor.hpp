// SPDX-License-Identifier: Apache-2.0
#pragma once

// A weight tensor as it lies in a memory-mapped file. Views own nothing: the Model that made them keeps
// the mapping alive.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace spillway::model {

/// Element types a weight file may hold. Quantized types come in blocks of 32 along a row, laid out as GGUF
/// defines them (d = fp16 scale, m = fp16 minimum):
///   Q8_0  34 B: d, 32 x int8           w = d*q
///   Q4_0  18 B: d, 16 B nibbles        w = d*(q-8);  byte j holds element j (low) and j+16 (high)
///   Q4_1  20 B: d, m, 16 B nibbles     w = d*q + m
///   Q5_0  22 B: d, 4 B high bits, 16 B w = d*(q-16)
///   Q5_1  24 B: d, m, 4 B high bits, 16 B nibbles  w = d*q + m
enum class DType : std::uint8_t { kF32, kF16, kBF16, kQ8_0, kQ4_0, kQ4_1, kQ5_0, kQ5_1 };

[[nodiscard]] constexpr std::string_view to_string(DType t) noexcept {
  switch (t) {
    case DType::kF32: return "F32";
    case DType::kF16: return "F16";
    case DType::kBF16: return "BF16";
    case DType::kQ8_0: return "Q8_0";
    case DType::kQ4_0: return "Q4_0";
    case DType::kQ4_1: return "Q4_1";
    case DType::kQ5_0: return "Q5_0";
    case DType::kQ5_1: return "Q5_1";
  }
  return "?";
}

/// Elements in one storage block (1 for the float types).
[[nodiscard]] constexpr std::size_t block_elements(DType t) noexcept {
  return t == DType::kF32 || t == DType::kF16 || t == DType::kBF16 ? 1 : 32;
}

/// Bytes of one storage block.
[[nodiscard]] constexpr std::size_t block_bytes(DType t) noexcept {
  switch (t) {
    case DType::kF32: return 4;
    case DType::kF16: return 2;
    case DType::kBF16: return 2;
    case DType::kQ8_0: return 34;
    case DType::kQ4_0: return 18;
    case DType::kQ4_1: return 20;
    case DType::kQ5_0: return 22;
    case DType::kQ5_1: return 24;
  }
  return 0;
}

struct TensorView {
  std::string name;                  // as the file spells it, for messages
  DType dtype = DType::kF32;
  std::vector<std::uint64_t> shape;  // outermost first: [rows, cols] for a matrix, [n] for a vector
  std::span<const std::byte> data;   // row-major; a matrix [out, in] maps x[in] to y[out] = W x
                                     // NOT necessarily aligned beyond 1 byte (hostile or odd files)

  [[nodiscard]] bool empty() const noexcept { return data.empty(); }
  [[nodiscard]] std::uint64_t rows() const noexcept { return shape.size() > 1 ? shape[0] : 1; }
  [[nodiscard]] std::uint64_t cols() const noexcept { return shape.empty() ? 0 : shape.back(); }
};

}  // namespace spillway::model
