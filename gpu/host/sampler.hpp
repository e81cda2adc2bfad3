// SPDX-License-Identifier: Apache-2.0
#pragma once

// Sampling: from a row of logits to a token. Order, as vLLM's sampler documents it: log-probabilities of the
// raw logits; penalties; then greedy, or temperature, min-p, top-k, top-p on what is left, and a draw by the
// inverse of the cumulative distribution with counter_uniform(seed, choice, output_index). Ties go to the
// lowest id everywhere, so a row's token depends on that row's logits and parameters only.

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "gpu/host/rows_kernels.hpp"
#include "gpu/step_plan.hpp"

namespace spillway::gpu::host {

/// What a row keeps between steps.
class SamplerRow {
 public:
  void reset(const RowInit& init);
  /// Counts a drawn token for the penalties.
  void count(TokenId token);
  /// Penalties, in place. logits [vocab].
  void penalize(std::span<float> logits) const;

  [[nodiscard]] const model::SamplingParams& params() const noexcept { return params_; }
  [[nodiscard]] std::uint32_t choice() const noexcept { return choice_; }
  TokenId last_token = 0;

 private:
  struct Seen {
    bool in_prompt = false;
    std::uint32_t in_output = 0;
  };
  model::SamplingParams params_;
  std::uint32_t choice_ = 0;
  std::unordered_map<TokenId, Seen> seen_;  // only with penalties
};

/// One thread's working memory.
struct SamplerScratch {
  std::vector<std::uint32_t> indices;
  std::vector<double> block_sums;
};

enum class SampleStatus : std::uint8_t { kOk, kNan };

/// Draws from logits [vocab], which it changes. Fills token, logprob and top of `out`. kNan when a logit is
/// not a number (or none is above -inf): nothing was drawn.
[[nodiscard]] SampleStatus sample(const RowKernels& kernels, const SamplerRow& row,
                                  std::uint32_t output_index, std::span<float> logits,
                                  SamplerScratch& scratch, SampledToken* out);

/// The k largest of x, best first, ties to the lower index, into `best`.
void top_k_indices(const RowKernels& kernels, std::span<const float> x, std::size_t k,
                   std::vector<std::uint32_t>& best);

}  // namespace spillway::gpu::host
