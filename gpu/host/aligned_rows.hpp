// SPDX-License-Identifier: Apache-2.0
#pragma once

// AlignedRows: rows of bytes in one allocation, each row on cache lines of its own. Zeroed.

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>

namespace spillway::gpu::host {

class AlignedRows {
 public:
  AlignedRows(std::size_t rows, std::size_t row_bytes) : row_bytes_((row_bytes + 63) / 64 * 64), rows_(rows) {
    memory_.reset(static_cast<std::byte*>(::operator new[](bytes(), kCacheLine)));
    std::memset(memory_.get(), 0, bytes());
  }
  [[nodiscard]] std::byte* row(std::size_t index) noexcept { return memory_.get() + index * row_bytes_; }
  [[nodiscard]] const std::byte* row(std::size_t index) const noexcept {
    return memory_.get() + index * row_bytes_;
  }
  [[nodiscard]] std::size_t row_bytes() const noexcept { return row_bytes_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return rows_ * row_bytes_; }

 private:
  static constexpr std::align_val_t kCacheLine{64};
  struct Free {
    void operator()(std::byte* memory) const noexcept { ::operator delete[](memory, kCacheLine); }
  };
  std::size_t row_bytes_, rows_;
  std::unique_ptr<std::byte[], Free> memory_;
};

}  // namespace spillway::gpu::host
