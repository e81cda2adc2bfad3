// SPDX-License-Identifier: Apache-2.0
#pragma once

// Rotary frequencies. Whatever stretches a model's context is folded in here, so that devices know one rule
// only: pair i turns by position * inv_freq[i].

#include <cstdint>
#include <vector>

namespace spillway::model {

struct RopeScaling {
  enum class Kind : std::uint8_t { kNone, kLinear, kLlama3 };
  Kind kind = Kind::kNone;
  double factor = 1;
  // llama3 only: between the two wavelengths original/low and original/high the factor fades in.
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  double original_max_position = 8192;
};

/// theta^(-2i / rotary_dim), scaled. `rotary_dim` even and positive, theta positive; returns [rotary_dim /
/// 2]. llama3: the piecewise rule of Llama 3.1, section 3.4 of arXiv:2407.21783 and Meta's published
/// apply_scaling.
[[nodiscard]] std::vector<float> make_inv_freq(std::int32_t rotary_dim, double theta,
                                               const RopeScaling& scaling);

}  // namespace spillway::model
