// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "gpu/counter_random.hpp"

namespace spillway::gpu::host {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Larger first, then lower index.
struct Better {
  std::span<const float> x;
  bool operator()(std::uint32_t a, std::uint32_t b) const { return x[a] > x[b] || (x[a] == x[b] && a < b); }
};

/// Indices of x[i] >= limit, rising.
void at_least(const RowKernels& kernels, std::span<const float> x, float limit,
              std::vector<std::uint32_t>& out) {
  const float below = std::nextafter(limit, -kInfinity);
  out.resize(std::max<std::size_t>(out.capacity(), 1024));
  std::size_t found = kernels.above(x.data(), below, x.size(), out.data(), out.size());
  if (found > out.size()) {
    out.resize(x.size());
    found = kernels.above(x.data(), below, x.size(), out.data(), out.size());
  }
  out.resize(found);
}

/// The first index at which the running sum of weights passes u * total; candidates are few and sorted best
/// first.
std::uint32_t draw_from(std::span<const std::uint32_t> candidates, std::span<const float> scaled,
                        float maximum, std::size_t keep, double u) {
  double total = 0;
  for (std::size_t i = 0; i < keep; ++i)
    total += std::exp(static_cast<double>(scaled[candidates[i]] - maximum));
  const double target = u * total;
  double sum = 0;
  for (std::size_t i = 0; i < keep; ++i) {
    sum += std::exp(static_cast<double>(scaled[candidates[i]] - maximum));
    if (sum > target) return candidates[i];
  }
  return candidates[keep - 1];
}

/// No filter: the distribution over the whole vocabulary, in order of the ids.
std::uint32_t draw_from_all(const RowKernels& kernels, std::span<const float> scaled, float maximum, double u,
                            SamplerScratch& scratch) {
  const std::size_t n = scaled.size();
  scratch.block_sums.resize((n + kSumBlock - 1) / kSumBlock);
  const double total = kernels.sum_exp(scaled.data(), maximum, 1.0f, scratch.block_sums.data(), n);
  const double target = u * total;
  double sum = 0;
  std::size_t block = 0;
  for (; block + 1 < scratch.block_sums.size() && sum + scratch.block_sums[block] <= target; ++block) {
    sum += scratch.block_sums[block];
  }
  // Within the block the weights are summed one by one; rounding may leave the target just beyond its end.
  std::uint32_t last = static_cast<std::uint32_t>(block * kSumBlock);
  const std::size_t end = std::min(n, (block + 1) * kSumBlock);
  for (std::size_t i = block * kSumBlock; i < end; ++i) {
    const double weight = std::exp(static_cast<double>(scaled[i] - maximum));
    if (weight == 0) continue;
    last = static_cast<std::uint32_t>(i);
    sum += weight;
    if (sum > target) break;
  }
  return last;
}

std::uint32_t draw_filtered(const RowKernels& kernels, const model::SamplingParams& params,
                            std::span<const float> scaled, float maximum, double u, SamplerScratch& scratch) {
  std::vector<std::uint32_t>& candidates = scratch.indices;
  const bool has_top_k = params.top_k > 0 && static_cast<std::size_t>(params.top_k) < scaled.size();
  // min-p: p >= min_p * p_max is a distance from the largest logit.
  float limit = params.min_p > 0 ? maximum + std::log(params.min_p) : -kInfinity;
  if (has_top_k) {
    top_k_indices(kernels, scaled, static_cast<std::size_t>(params.top_k), candidates);
    while (candidates.size() > 1 && scaled[candidates.back()] < limit) candidates.pop_back();
  } else if (params.top_p >= 1.0f) {
    at_least(kernels, scaled, limit, candidates);
    std::sort(candidates.begin(), candidates.end(), Better{scaled});
  } else {
    // top-p alone: the nucleus is usually small, so take the best k and double k until they hold enough.
    const double total =
        limit == -kInfinity ? kernels.sum_exp(scaled.data(), maximum, 1.0f, nullptr, scaled.size()) : 0;
    if (limit != -kInfinity) {
      at_least(kernels, scaled, limit, candidates);
      std::sort(candidates.begin(), candidates.end(), Better{scaled});
    } else {
      for (std::size_t k = 64;; k *= 4) {
        top_k_indices(kernels, scaled, std::min(k, scaled.size()), candidates);
        double sum = 0;
        for (const std::uint32_t i : candidates) sum += std::exp(static_cast<double>(scaled[i] - maximum));
        if (k >= scaled.size() || sum >= static_cast<double>(params.top_p) * total) break;
      }
      double sum = 0;
      std::size_t keep = 0;
      while (keep < candidates.size() && sum < static_cast<double>(params.top_p) * total) {
        sum += std::exp(static_cast<double>(scaled[candidates[keep++]] - maximum));
      }
      return draw_from(candidates, scaled, maximum, std::max<std::size_t>(keep, 1), u);
    }
  }
  std::size_t keep = candidates.size();
  if (params.top_p < 1.0f) {
    double total = 0, sum = 0;
    for (const std::uint32_t i : candidates) total += std::exp(static_cast<double>(scaled[i] - maximum));
    keep = 0;
    while (keep < candidates.size() && sum < static_cast<double>(params.top_p) * total) {
      sum += std::exp(static_cast<double>(scaled[candidates[keep++]] - maximum));
    }
  }
  return draw_from(candidates, scaled, maximum, std::max<std::size_t>(keep, 1), u);
}

}  // namespace

