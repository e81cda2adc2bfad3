// SPDX-License-Identifier: Apache-2.0
#pragma once

// CudaModel: a model's weights, or one rank's share of them, on the device: in the type it computes in, or quantized as
// the file has them, in panels (quantized.hpp), where the device multiplies so. Made once at load; immutable afterwards.

#include <functional>
#include <vector>

#include "gpu/cuda/check_cuda.hpp"
#include "gpu/cuda/element.hpp"
#include "gpu/cuda/matmul.hpp"
#include "gpu/cuda/shard.hpp"
#include "model/spec.hpp"

namespace spillway::gpu::cuda {

/// Null weight: there is no norm here.
struct DeviceNorm {
  const float* weight = nullptr;
  const float* bias = nullptr;
};

struct DeviceLayer {
  DeviceNorm attn_norm, mlp_norm;
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  DeviceMatrix qkv;  // rows: q, k, v
  DeviceMatrix o;
  DeviceMatrix up;   // rows: gate, up when gated; else up
  DeviceMatrix down;
};

struct CudaModel {
  model::ModelSpec spec;  // of the shard
  Shard shard;
  Element element{};
  std::vector<DeviceLayer> layers;
  DeviceMatrix project_in, project_out;  // null weight where the model has none
  DeviceMatrix lm_head;  // of several ranks: this one's rows, filled up with zeros
  const float* lm_head_bias = nullptr;   // fp32, added to the fp32 logits
  DeviceMatrix token_embedding;
  const void* position_embedding = nullptr;
  DeviceNorm final_norm;
  const float* inv_freq = nullptr;       // [rotary_dim / 2] or null
  std::vector<Memory> memory;
  std::size_t weight_bytes = 0;

  /// Elements of the largest matrix in panels; 0: none is.
  [[nodiscard]] std::size_t packed_elements_max() const noexcept;

  /// With `pack`, quantized matrices stay so; else they are dequantized. Errors: kBadFile names the tensor whose shape, size
  /// or type does not fit; kOutOfMemory; kDeviceFailed.
  [[nodiscard]] static Result<CudaModel> upload(const model::ModelSpec& spec, const model::Weights& weights,
                                                Element element, bool pack, const Shard& shard,
                                                const std::function<void(const model::TensorView&)>& on_uploaded,
                                                cudaStream_t stream);
  /// Random weights of the spec's shape, matrices of a quantized type in panels; biases where the norms are LayerNorms.
  [[nodiscard]] static Result<CudaModel> random(const model::ModelSpec& spec, Element element, model::DType type,
                                                const Shard& shard, cudaStream_t stream);
};

}  // namespace spillway::gpu::cuda
