// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/quantized_matmul.hpp"

#include <algorithm>

#include "gpu/cuda/launch.hpp"

namespace spillway::gpu::cuda {
namespace {

constexpr int kTokensAtOnce = 128;  // more cost a second reading of the weight

}  // namespace

std::size_t quantized_workspace_bytes() {
  return static_cast<std::size_t>(multiprocessors()) * 2 * kPanelRows * kTokensAtOnce * sizeof(float);
}

void launch_quantized(const QuantizedParams& p, cudaStream_t stream) {
  const std::size_t size = bytes_of(p.element), out_size = p.wide ? 4 : size;
  const auto cols = static_cast<std::size_t>(p.weight.cols);
  const auto outputs = static_cast<std::size_t>(p.weight.gated ? p.weight.rows / 2 : p.weight.rows);
  for (int first = 0; first < p.tokens; first += kTokensAtOnce) {
    const auto at = static_cast<std::size_t>(first);
    QuantizedParams part = p;
    part.x = static_cast<const char*>(p.x) + at * cols * size;
    part.y = static_cast<char*>(p.y) + at * outputs * out_size;
    part.tokens = std::min(kTokensAtOnce, p.tokens - first);
    p.element == Element::kBF16 ? launch_quantized_bf16(part, stream) : launch_quantized_f16(part, stream);
  }
}

}  // namespace spillway::gpu::cuda
