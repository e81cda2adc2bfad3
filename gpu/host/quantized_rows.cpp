// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/quantized_rows.hpp"

#include <new>

#include "runtime/check.hpp"

namespace spillway::gpu::host {

namespace {

constexpr std::align_val_t kCacheLine{64};

}  // namespace

void QuantizedRows::Free::operator()(QuantizedBlock* blocks) const noexcept {
  ::operator delete[](blocks, kCacheLine);
}

QuantizedRows::QuantizedRows(std::size_t max_rows, std::size_t max_cols)
    : max_rows_(max_rows), max_cols_((max_cols + kBlockCols - 1) / kBlockCols * kBlockCols) {
  blocks_.reset(static_cast<QuantizedBlock*>(::operator new[](bytes(), kCacheLine)));
}

void QuantizedRows::set_cols(std::size_t cols) noexcept {
  SPW_CHECK(cols % kBlockCols == 0 && cols <= max_cols_);
  cols_ = cols;
}

void QuantizedRows::quantize_row(const MatmulKernels& kernels, const float* x, std::size_t row) noexcept {
  SPW_CHECK(row < max_rows_);
  kernels.quantize_row(x, cols_, blocks_.get() + row * (cols_ / kBlockCols));
}

}  // namespace spillway::gpu::host
