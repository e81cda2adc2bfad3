// SPDX-License-Identifier: Apache-2.0
#pragma once

// Products of a weight with few tokens, bound by the weight's bytes: each weight is read once, its first part even
// before the kernel that makes the input has ended.

#include <cuda_runtime_api.h>

#include "gpu/cuda/element.hpp"
#include "model/spec.hpp"

namespace spillway::gpu::cuda {

inline constexpr int kSkinnyTokensMax = 16;

/// y [tokens, rows] = x [tokens, cols] * w^T + bias. Gated: w holds `rows` gate rows, then `rows` up rows, and
/// y = act(gate) * up, both rounded to the element type as if written in between.
struct SkinnyParams {
  Element element{};
  const void* weight = nullptr;  // [rows or 2 * rows, cols]
  const void* bias = nullptr;    // as weight's rows; null: none
  const void* x = nullptr;
  void* y = nullptr;
  int rows = 0, cols = 0, tokens = 0;
  bool wide = false;             // y is fp32
  bool gated = false;
  model::Activation activation{};
};

/// On compute capability 9.0: 16-bit types, cols a multiple of 32, up to kSkinnyTokensMax tokens that fit into shared
/// memory beside the ring.
[[nodiscard]] bool has_skinny(Element element, int rows, int cols, int tokens) noexcept;
void launch_skinny(const SkinnyParams& p, cudaStream_t stream);

}  // namespace spillway::gpu::cuda
