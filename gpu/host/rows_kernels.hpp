// SPDX-License-Identifier: Apache-2.0
#pragma once

// Work on single rows between the matrix products, for one instruction set: norms, rotary embedding,
// activations, residual sums, and the scans over a row of logits. A row's result depends on that row only.

#include <cstddef>
#include <cstdint>

#include "gpu/host/cpu.hpp"
#include "model/spec.hpp"

namespace spillway::gpu::host {

/// What a scan over logits finds.
struct LogitScan {
  float maximum = 0;
  std::uint32_t argmax = 0;  // the lowest index that holds the maximum
  bool has_nan = false;
};

struct RowKernels {
  /// out = x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich 2019). out may be x.
  void (*rms_norm)(const float* x, const float* weight, float eps, float* out, std::size_t n);
  /// out = (x - mean) / sqrt(var + eps) * weight + bias (Ba et al. 2016); bias may be null. out may be x.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, float* out,
                     std::size_t n);
  /// Rotates the pairs (x[i], x[i + half]) by the angle whose cosine and sine are given, i in [0, half).
  void (*rotate)(float* x, const float* cosine, const float* sine, std::size_t half);
  /// x *= factor
  void (*scale)(float* x, float factor, std::size_t n);
  /// x += y
  void (*add)(float* x, const float* y, std::size_t n);
  /// out = act(gate) * up; out may be gate.
  void (*gated)(model::Activation act, const float* gate, const float* up, float* out, std::size_t n);
  /// out = act(x); out may be x.
  void (*activate)(model::Activation act, const float* x, float* out, std::size_t n);
  LogitScan (*scan)(const float* logits, std::size_t n);
  /// Sum of e^((x - maximum) * factor), in blocks of 16 lanes; sums[i / kSumBlock] receives the sum over
  /// [i, i + kSumBlock) when sums is not null.
  double (*sum_exp)(const float* x, float maximum, float factor, double* sums, std::size_t n);
  /// Writes the indices of x[i] > limit to out, rising, up to `most` of them; returns how many there are in
  /// all.
  std::size_t (*above)(const float* x, float limit, std::size_t n, std::uint32_t* out, std::size_t most);
};

inline constexpr std::size_t kSumBlock = 512;

/// The kernels for a target; requires that the machine can run it.
[[nodiscard]] const RowKernels& row_kernels(CpuTarget target) noexcept;

[[nodiscard]] const RowKernels* row_kernels_avx512() noexcept;
[[nodiscard]] const RowKernels* row_kernels_avx2() noexcept;
[[nodiscard]] const RowKernels* row_kernels_generic() noexcept;

}  // namespace spillway::gpu::host
