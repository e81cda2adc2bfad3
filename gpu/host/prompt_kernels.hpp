// SPDX-License-Identifier: Apache-2.0
#pragma once

// Attention of prompt tokens in bfloat16, on processors that multiply it fast. Queries, keys, probabilities
// and values are rounded to bfloat16 (to nearest, ties to even; with AMX queries and keys are two such
// halves), sums are fp32. Which tokens take this way depends on the tokens alone (given, not generated), so
// that a row's result stays the same in every batch. Plain data only, as matmul_kernels.hpp.
//
// Keys and values are made into panels first: groups of 16 outputs one after the other, each [cols / 2][16
// outputs][2 columns] bfloat16.

#include "gpu/host/attention_kernels.hpp"

namespace spillway::gpu::host {

struct PromptKernels {
  /// As AttentionKernels::attend. For what can_attend_rounded() says.
  void (*attend)(const AttentionTask&, const ScratchView&) = nullptr;
  /// Rows that a task should have, at most kPromptTaskRows: what it makes panels of serves that many.
  std::uint32_t task_rows = 0;
};

[[nodiscard]] inline bool can_attend_rounded(const KvLayout& layout) noexcept {
  return layout.dtype != KvDType::kF32 && layout.head_dim % 32 == 0;
}

extern const PromptKernels kAvx512Bf16PromptKernels;
extern const PromptKernels kAmxPromptKernels;

}  // namespace spillway::gpu::host
