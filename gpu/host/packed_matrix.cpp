// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/packed_matrix.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "gpu/host/float16.hpp"

namespace spillway::gpu::host {

namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t round_up(std::size_t value, std::size_t unit) { return (value + unit - 1) / unit * unit; }

struct Format {
  Storage storage;
  bool has_min;
  std::uint8_t zero_shift;  // m = -(1 << zero_shift) * d where it is not stored
  std::uint8_t code_bits = 0;
};

Format format_of(model::DType dtype) {
  switch (dtype) {
    case model::DType::kF32:
      return {Storage::kF32, false, 0};
    case model::DType::kF16:
      return {Storage::kF16, false, 0};
    case model::DType::kBF16:
      return {Storage::kBF16, false, 0};
    case model::DType::kQ8_0:
      return {Storage::kU8, false, 7, 8};
    case model::DType::kQ4_0:
      return {Storage::kU4, false, 3, 4};
    case model::DType::kQ4_1:
      return {Storage::kU4, true, 0, 4};
    case model::DType::kQ5_0:
      return {Storage::kU8, false, 4, 5};
    case model::DType::kQ5_1:
      return {Storage::kU8, true, 0, 5};
  }
  SPW_CHECK(false);
  return {};
}

std::size_t quant_bytes(Storage storage) { return storage == Storage::kU4 ? 256 : 512; }

std::size_t tile_bytes(Storage storage, bool has_min) {
  return quant_bytes(storage) + (has_min ? 2 : 1) * kGroupRows * sizeof(std::uint16_t);
}

std::size_t float_bytes(Storage storage) { return storage == Storage::kF32 ? 4 : 2; }

/// The unsigned u of one stored block, in column order.
void unpack_block(model::DType dtype, const std::uint8_t* block, std::uint8_t* u) {
  const std::uint8_t* quants = block + (dtype == model::DType::kQ4_1 || dtype == model::DType::kQ5_1 ? 4 : 2);
  if (dtype == model::DType::kQ8_0) {
    for (std::size_t i = 0; i < kBlockCols; ++i)
      u[i] = static_cast<std::uint8_t>(quants[i] ^ 0x80);  // q + 128
    return;
  }
  std::uint32_t high = 0;
  if (dtype == model::DType::kQ5_0 || dtype == model::DType::kQ5_1) {
    std::memcpy(&high, quants, sizeof high);
    quants += sizeof high;
  }
  for (std::size_t i = 0; i < 16; ++i) {
    u[i] = static_cast<std::uint8_t>((quants[i] & 15) | (high >> i & 1) << 4);
    u[i + 16] = static_cast<std::uint8_t>(quants[i] >> 4 | (high >> (i + 16) & 1) << 4);
  }
}

/// Puts one row's block into lane `lane` of a tile.
void pack_block(model::DType dtype, const Format& format, const std::uint8_t* block, std::size_t lane,
                std::uint8_t* tile) {
  std::uint8_t u[kBlockCols];
  unpack_block(dtype, block, u);
  for (std::size_t j = 0; j < 4; ++j) {
    std::uint8_t* low = tile + 64 * j + 4 * lane;
    if (format.storage == Storage::kU4) {
      for (std::size_t i = 0; i < 4; ++i)
        low[i] = static_cast<std::uint8_t>(u[4 * j + i] | u[16 + 4 * j + i] << 4);
    } else {
      std::memcpy(low, u + 4 * j, 4);
      std::memcpy(low + 256, u + 16 + 4 * j, 4);
    }
  }
  std::uint8_t* scales = tile + quant_bytes(format.storage);
  std::memcpy(scales + 2 * lane, block, 2);
  if (format.has_min) std::memcpy(scales + 2 * kGroupRows + 2 * lane, block + 2, 2);
}

/// The larger one; NaN counts as largest.
float larger(float a, float b) { return b > a || std::isnan(b) ? b : a; }

/// The largest magnitude that a block's codes can mean.
float largest_weight(const Format& format, const std::uint8_t* block) {
  std::uint16_t half[2];
  std::memcpy(half, block, sizeof half);
  const float d = half_to_float(half[0]), most = static_cast<float>((1 << format.code_bits) - 1);
  const float m = format.has_min ? half_to_float(half[1]) : -d * static_cast<float>(1 << format.zero_shift);
  return larger(std::abs(m), std::abs(most * d + m));
}

}  // namespace

