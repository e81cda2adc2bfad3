// SPDX-License-Identifier: Apache-2.0
#pragma once

// Matrix products of the host device: y = W x + b for a batch of rows x, W packed in its stored quantization.
// A PackedProduct may be several matrices stacked (q, k, v; gate, up), of different types, with one input and
// contiguous outputs. All members of a team call matmul() together; the work is shared inside.
//
// Each (row, output) is computed by one fixed sequence of operations per CPU target: bit for bit the same
// whatever the number of rows, the thread count and the chunking.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "gpu/host/execution_mode.hpp"
#include "gpu/host/packed_matrix.hpp"
#include "gpu/host/product_rows.hpp"

namespace spillway::gpu::host {

/// The kernels of a target; requires that the machine can run it.
[[nodiscard]] const MatmulKernels& matmul_kernels(CpuTarget target,
                                                  ExecutionMode mode = ExecutionMode::kAccuracy) noexcept;

/// The rows to multiply, in the forms the product needs.
struct Activations {
  const ProductRows* quantized = nullptr;  // for quantized weights
  const float* x = nullptr;                // [rows, cols]
  std::size_t x_stride = 0;
  /// This member's working memory, panel_bytes() of the product; only kernels that round cannot do without.
  std::byte* panel = nullptr;
};

/// One matrix of a product. An empty bias means none; a bias has the file's row order, as the weight.
struct ProductPart {
  const model::TensorView* weight = nullptr;
  const model::TensorView* bias = nullptr;  // F32, F16 or BF16 [rows]; may be null
  RowOrder order;
};

/// What becomes of a product's outputs: they are stored, added to y (then all weights are quantized), or
/// gated (see can_gate): y = silu(gate) * factor, half as many.
enum class Finish : std::uint8_t { kStore, kAdd, kGate };

class PackedProduct {
 public:
  PackedProduct() = default;

  /// Packs the parts one after the other; all must have the same number of columns. on_packed (may be empty)
  /// is called after each tensor, so that a loader can let go of its file pages. Errors: as
  /// PackedMatrix::pack.
  [[nodiscard]] static Result<PackedProduct> pack(
      std::span<const ProductPart> parts, WeightArena& arena, ThreadTeam& team,
      const std::function<void(const model::TensorView&)>& on_packed = {});

  [[nodiscard]] std::size_t rows() const noexcept { return rows_; }  // outputs
  [[nodiscard]] std::size_t cols() const noexcept { return cols_; }  // inputs
  [[nodiscard]] std::size_t packed_bytes() const noexcept;
  [[nodiscard]] bool empty() const noexcept { return parts_.empty(); }
  /// Whether it is two matrices, gate and factor, that kernels which finish can take as one.
  [[nodiscard]] bool can_gate(const MatmulKernels& kernels) const noexcept;
  /// Which forms of the activations matmul() will read; both for a mix of types.
  [[nodiscard]] bool needs_quantized() const noexcept { return needs_quantized_; }
  [[nodiscard]] bool needs_float() const noexcept { return needs_float_; }

  /// Working memory of one member.
  [[nodiscard]] std::size_t panel_bytes(const MatmulKernels& kernels) const noexcept {
    return needs_quantized_ ? kernels.panel_bytes(cols_) : 0;
  }

  /// Row `row` of the stacked matrix, dequantized; bias not added. For tied embeddings.
  void embed_row(std::size_t row, float* out) const;

 private:
  friend void matmul(TeamMember&, const MatmulKernels&, const PackedProduct&, const Activations&, std::size_t,
                     float*, std::size_t, Finish);
  struct Part {
    PackedMatrix matrix;
    std::vector<float> bias;
    std::size_t first_row = 0;
    std::size_t first_group = 0;
  };
  std::vector<Part> parts_;
  std::size_t rows_ = 0;
  std::size_t cols_ = 0;
  std::size_t groups_ = 0;
  bool needs_quantized_ = false;
  bool needs_float_ = false;
};

/// y[i, :] = W x[i, :] + b for i in [0, rows); y has row stride y_stride >= product.rows(). Called by every
/// member of the team; the inputs must be complete before (a barrier), the outputs are complete after the
/// next barrier. Kernels that do not finish can only store.
void matmul(TeamMember& member, const MatmulKernels& kernels, const PackedProduct& product,
            const Activations& activations, std::size_t rows, float* y, std::size_t y_stride,
            Finish finish = Finish::kStore);

}  // namespace spillway::gpu::host
