// SPDX-License-Identifier: Apache-2.0
#pragma once

// What prompt tokens do in bfloat16, on processors that multiply it fast: attention, and with AMX the
// products with quantized weights. Rows of activations are rounded to bfloat16 (to nearest, ties to even), a
// few groups of weights at a time are dequantized into a panel of bfloat16, and sums are fp32. Which tokens
// take this way depends on the tokens alone (given, not generated), so that a row's result stays the same in
// every batch. Plain data only, as matmul_kernels.hpp.
//
// A panel holds groups one after the other, each [cols / 2][16 outputs][2 columns] bfloat16. Attention makes
// such panels of keys and of values.

#include "gpu/host/attention_kernels.hpp"
#include "gpu/host/matmul_kernels.hpp"

namespace spillway::gpu::host {

struct PromptKernels {
  /// The products, with round_row and groups_per_pass; all null where integers are faster.
  MatmulKernels::Product u4 = nullptr;
  MatmulKernels::Product u4_min = nullptr;
  MatmulKernels::Product u8 = nullptr;
  MatmulKernels::Product u8_min = nullptr;
  /// Rounds x [cols] to bfloat16 [cols].
  void (*round_row)(const float* x, std::size_t cols, std::byte* rounded) = nullptr;
  /// As AttentionKernels::attend, with queries, keys, probabilities and values rounded to bfloat16. For what
  /// can_attend_rounded() says.
  void (*attend)(const AttentionTask&, const ScratchView&) = nullptr;
  std::size_t groups_per_pass = 0;  // of one panel

  [[nodiscard]] bool has_products() const noexcept { return u4 != nullptr; }
};

/// Kernels may read (never use) this many rows of activations past the last.
inline constexpr std::size_t kPromptRowsPadding = 32;

[[nodiscard]] inline bool can_attend_rounded(const KvLayout& layout) noexcept {
  return layout.dtype != KvDType::kF32 && layout.head_dim % 32 == 0;
}

extern const PromptKernels kAvx512Bf16PromptKernels;
extern const PromptKernels kAmxPromptKernels;

}  // namespace spillway::gpu::host
