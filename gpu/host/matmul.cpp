// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/matmul.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include "gpu/host/float16.hpp"

namespace spillway::gpu::host {

namespace {

/// Chunks per member: small enough that the last one waited for is short, large enough to stream.
constexpr std::size_t kChunksPerMember = 16;
/// Activation rows are split too where there are too few groups for that, but never finer than this.
constexpr std::size_t kRowsPerChunk = 48;
/// With tiles each member takes rows of its own, those it also norms and rounds, if each gets as many: they
/// stay in its own cache, and that is worth making the weights once a member.
constexpr std::size_t kRowsOfOwn = 48;

std::size_t divide_up(std::size_t value, std::size_t by) { return (value + by - 1) / by; }

MatmulKernels::Product kernel_for(const MatmulKernels& kernels, const PackedMatrix& matrix) {
  switch (matrix.storage()) {
    case Storage::kU4:
      return matrix.has_min() ? kernels.u4_min : kernels.u4;
    case Storage::kU8:
      return matrix.has_min() ? kernels.u8_min : kernels.u8;
    case Storage::kF32:
      return kernels.f32;
    case Storage::kF16:
      return kernels.f16;
    case Storage::kBF16:
      return kernels.bf16;
  }
  return nullptr;
}

Result<std::vector<float>> read_bias(const model::TensorView& bias, const RowOrder& order, std::size_t rows) {
  const std::size_t size = model::block_bytes(bias.dtype);
  if (model::block_elements(bias.dtype) != 1 || bias.data.size() != rows * size) {
    return Error{Errc::kBadFile, "tensor '" + bias.name + "' (" + std::string(to_string(bias.dtype)) + ", " +
                                     std::to_string(bias.data.size()) + " bytes): a bias must be " +
                                     std::to_string(rows) + " floats"};
  }
  std::vector<float> values(rows);
  for (std::size_t row = 0; row < rows; ++row) {
    const std::byte* from = bias.data.data() + order.source_row(row) * size;
    std::uint16_t half = 0;
    if (bias.dtype == model::DType::kF32) {
      std::memcpy(&values[row], from, 4);
    } else {
      std::memcpy(&half, from, 2);
      values[row] = bias.dtype == model::DType::kF16 ? half_to_float(half) : bfloat_to_float(half);
    }
  }
  return values;
}

}  // namespace

const MatmulKernels& matmul_kernels(CpuTarget target, ExecutionMode mode) noexcept {
  SPW_CHECK(target <= detect_cpu_target());
  // Float weights are multiplied alike in all that is made for AVX-512.
  static const auto with_floats = [](MatmulKernels kernels) {
    kernels.f32 = kAvx512VnniMatmulKernels.f32;
    kernels.f16 = kAvx512VnniMatmulKernels.f16;
    kernels.bf16 = kAvx512VnniMatmulKernels.bf16;
    return kernels;
  };
  static const MatmulKernels tiles = with_floats(kAmxMatmulKernels);
  static const MatmulKernels outliers = with_floats(kOutlierMatmulKernels);
  switch (target) {
    case CpuTarget::kScalar:
      return kScalarMatmulKernels;
    case CpuTarget::kAvx2:
      return kAvx2MatmulKernels;
    case CpuTarget::kAvx512Vnni:
    case CpuTarget::kAvx512Bf16:
      return mode == ExecutionMode::kPerformance ? outliers : kAvx512VnniMatmulKernels;
    case CpuTarget::kAmx:
      return tiles;
  }
  return kScalarMatmulKernels;
}

Result<PackedProduct> PackedProduct::pack(std::span<const ProductPart> parts, WeightArena& arena,
                                          ThreadTeam& team,
                                          const std::function<void(const model::TensorView&)>& on_packed) {
  PackedProduct product;
  for (const ProductPart& part : parts) {
    SPW_CHECK(part.weight != nullptr);
    Result<PackedMatrix> matrix = PackedMatrix::pack(*part.weight, part.order, arena, team);
    if (!matrix) return matrix.error();
    if (!product.parts_.empty() && matrix->cols() != product.cols_) {
      return Error{Errc::kBadFile,
                   "tensor '" + part.weight->name + "' has " + std::to_string(matrix->cols()) +
                       " columns where the tensors beside it have " + std::to_string(product.cols_)};
    }
    Part packed{*matrix, {}, product.rows_, product.groups_};
    if (part.bias != nullptr && !part.bias->empty()) {
      Result<std::vector<float>> bias = read_bias(*part.bias, part.order, matrix->rows());
      if (!bias) return bias.error();
      packed.bias = std::move(*bias);
    }
    product.cols_ = matrix->cols();
    product.rows_ += matrix->rows();
    product.groups_ += matrix->group_count();
    (matrix->quantized() ? product.needs_quantized_ : product.needs_float_) = true;
    product.parts_.push_back(std::move(packed));
    if (on_packed) on_packed(*part.weight);
  }
  return product;
}

std::size_t PackedProduct::packed_bytes() const noexcept {
  std::size_t bytes = 0;
  for (const Part& part : parts_) bytes += part.matrix.packed_bytes();
  return bytes;
}

bool PackedProduct::can_gate(const MatmulKernels& kernels) const noexcept {
  if (!kernels.finishes || parts_.size() != 2 || needs_float_) return false;
  const PackedMatrix &gate = parts_[0].matrix, &factor = parts_[1].matrix;
  return parts_[0].bias.empty() && parts_[1].bias.empty() && gate.rows() == factor.rows() &&
         gate.storage() == factor.storage() && gate.has_min() == factor.has_min() &&
         gate.code_bits() == factor.code_bits();
}

void PackedProduct::embed_row(std::size_t row, float* out) const {
  SPW_CHECK(row < rows_);
  for (const Part& part : parts_) {
    if (row < part.first_row + part.matrix.rows()) return part.matrix.embed_row(row - part.first_row, out);
  }
}

void matmul(TeamMember& member, const MatmulKernels& kernels, const PackedProduct& product,
            const Activations& activations, std::size_t rows, float* y, std::size_t y_stride, Finish finish) {
  const bool rounds = kernels.round_row != nullptr;
  SPW_CHECK(!product.needs_quantized_ ||
            (activations.quantized != nullptr && activations.quantized->cols() == product.cols_ &&
             rows <= activations.quantized->max_rows() && !(rounds && activations.panel == nullptr)));
  SPW_CHECK(!product.needs_float_ || activations.x != nullptr);
  SPW_CHECK(finish == Finish::kStore || (kernels.finishes && !product.needs_float_));
  SPW_CHECK(finish != Finish::kGate || product.can_gate(kernels));
  if (rows == 0 || product.groups_ == 0) return;

  const std::size_t groups = finish == Finish::kGate ? product.groups_ / 2 : product.groups_;
  const std::size_t chunks_wanted = member.size() * kChunksPerMember;
  const std::size_t groups_per_pass = kernels.groups_per_pass();
  const std::size_t row_step = rounds ? kRowsOfOwn : kRowsPerChunk;
  const std::size_t passes = divide_up(groups, groups_per_pass);
  const std::size_t groups_per_chunk = std::max<std::size_t>(1, passes / chunks_wanted) * groups_per_pass;
  const std::size_t group_chunks = divide_up(groups, groups_per_chunk);
  const std::size_t row_shares = rounds ? member.size() : chunks_wanted / group_chunks;
  const std::size_t row_chunks =
      std::clamp<std::size_t>(row_shares, 1, std::max<std::size_t>(1, rows / row_step));
  const std::size_t row_unit = rounds ? kRowsPerTile : 1;
  const std::size_t rows_per_chunk = divide_up(divide_up(rows, row_chunks), row_unit) * row_unit;

  auto run_chunk = [&](std::uint32_t chunk) {
    const std::size_t first_row = chunk / group_chunks * rows_per_chunk;
    if (first_row >= rows) return;
    const std::size_t first_group = chunk % group_chunks * groups_per_chunk;
    const std::size_t last_group = std::min(first_group + groups_per_chunk, groups);
    for (const PackedProduct::Part& part : product.parts_) {
      const std::size_t part_groups = part.matrix.group_count();
      const std::size_t begin = std::max(first_group, part.first_group);
      const std::size_t end = std::min(last_group, part.first_group + part_groups);
      if (begin >= end) continue;
      const std::size_t group = begin - part.first_group;
      const std::size_t output = group * kGroupRows;
      MatmulTask task;
      task.groups = part.matrix.group(group);
      task.group_bytes = part.matrix.group_bytes();
      task.group_count = end - begin;
      task.outputs = std::min(task.group_count * kGroupRows, part.matrix.rows() - output);
      task.cols = product.cols_;
      task.zero_shift = part.matrix.zero_shift();
      task.code_bits = part.matrix.code_bits();
      if (!part.matrix.quantized()) {
        task.x = activations.x + first_row * activations.x_stride;
        task.x_stride = activations.x_stride;
      } else if (rounds) {
        task.rounded = activations.quantized->from(first_row);
        task.panel = activations.panel;
      } else {
        task.quantized = activations.quantized->from(first_row);
        task.quantized_stride = activations.quantized->stride();
        task.panel = activations.panel;
      }
      task.adds = finish == Finish::kAdd;
      if (finish == Finish::kGate) task.factor_groups = product.parts_[1].matrix.group(group);
      task.rows = std::min(rows_per_chunk, rows - first_row);
      task.bias = part.bias.empty() ? nullptr : part.bias.data() + output;
      task.y = y + first_row * y_stride + part.first_row + output;
      task.y_stride = y_stride;
      kernel_for(kernels, part.matrix)(task);
    }
  };
  member.for_chunks(static_cast<std::uint32_t>(group_chunks * row_chunks), run_chunk);
}

}  // namespace spillway::gpu::host
