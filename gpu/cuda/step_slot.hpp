// SPDX-License-Identifier: Apache-2.0
#pragma once

// StepSlot: what one step in flight holds: its inputs on their way to the device, its results on their way back, and the
// events between. Owned and used by a CudaDevice, again and again.

#include <cstdint>
#include <vector>

#include "gpu/cuda/check_cuda.hpp"
#include "gpu/cuda/cuda_options.hpp"
#include "gpu/cuda/sampling.hpp"
#include "gpu/cuda/step_inputs.hpp"
#include "gpu/step_plan.hpp"

namespace spillway::gpu::cuda {

struct StepSlot {
  Memory inputs;            // pinned
  StepInputs host;
  Memory arrived_inputs;    // the same on the device
  StepInputs arrived;
  Memory left_results;      // on the device, on their way to `results`
  Memory results;           // pinned
  SampledRow* rows = nullptr;
  std::int32_t* top_tokens = nullptr;
  float* top_logprobs = nullptr;
  Memory emptied;           // pinned; [table entries] only where sequences may be sparsified
  std::vector<float> logits;  // only for the tests' hook
  cudaEvent_t begin = nullptr, end = nullptr;  // of the computation
  cudaEvent_t inputs_there = nullptr, done = nullptr;  // done: the results are in pinned memory

  Ticket ticket = 0;
  StepPlan plan;            // keeps what pageable copies read
  std::vector<std::uint32_t> sampled;
  std::vector<std::int32_t> logprobs;  // [sampled]

  StepSlot() = default;
  ~StepSlot();
  StepSlot(const StepSlot&) = delete;
  StepSlot& operator=(const StepSlot&) = delete;

  /// `logits`: of so many tokens are read for the tests' hook; 0: none. Errors: kOutOfMemory, kDeviceFailed.
  [[nodiscard]] Result<void> allocate(const StepLimits& limits, std::uint32_t logits);
  /// The same place on the device as one in `results`.
  [[nodiscard]] char* left(const void* pinned) const {
    return left_results.as<char>() + (static_cast<const char*>(pinned) - results.as<char>());
  }
  /// The tokens that the step drew, once it is done; a row without finite logits fails the result.
  void read_tokens(std::uint32_t vocab, const decltype(CudaOptions::on_logits)& on_logits, StepResult& result) const;
};

}  // namespace spillway::gpu::cuda
