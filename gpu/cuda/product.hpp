// SPDX-License-Identifier: Apache-2.0
#pragma once

// What a product kernel of our own is told, whichever it is.

#include "gpu/cuda/element.hpp"
#include "model/spec.hpp"

namespace spillway::gpu::cuda {

/// y [tokens, rows] = x [tokens, cols] * w^T + bias. Gated: w holds `rows` gate rows, then `rows` up rows, and
/// y = act(gate) * up, both rounded to the element type as if written in between.
struct Product {
  Element element{};
  const void* weight = nullptr;  // [rows or 2 * rows, cols]
  const void* bias = nullptr;    // as weight's rows; null: none
  const void* x = nullptr;
  void* y = nullptr;
  int rows = 0, cols = 0, tokens = 0;
  bool wide = false;  // y is fp32
  bool gated = false;
  model::Activation activation{};
};

}  // namespace spillway::gpu::cuda
