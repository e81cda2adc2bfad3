// SPDX-License-Identifier: Apache-2.0
#pragma once

// Sampling on the device: a row of logits to a token, in the order and with the random numbers of
// gpu/host/sampler.hpp. Probabilities are summed as 40-bit fixed point relative to the likeliest token, so a
// sum never depends on the order of its terms, nor a token on the rest of the batch. Tokens of less than 2^-40
// of the likeliest one's probability are never drawn.

#include <cuda_runtime_api.h>

#include <cstdint>

namespace spillway::gpu::cuda {

inline constexpr int kTopMax = 128;  // log probabilities a token

/// What one draw needs; copied with every step.
struct SampleParams {
  std::int32_t row = -1;  // of the device's rows; -1: nothing to draw here
  std::int32_t logits_row = 0;
  float inverse_temperature = 0;  // 0: greedy
  float top_p = 1, min_p = 0;
  std::int32_t top_k = 0;         // 0: off
  float repetition = 1, presence = 0, frequency = 0;
  std::int32_t penalizes = 0;
  std::int32_t logprobs = -1;     // -1: none
  std::int32_t unused = 0;
  double uniform = 0;             // [0, 1)
};

struct SampledRow {
  std::int32_t token = 0;
  float logprob = 0;
  std::int32_t bad = 0;  // a logit is not a number: nothing was drawn
};

struct SamplingArgs {
  const SampleParams* samples = nullptr;  // [count]
  const float* logits = nullptr;          // [rows, vocab]
  int vocab = 0;
  int count = 0;
  std::int32_t* last_tokens = nullptr;    // [max rows]; takes the drawn token
  std::int32_t* seen = nullptr;           // [max rows, vocab] occurrences in the output, bit 30: in the prompt
  SampledRow* results = nullptr;          // [count]
  std::int32_t* top_tokens = nullptr;     // [count, kTopMax]
  float* top_logprobs = nullptr;          // [count, kTopMax]
};
void launch_sampling(const SamplingArgs& args, cudaStream_t stream);

inline constexpr std::int32_t kInPrompt = 1 << 30;

/// Adds tokens (device memory) to a row of `seen`: as of the prompt, or as occurrences in the output.
void launch_count_seen(std::int32_t* seen_row, const std::int32_t* tokens, int count, bool in_prompt,
                       cudaStream_t stream);

}  // namespace spillway::gpu::cuda
