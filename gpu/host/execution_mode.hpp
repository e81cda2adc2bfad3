// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace spillway::gpu::host {

/// What the host's kernels are to favour where they have the choice: with AVX-512 but without AMX tiles. There
/// kPerformance takes activations of products with quantized weights in 8 bits (outliers in 16) instead of 16,
/// and, with AVX-512 BF16, attention of prompts in bfloat16 instead of fp32. On other processors both are the
/// same.
enum class ExecutionMode : std::uint8_t { kAccuracy, kPerformance };

}  // namespace spillway::gpu::host
