// SPDX-License-Identifier: Apache-2.0
#include "model/rope.hpp"

#include <cmath>
#include <numbers>

#include "runtime/check.hpp"

namespace spillway::model {
namespace {

// Single precision, step by step as transformers does it: its rounding, grown by a position of thousands, is
// larger than what an exact frequency would gain, and it is the reference that answers are compared with.
float scale_llama3(float frequency, const RopeScaling& scaling) {
  const auto factor = static_cast<float>(scaling.factor);
  const auto original = static_cast<float>(scaling.original_max_position);
  const auto low = static_cast<float>(scaling.low_freq_factor);
  const auto high = static_cast<float>(scaling.high_freq_factor);
  const float wavelength = 2 * std::numbers::pi_v<float> / frequency;
  if (wavelength > original / low) return frequency / factor;
  if (wavelength < original / high) return frequency;
  const float kept = (original / wavelength - low) / (high - low);
  return (1 - kept) * (frequency / factor) + kept * frequency;
}

}  // namespace

std::vector<float> make_inv_freq(std::int32_t rotary_dim, double theta, const RopeScaling& scaling) {
  SPW_CHECK(rotary_dim > 0 && rotary_dim % 2 == 0 && theta > 0);
  std::vector<float> out(static_cast<std::size_t>(rotary_dim) / 2);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rotary_dim);
    float frequency = 1.0f / std::pow(static_cast<float>(theta), exponent);
    if (scaling.kind == RopeScaling::Kind::kLinear) frequency /= static_cast<float>(scaling.factor);
    if (scaling.kind == RopeScaling::Kind::kLlama3) frequency = scale_llama3(frequency, scaling);
    out[i] = frequency;
  }
  return out;
}

}  // namespace spillway::model