WeightArena::~WeightArena() {
  for (const Chunk& chunk : chunks_) munmap(chunk.base, chunk.size);
}

Result<std::byte*> WeightArena::allocate(std::size_t bytes) {
  const std::size_t wanted = round_up(bytes, 64);
  if (chunks_.empty() || chunks_.back().size - chunks_.back().used < wanted) {
    Chunk chunk;
    chunk.size = round_up(std::max(wanted, chunk_bytes_) + kHugePage, kHugePage);
    void* base =
        mmap(nullptr, chunk.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
      return Error{Errc::kOutOfMemory,
                   "no room for " + std::to_string(chunk.size) + " bytes of packed weights"};
    }
    chunk.base = static_cast<std::byte*>(base);
    const auto address = reinterpret_cast<std::uintptr_t>(base);
    chunk.used = round_up(address, kHugePage) - address;
    // Only a wish: weights are streamed from end to end, and 4 KiB pages cost translations.
    madvise(base, chunk.size, MADV_HUGEPAGE);
    chunks_.push_back(chunk);
  }
  Chunk& chunk = chunks_.back();
  std::byte* memory = chunk.base + chunk.used;
  chunk.used += wanted;
  allocated_bytes_ += wanted;
  return memory;
}

std::size_t RowOrder::source_row(std::size_t row) const noexcept {
  if (kind == Kind::kAsStored) return row;
  const std::size_t in_head = row % head_dim;
  if (in_head >= rotary_dim) return row;
  const std::size_t half = rotary_dim / 2;
  const std::size_t stored = in_head < half ? 2 * in_head : 2 * (in_head - half) + 1;
  return row - in_head + stored;
}

Result<PackedMatrix> PackedMatrix::pack(const model::TensorView& weight, const RowOrder& order,
                                        WeightArena& arena, ThreadTeam& team) {
  const std::string where = "tensor '" + weight.name + "' (" + std::string(to_string(weight.dtype)) + ")";
  const std::size_t rows = weight.rows();
  const std::size_t cols = weight.cols();
  const std::size_t block_cols = model::block_elements(weight.dtype);
  if (cols % block_cols != 0) {
    return Error{Errc::kUnsupported, where + ": " + std::to_string(cols) + " columns are not a multiple of " +
                                         std::to_string(block_cols)};
  }
  constexpr std::size_t kMostCols = 65536;  // what a sum of 32 bits holds, see matmul_amx.cpp
  if (block_cols > 1 && cols > kMostCols) {
    return Error{Errc::kUnsupported,
                 where + ": " + std::to_string(cols) + " columns are more than " + std::to_string(kMostCols)};
  }
  std::size_t row_bytes = 0;
  std::size_t bytes = 0;
  const bool overflow =
      __builtin_mul_overflow(cols / block_cols, model::block_bytes(weight.dtype), &row_bytes) ||
      __builtin_mul_overflow(rows, row_bytes, &bytes);
  if (weight.shape.size() > 2 || overflow || bytes == 0 || bytes != weight.data.size()) {
    return Error{Errc::kBadFile, where + ": " + std::to_string(weight.data.size()) +
                                     " bytes of data do not fit " + std::to_string(rows) + " x " +
                                     std::to_string(cols) + " elements"};
  }
  if (order.kind == RowOrder::Kind::kPairsToHalves) {
    SPW_CHECK(order.head_dim > 0 && order.rotary_dim <= order.head_dim && order.rotary_dim % 2 == 0);
    if (rows % order.head_dim != 0) {
      return Error{Errc::kBadFile, where + ": " + std::to_string(rows) + " rows are not whole heads of " +
                                       std::to_string(order.head_dim)};
    }
  }

  const Format format = format_of(weight.dtype);
  PackedMatrix matrix;
  matrix.rows_ = rows;
  matrix.cols_ = cols;
  matrix.storage_ = format.storage;
  matrix.has_min_ = format.has_min;
  matrix.zero_shift_ = format.zero_shift;
  matrix.code_bits_ = format.code_bits;
  const std::size_t blocks = cols / kBlockCols;
  matrix.group_bytes_ = matrix.quantized()
                            ? blocks * tile_bytes(format.storage, format.has_min) + kGroupRows * sizeof(float)
                            : round_up(cols * kGroupRows * float_bytes(format.storage), 64);
  Result<std::byte*> memory = arena.allocate(matrix.packed_bytes());
  if (!memory) return memory.error();
  std::byte* const data = *memory;
  matrix.data_ = data;

  const auto* source = reinterpret_cast<const std::uint8_t*>(weight.data.data());
  const std::size_t stride = model::block_bytes(weight.dtype);
  auto pack_group = [&](std::size_t group) {
    auto* to = reinterpret_cast<std::uint8_t*>(data) + group * matrix.group_bytes_;
    const std::size_t lanes = std::min(kGroupRows, rows - group * kGroupRows);
    float largest[kGroupRows] = {};
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      const std::uint8_t* row = source + order.source_row(group * kGroupRows + lane) * row_bytes;
      if (matrix.quantized()) {
        for (std::size_t b = 0; b < blocks; ++b) {
          pack_block(weight.dtype, format, row + b * stride, lane,
                     to + b * tile_bytes(format.storage, format.has_min));
          largest[lane] = larger(largest[lane], largest_weight(format, row + b * stride));
        }
      } else {
        for (std::size_t k = 0; k < cols; ++k) {
          std::memcpy(to + (k * kGroupRows + lane) * stride, row + k * stride, stride);
        }
      }
    }
    if (matrix.quantized()) std::memcpy(to + matrix.group_bytes_ - sizeof largest, largest, sizeof largest);
  };
  team.run([&](TeamMember& member) {
    member.for_chunks(static_cast<std::uint32_t>(matrix.group_count()), pack_group);
  });
  return matrix;
}