void SamplerRow::reset(const RowInit& init) {
  params_ = init.params;
  choice_ = init.choice;
  seen_.clear();
  for (const TokenId token : init.prompt_tokens) seen_[token].in_prompt = true;
  for (const TokenId token : init.output_tokens) ++seen_[token].in_output;
}

void SamplerRow::count(TokenId token) {
  if (params_.has_penalties()) ++seen_[token].in_output;
}

void SamplerRow::penalize(std::span<float> logits) const {
  for (const auto& [token, seen] : seen_) {
    float& logit = logits[static_cast<std::size_t>(token)];
    logit = logit > 0 ? logit / params_.repetition_penalty : logit * params_.repetition_penalty;
    if (seen.in_output == 0) continue;
    logit -= params_.frequency_penalty * static_cast<float>(seen.in_output) + params_.presence_penalty;
  }
}

void top_k_indices(const RowKernels& kernels, std::span<const float> x, std::size_t k,
                   std::vector<std::uint32_t>& best) {
  k = std::min(k, x.size());
  // Guess a limit that leaves a few times k: the k-th best of a sample is near the k-th best of all. Widen it
  // until enough pass; then only those are sorted.
  float limit = -kInfinity;
  if (k * 8 < x.size()) {
    constexpr std::size_t kStride = 16;
    best.clear();
    for (std::size_t i = 0; i < x.size(); i += kStride) best.push_back(static_cast<std::uint32_t>(i));
    const std::size_t rank = std::min(best.size() - 1, 2 * k / kStride + 4);
    std::nth_element(best.begin(), best.begin() + static_cast<std::ptrdiff_t>(rank), best.end(), Better{x});
    limit = x[best[rank]];
  }
  at_least(kernels, x, limit, best);
  if (best.size() < k) at_least(kernels, x, -kInfinity, best);
  if (best.size() < k) {  // -inf itself is not above anything
    best.resize(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) best[i] = static_cast<std::uint32_t>(i);
  }
  std::partial_sort(best.begin(), best.begin() + static_cast<std::ptrdiff_t>(k), best.end(), Better{x});
  best.resize(k);
}

SampleStatus sample(const RowKernels& kernels, const SamplerRow& row, std::uint32_t output_index,
                    std::span<float> logits, SamplerScratch& scratch, SampledToken* out) {
  const model::SamplingParams& params = row.params();
  LogitScan scan = kernels.scan(logits.data(), logits.size());
  if (scan.has_nan || !std::isfinite(scan.maximum)) return SampleStatus::kNan;

  double log_total = 0;
  const float raw_maximum = scan.maximum;
  const auto logprob = [&](float logit) {
    return static_cast<float>(static_cast<double>(logit - raw_maximum) - log_total);
  };
  float chosen_raw = scan.maximum;
  const bool wants_logprobs = params.logprobs >= 0;
  if (wants_logprobs) {
    log_total = std::log(kernels.sum_exp(logits.data(), scan.maximum, 1.0f, nullptr, logits.size()));
    top_k_indices(kernels, logits, static_cast<std::size_t>(params.logprobs), scratch.indices);
    out->top.clear();
    out->top.reserve(scratch.indices.size());
    for (const std::uint32_t i : scratch.indices) {
      out->top.push_back({static_cast<TokenId>(i), logprob(logits[i])});
    }
  }

  std::vector<float> raw;  // penalties overwrite what the chosen token's logprob needs
  if (params.has_penalties()) {
    if (wants_logprobs) raw.assign(logits.begin(), logits.end());
    row.penalize(logits);
    scan = kernels.scan(logits.data(), logits.size());
    if (scan.has_nan || !std::isfinite(scan.maximum)) return SampleStatus::kNan;
  }

  std::uint32_t token = scan.argmax;
  if (!params.greedy()) {
    const double u = counter_uniform(params.seed, row.choice(), output_index);
    const float inverse = 1.0f / params.temperature;
    const bool filtered = params.min_p > 0 || params.top_k > 0 || params.top_p < 1.0f;
    if (wants_logprobs && raw.empty()) raw.assign(logits.begin(), logits.end());
    // A tiny temperature overflows the scale: distances from the maximum stay finite where it matters.
    kernels.scale(logits.data(), std::min(inverse, 1e30f), logits.size());
    const LogitScan scaled = kernels.scan(logits.data(), logits.size());
    if (!scaled.has_nan && std::isfinite(scaled.maximum)) {
      token = filtered ? draw_filtered(kernels, params, logits, scaled.maximum, u, scratch)
                       : draw_from_all(kernels, logits, scaled.maximum, u, scratch);
    }
  }
  out->token = static_cast<TokenId>(token);
  if (wants_logprobs) {
    chosen_raw = raw.empty() ? logits[token] : raw[token];
    out->logprob = logprob(chosen_raw);
  }
  return SampleStatus::kOk;
}

}  // namespace spillway::gpu::host
