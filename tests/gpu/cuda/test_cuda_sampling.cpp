// SPDX-License-Identifier: Apache-2.0

// The device's sampler against the host's on the same logits.

#include "gpu/cuda/sampling.hpp"

#include "gpu/counter_random.hpp"
#include "gpu/host/sampler.hpp"
#include "tests/gpu/cuda/gpu.hpp"

namespace spillway::gpu::cuda {
namespace {

struct Case {
  model::SamplingParams params;
  std::vector<TokenId> prompt, output;
};

SampleParams device_params(const model::SamplingParams& params, int row, std::uint32_t index) {
  SampleParams p;
  p.row = p.logits_row = row;
  p.inverse_temperature = params.greedy() ? 0.0f : std::min(1.0f / params.temperature, 1e30f);
  p.top_p = params.top_p;
  p.min_p = params.min_p;
  p.top_k = std::max(params.top_k, 0);
  p.repetition = params.repetition_penalty;
  p.presence = params.presence_penalty;
  p.frequency = params.frequency_penalty;
  p.penalizes = params.has_penalties() ? 1 : 0;
  p.logprobs = params.logprobs;
  p.uniform = counter_uniform(params.seed, 0, index);
  return p;
}

std::vector<Case> many_cases() {
  std::vector<Case> cases;
  for (const float temperature : {0.0f, 0.3f, 1.0f, 1.7f, 1e-12f}) {
    for (const std::int32_t top_k : {0, 1, 5, 300, 5000}) {
      for (const float top_p : {1.0f, 0.9f, 0.3f, 1e-6f}) {
        for (const float min_p : {0.0f, 0.02f, 1.0f}) {
          Case c;
          c.params.temperature = temperature;
          c.params.top_k = top_k;
          c.params.top_p = top_p;
          c.params.min_p = min_p;
          c.params.seed = cases.size();
          if (cases.size() % 3 == 1) {
            c.params.repetition_penalty = 1.4f;
            c.params.presence_penalty = 0.5f;
            c.params.frequency_penalty = -0.25f;
            c.prompt = {1, 2, 3, 3, 17};
            c.output = {2, 5, 5, 5};
          }
          if (cases.size() % 4 == 2) c.params.logprobs = static_cast<std::int32_t>(cases.size() % 7);
          cases.push_back(c);
        }
      }
    }
  }
  return cases;
}

}  // namespace

TEST_CASE("cuda sampling: the same logits and parameters draw the host's token and log probabilities") {
  SPW_NEEDS_GPU();
  const int vocab = GENERATE(2, 131, 1000, 32001);
  const bool ties = GENERATE(false, true);
  const std::vector<Case> cases = many_cases();
  const auto size = static_cast<std::size_t>(vocab);
  std::vector<float> logits;
  std::vector<SampleParams> samples;
  std::vector<std::int32_t> seen(cases.size() * size, 0);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    std::vector<float> row = random_values(size, static_cast<unsigned>(i), 3);
    if (ties)
      for (float& x : row) x = std::round(x);
    logits.insert(logits.end(), row.begin(), row.end());
    samples.push_back(device_params(cases[i].params, static_cast<int>(i), 4));
    for (const TokenId token : cases[i].prompt) seen[i * size + static_cast<std::size_t>(token % vocab)] |= kInPrompt;
    for (const TokenId token : cases[i].output) ++seen[i * size + static_cast<std::size_t>(token % vocab)];
  }
  const DeviceArray<float> device_logits(logits);
  const DeviceArray<SampleParams> device_samples(samples);
  const DeviceArray<std::int32_t> device_seen(seen), last(cases.size());
  const DeviceArray<SampledRow> results(cases.size());
  const DeviceArray<std::int32_t> top_tokens(cases.size() * kTopMax);
  const DeviceArray<float> top_logprobs(cases.size() * kTopMax);
  launch_sampling({device_samples.data(), device_logits.data(), vocab, static_cast<int>(cases.size()), last.data(),
                   device_seen.data(), results.data(), top_tokens.data(), top_logprobs.data()},
                  nullptr);
  finish();
  const std::vector<SampledRow> drawn = results.read();
  const std::vector<std::int32_t> fed = last.read(), tops = top_tokens.read();
  const std::vector<float> top_values = top_logprobs.read();
  int different = 0;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const Case& c = cases[i];
    INFO("case " << i << ": temperature " << c.params.temperature << ", top_k " << c.params.top_k << ", top_p "
                 << c.params.top_p << ", min_p " << c.params.min_p << ", vocabulary " << vocab);
    host::SamplerRow row;
    RowInit init{RowId{0}, c.params, 0, c.prompt, c.output};
    for (auto* list : {&init.prompt_tokens, &init.output_tokens})
      for (TokenId& token : *list) token %= vocab;
    row.reset(init);
    host::SamplerScratch scratch;
    SampledToken expected;
    std::vector<float> own(logits.begin() + static_cast<std::ptrdiff_t>(i * size),
                           logits.begin() + static_cast<std::ptrdiff_t>((i + 1) * size));
    REQUIRE(host::sample(host::row_kernels(host::detect_cpu_target()), row, 4, own, scratch, &expected) ==
            host::SampleStatus::kOk);
    CHECK(drawn[i].bad == 0);
    CHECK(drawn[i].token == fed[i]);
    if (drawn[i].token != expected.token) {
      ++different;  // a sum rounded the other way: tolerated once, below
      WARN("case " << i << " of vocabulary " << vocab << ": drew " << drawn[i].token << " for " << expected.token
                   << "; temperature " << c.params.temperature << ", top_k " << c.params.top_k << ", top_p " << c.params.top_p
                   << ", min_p " << c.params.min_p << ", penalties " << c.params.has_penalties());
      continue;
    }
    CHECK(std::abs(drawn[i].logprob - expected.logprob) < 1e-4f);
    for (std::size_t k = 0; k < expected.top.size(); ++k) {
      CHECK(tops[i * kTopMax + k] == expected.top[k].token);
      CHECK(std::abs(top_values[i * kTopMax + k] - expected.top[k].logprob) < 1e-4f);
    }
  }
  CHECK(different <= 1);
}

TEST_CASE("cuda sampling: logits that are no numbers are reported, rows without a draw are left alone") {
  SPW_NEEDS_GPU();
  std::vector<float> logits(3 * 50, 1.0f);
  logits[7] = NAN;
  for (std::size_t i = 50; i < 100; ++i) logits[i] = -INFINITY;
  std::vector<SampleParams> samples(3);
  for (int i = 0; i < 2; ++i) samples[static_cast<std::size_t>(i)] = device_params({}, i, 0);
  const DeviceArray<float> device_logits(logits);
  const DeviceArray<SampleParams> device_samples(samples);
  const DeviceArray<std::int32_t> seen(std::vector<std::int32_t>(150, 0)), last(std::vector<std::int32_t>{-5, -5, -5});
  const DeviceArray<SampledRow> results(3);
  const DeviceArray<std::int32_t> top_tokens(3 * kTopMax);
  const DeviceArray<float> top_logprobs(3 * kTopMax);
  launch_sampling({device_samples.data(), device_logits.data(), 50, 3, last.data(), seen.data(), results.data(),
                   top_tokens.data(), top_logprobs.data()},
                  nullptr);
  finish();
  CHECK(results.read()[0].bad == 1);
  CHECK(results.read()[1].bad == 1);
  CHECK(last.read() == std::vector<std::int32_t>{-5, -5, -5});
}

}  // namespace spillway::gpu::cuda
