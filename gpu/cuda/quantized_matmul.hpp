// SPDX-License-Identifier: Apache-2.0
#pragma once

// Products with a quantized weight that is read once, as it is stored, for up to kQuantizedTokensMax tokens.

#include <cuda_runtime_api.h>

#include <cstddef>

#include "gpu/cuda/element.hpp"
#include "gpu/cuda/quantized.hpp"
#include "model/spec.hpp"

namespace spillway::gpu::cuda {

inline constexpr int kQuantizedTokensMax = 256;

/// y [tokens, rows] = x [tokens, cols] * w^T + bias. A gated weight gives y [tokens, rows / 2] = act(gate) * up, both rounded to
/// the element type as if written in between.
struct QuantizedParams {
  Element element{};             // of x, y and the bias: 16 bits
  PackedMatrix weight;
  const void* bias = nullptr;    // [rows]; null: none
  const void* x = nullptr;
  void* y = nullptr;
  int tokens = 0;
  bool wide = false;             // y is fp32
  model::Activation activation{};
  float* partial = nullptr;      // quantized_workspace_bytes(), shared by products on one stream
  int* arrived = nullptr;        // [weight.tiles()] zero; left zero
};

[[nodiscard]] std::size_t quantized_workspace_bytes();

/// Compute capability 9.0.
void launch_quantized(const QuantizedParams& p, cudaStream_t stream);
/// The parts of it for one element type.
void launch_quantized_f16(const QuantizedParams& p, cudaStream_t stream);
void launch_quantized_bf16(const QuantizedParams& p, cudaStream_t stream);

}  // namespace spillway::gpu::cuda
