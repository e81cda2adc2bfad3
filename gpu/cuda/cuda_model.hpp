// SPDX-License-Identifier: Apache-2.0
#pragma once

// CudaModel: a model's weights on the device, in the type it computes in. Made once at load; immutable
// afterwards. Quantized weights are dequantized as they arrive.

#include <functional>
#include <vector>

#include "gpu/cuda/check_cuda.hpp"
#include "gpu/cuda/element.hpp"
#include "gpu/cuda/matmul.hpp"
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
  model::ModelSpec spec;
  Element element{};
  std::vector<DeviceLayer> layers;
  DeviceMatrix project_in, project_out;  // null weight where the model has none
  DeviceMatrix lm_head;
  const float* lm_head_bias = nullptr;   // fp32, added to the fp32 logits
  const void* token_embedding = nullptr;
  const void* position_embedding = nullptr;
  DeviceNorm final_norm;
  const float* inv_freq = nullptr;       // [rotary_dim / 2] or null
  std::vector<Memory> memory;
  std::size_t weight_bytes = 0;

  /// Errors: kBadFile names the tensor whose shape, size or type does not fit; kOutOfMemory; kDeviceFailed.
  [[nodiscard]] static Result<CudaModel> upload(const model::ModelSpec& spec, const model::Weights& weights,
                                                Element element,
                                                const std::function<void(const model::TensorView&)>& on_uploaded,
                                                cudaStream_t stream);
  /// Random weights of the spec's shape; biases where the norms are LayerNorms.
  [[nodiscard]] static Result<CudaModel> random(const model::ModelSpec& spec, Element element, cudaStream_t stream);
};

}  // namespace spillway::gpu::cuda
