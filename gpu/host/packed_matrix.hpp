// SPDX-License-Identifier: Apache-2.0
#pragma once

// PackedMatrix: one weight matrix repacked for the matrix kernels, in its stored precision. Made once at
// load; afterwards immutable and read by all threads. The layout is described in matmul_kernels.hpp.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "gpu/host/cpu.hpp"
#include "gpu/host/matmul_kernels.hpp"
#include "gpu/host/thread_team.hpp"
#include "model/tensor.hpp"
#include "runtime/result.hpp"

namespace spillway::gpu::host {

/// Owns the packed weights of one model: few large mappings that ask for huge pages. Freed as a whole.
class WeightArena {
 public:
  explicit WeightArena(std::size_t chunk_bytes = std::size_t{64} << 20) : chunk_bytes_(chunk_bytes) {}
  ~WeightArena();
  WeightArena(const WeightArena&) = delete;
  WeightArena& operator=(const WeightArena&) = delete;

  /// Zeroed, 64-byte aligned memory that lives as long as the arena. Errors: kOutOfMemory.
  [[nodiscard]] Result<std::byte*> allocate(std::size_t bytes);
  [[nodiscard]] std::size_t allocated_bytes() const noexcept { return allocated_bytes_; }

 private:
  struct Chunk {
    std::byte* base = nullptr;
    std::size_t size = 0;
    std::size_t used = 0;
  };
  std::size_t chunk_bytes_;
  std::size_t allocated_bytes_ = 0;
  std::vector<Chunk> chunks_;
};

/// How output rows are arranged. GGUF stores llama's q and k rows so that rotary pairs are neighbours (2i,
/// 2i+1); kPairsToHalves puts them back to (i, i + rotary_dim/2) in each head, so that attention needs one
/// kind of rope.
struct RowOrder {
  enum class Kind : std::uint8_t { kAsStored, kPairsToHalves };
  Kind kind = Kind::kAsStored;
  std::uint32_t head_dim = 0;
  std::uint32_t rotary_dim = 0;  // even, <= head_dim; rows of a head beyond it stay

  /// Row of the file that becomes packed row `row`.
  [[nodiscard]] std::size_t source_row(std::size_t row) const noexcept;
};

class PackedMatrix {
 public:
  PackedMatrix() = default;

  /// Repacks `weight` [rows, cols] with all of the team. Errors: kBadFile when the data's size does not fit
  /// the shape, kUnsupported when a quantized row is not whole blocks or has more than 65536
  /// columns, kOutOfMemory.
  [[nodiscard]] static Result<PackedMatrix> pack(const model::TensorView& weight, const RowOrder& order,
                                                 WeightArena& arena, ThreadTeam& team);

  [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
  [[nodiscard]] std::size_t cols() const noexcept { return cols_; }
  [[nodiscard]] std::size_t group_count() const noexcept { return (rows_ + kGroupRows - 1) / kGroupRows; }
  [[nodiscard]] std::size_t group_bytes() const noexcept { return group_bytes_; }
  [[nodiscard]] const std::byte* group(std::size_t index) const noexcept {
    return data_ + index * group_bytes_;
  }
  [[nodiscard]] std::size_t packed_bytes() const noexcept { return group_count() * group_bytes_; }
  [[nodiscard]] Storage storage() const noexcept { return storage_; }
  [[nodiscard]] bool has_min() const noexcept { return has_min_; }
  [[nodiscard]] std::uint8_t zero_shift() const noexcept { return zero_shift_; }
  [[nodiscard]] std::uint8_t code_bits() const noexcept { return code_bits_; }
  /// True when products take quantized or rounded rows, false when they take fp32 rows.
  [[nodiscard]] bool quantized() const noexcept {
    return storage_ == Storage::kU4 || storage_ == Storage::kU8;
  }

  /// Dequantizes packed row `row` into out [cols]: exactly the fp32 values the file's type defines.
  void embed_row(std::size_t row, float* out) const;

 private:
  const std::byte* data_ = nullptr;  // in the arena
  std::size_t rows_ = 0;
  std::size_t cols_ = 0;
  std::size_t group_bytes_ = 0;
  Storage storage_ = Storage::kF32;
  bool has_min_ = false;
  std::uint8_t zero_shift_ = 0;
  std::uint8_t code_bits_ = 0;
};

}  // namespace spillway::gpu::host