void PackedMatrix::embed_row(std::size_t row, float* out) const {
  SPW_CHECK(row < rows_);
  const auto* group = reinterpret_cast<const std::uint8_t*>(this->group(row / kGroupRows));
  const std::size_t lane = row % kGroupRows;
  if (!quantized()) {
    const std::size_t size = float_bytes(storage_);
    for (std::size_t k = 0; k < cols_; ++k) {
      const std::uint8_t* at = group + (k * kGroupRows + lane) * size;
      std::uint16_t half = 0;
      if (storage_ == Storage::kF32) {
        std::memcpy(out + k, at, 4);
        continue;
      }
      std::memcpy(&half, at, 2);
      out[k] = storage_ == Storage::kF16 ? half_to_float(half) : bfloat_to_float(half);
    }
    return;
  }
  const std::size_t blocks = cols_ / kBlockCols;
  for (std::size_t b = 0; b < blocks; ++b, out += kBlockCols) {
    const std::uint8_t* tile = group + b * tile_bytes(storage_, has_min_);
    const std::uint8_t* scales = tile + quant_bytes(storage_);
    std::uint16_t half[2] = {};
    std::memcpy(&half[0], scales + 2 * lane, 2);
    if (has_min_) std::memcpy(&half[1], scales + 2 * kGroupRows + 2 * lane, 2);
    const float d = half_to_float(half[0]);
    const float m = half_to_float(half[1]);
    const int zero = has_min_ ? 0 : 1 << zero_shift_;
    for (std::size_t i = 0; i < kBlockCols; ++i) {
      const std::size_t j = i % 16 / 4;
      const std::uint8_t byte = tile[64 * (storage_ == Storage::kU4 ? j : i / 4) + 4 * lane + i % 4];
      const int u = storage_ == Storage::kU8 ? byte : i < 16 ? byte & 15 : byte >> 4;
      const float scaled = d * static_cast<float>(u - zero);
      out[i] = has_min_ ? scaled + m : scaled;
    }
  }
}

}  // namespace spillway::gpu::host
