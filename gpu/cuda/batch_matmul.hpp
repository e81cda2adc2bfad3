// SPDX-License-Identifier: Apache-2.0
#pragma once

// Products of a weight with the tokens of a decode batch, still bound by the weight's bytes: between
// skinny_matmul.hpp, which keeps all of x beside its ring, and the matrix rates of prompts.

#include <cuda_runtime_api.h>

#include <vector>

#include "gpu/cuda/product.hpp"

namespace spillway::gpu::cuda {

inline constexpr int kBatchTokensMin = 9, kBatchTokensMax = 128;

/// How a product is cut. A block multiplies `tile_rows` rows of the weight with all tokens, over its share of
/// the columns.
struct BatchCut {
  int tile_rows = 0;  // gated: half of them gate, half up
  int splits = 1;  // up to 4: blocks of a cluster that share a tile's columns; their sums are added in order
};

struct BatchParams : Product {
  BatchCut cut;
};

/// The cuts worth measuring for a weight of `rows` rows, the most promising one first. None where there is no
/// such kernel: it needs compute capability 9.0, 16-bit types, rows and cols in multiples of 8.
[[nodiscard]] std::vector<BatchCut> batch_cuts(Element element, int rows, int cols, int tokens);
/// Every cut that can be launched, for benches and tests.
[[nodiscard]] std::vector<BatchCut> all_batch_cuts(Element element, int rows, int cols, int tokens);

/// Addresses in multiples of 16 bytes. False: nothing was launched.
[[nodiscard]] bool launch_batch(const BatchParams& p, cudaStream_t stream);

/// By element; of launch_batch.
[[nodiscard]] bool launch_batch_bf16(const BatchParams& p, cudaStream_t stream);
[[nodiscard]] bool launch_batch_f16(const BatchParams& p, cudaStream_t stream);

}  // namespace spillway::gpu::cuda
