// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/host_model.hpp"

#include <cstring>
#include <string>
#include <utility>

#include "gpu/host/float16.hpp"

namespace spillway::gpu::host {
namespace {

using model::DType;
using model::TensorView;

Result<std::vector<float>> read_floats(const TensorView& tensor, std::size_t count) {
  const bool is_float = model::block_elements(tensor.dtype) == 1;
  if (!is_float || tensor.data.size() != count * model::block_bytes(tensor.dtype)) {
    return Error{Errc::kBadFile, "tensor '" + tensor.name + "' (" + std::string(to_string(tensor.dtype)) +
                                     ", " + std::to_string(tensor.data.size()) + " bytes): expected " +
                                     std::to_string(count) + " values of F32, F16 or BF16"};
  }
  std::vector<float> values(count);
  if (tensor.dtype == DType::kF32) {
    std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
    return values;
  }
  for (std::size_t i = 0; i < count; ++i) {
    std::uint16_t half = 0;
    std::memcpy(&half, tensor.data.data() + 2 * i, 2);
    values[i] = tensor.dtype == DType::kF16 ? half_to_float(half) : bfloat_to_float(half);
  }
  return values;
}

/// Packs the tensors of one model; the first error sticks and turns the rest into no-ops.
class Packer {
 public:
  Packer(HostModel& model, ThreadTeam& team, const std::function<void(const TensorView&)>& on_packed)
      : model_(model), team_(team), on_packed_(on_packed) {}

  [[nodiscard]] Result<void> result() && {
    return failed_ ? Result<void>(std::move(error_)) : Result<void>();
  }

  void product(PackedProduct& out, std::initializer_list<ProductPart> parts, std::size_t rows,
               std::size_t cols) {
    if (failed_) return;
    for (const ProductPart& part : parts) {
      if (part.weight->empty())
        return fail({Errc::kBadFile, "a weight of the model is missing: '" + part.weight->name + "'"});
    }
    Result<PackedProduct> packed =
        PackedProduct::pack({parts.begin(), parts.size()}, *model_.arena, team_, on_packed_);
    if (!packed) return fail(packed.error());
    out = std::move(*packed);
    if (out.rows() != rows || out.cols() != cols) {
      fail({Errc::kBadFile, "tensor '" + parts.begin()->weight->name + "' and those beside it are " +
                                std::to_string(out.rows()) + " x " + std::to_string(out.cols()) +
                                "; expected " + std::to_string(rows) + " x " + std::to_string(cols)});
    }
  }

  void floats(std::vector<float>& out, const TensorView& tensor, std::size_t count,
              const RowOrder& order = {}) {
    if (failed_ || tensor.empty()) return;
    Result<std::vector<float>> values = read_floats(tensor, count);
    if (!values) return fail(values.error());
    out.resize(count);
    for (std::size_t i = 0; i < count; ++i) out[i] = (*values)[order.source_row(i)];
    if (on_packed_) on_packed_(tensor);
  }

  void norm(HostNorm& out, const TensorView& weight, const TensorView& bias, std::size_t count) {
    floats(out.weight, weight, count);
    floats(out.bias, bias, count);
  }

 private:
  void fail(Error error) {
    failed_ = true;
    error_ = std::move(error);
  }

  HostModel& model_;
  ThreadTeam& team_;
  const std::function<void(const TensorView&)>& on_packed_;
  bool failed_ = false;
  Error error_;
};

}  // namespace

Result<HostModel> HostModel::pack(const model::ModelSpec& spec, const model::Weights& weights,
                                  ThreadTeam& team, const std::function<void(const TensorView&)>& on_packed) {
  if (weights.layers.size() != static_cast<std::size_t>(spec.num_layers)) {
    return Error{Errc::kBadFile, "the model has weights for " + std::to_string(weights.layers.size()) +
                                     " layers where its configuration says " +
                                     std::to_string(spec.num_layers)};
  }
  HostModel model;
  model.spec = spec;
  model.arena = std::make_unique<WeightArena>();
  const auto hidden = static_cast<std::size_t>(spec.hidden_size);
  const auto embedding = static_cast<std::size_t>(spec.embedding_size);
  const auto inner = static_cast<std::size_t>(spec.intermediate_size);
  const auto vocab = static_cast<std::size_t>(spec.vocab_size);
  const auto head_dim = static_cast<std::size_t>(spec.head_dim);
  const auto q = static_cast<std::size_t>(spec.q_size()), kv = static_cast<std::size_t>(spec.kv_size());
  RowOrder halves;
  if (spec.position == model::PositionKind::kRotary && spec.rope.interleaved) {
    halves.kind = RowOrder::Kind::kPairsToHalves;
    halves.head_dim = static_cast<std::uint32_t>(spec.head_dim);
    halves.rotary_dim = static_cast<std::uint32_t>(spec.rope.rotary_dim);
  }

  Packer packer(model, team, on_packed);
  model.layers.resize(weights.layers.size());
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const model::LayerWeights& from = weights.layers[i];
    HostLayer& to = model.layers[i];
    packer.norm(to.attn_norm, from.attn_norm, from.attn_norm_bias, hidden);
    packer.norm(to.mlp_norm, from.mlp_norm, from.mlp_norm_bias, hidden);
    packer.floats(to.q_norm, from.q_norm, head_dim, halves);
    packer.floats(to.k_norm, from.k_norm, head_dim, halves);
    packer.product(
        to.qkv,
        {{&from.q, &from.q_bias, halves}, {&from.k, &from.k_bias, halves}, {&from.v, &from.v_bias, {}}},
        q + 2 * kv, hidden);
    packer.product(to.o, {{&from.o, &from.o_bias, {}}}, hidden, q);
    if (spec.mlp == model::MlpKind::kGated) {
      packer.product(to.up, {{&from.gate, &from.gate_bias, {}}, {&from.up, &from.up_bias, {}}}, 2 * inner,
                     hidden);
    } else {
      packer.product(to.up, {{&from.up, &from.up_bias, {}}}, inner, hidden);
    }
    packer.product(to.down, {{&from.down, &from.down_bias, {}}}, hidden, inner);
  }
  if (!weights.project_in.empty()) {
    packer.product(model.project_in, {{&weights.project_in, nullptr, {}}}, hidden, embedding);
  }
  if (!weights.project_out.empty()) {
    packer.product(model.project_out, {{&weights.project_out, nullptr, {}}}, embedding, hidden);
  }
  if (weights.lm_head.empty()) {
    packer.product(model.lm_head, {{&weights.token_embedding, &weights.lm_head_bias, {}}}, vocab, embedding);
  } else {
    packer.product(model.lm_head, {{&weights.lm_head, &weights.lm_head_bias, {}}}, vocab, embedding);
    packer.product(model.token_embedding, {{&weights.token_embedding, nullptr, {}}}, vocab, embedding);
  }
  if (spec.position == model::PositionKind::kLearned) {
    packer.product(model.position_embedding, {{&weights.position_embedding, nullptr, {}}},
                   static_cast<std::size_t>(weights.position_embedding.rows()), hidden);
  }
  packer.norm(model.final_norm, weights.final_norm, weights.final_norm_bias, hidden);
  if (Result<void> done = std::move(packer).result(); !done) return done.error();
  return model;
}

}  // namespace spillway::gpu::host
