// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "model/spec.hpp"

namespace spillway::gpu::cuda {

__device__ __forceinline__ float activate(model::Activation activation, float x) {
  switch (activation) {
    case model::Activation::kSilu:
      return x / (1.0f + __expf(-x));
    case model::Activation::kRelu:
      return fmaxf(x, 0.0f);
    case model::Activation::kGelu:
      return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case model::Activation::kGeluTanh:
      return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
  }
  return x;
}

}  // namespace spillway::gpu::cuda
