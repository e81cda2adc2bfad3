// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "gpu/counter_random.hpp"
#include "tests/support/catch.hpp"

namespace spillway::gpu::host {
namespace {

constexpr std::size_t kVocab = 1000;

std::vector<float> random_logits(unsigned seed, std::size_t n = kVocab) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

struct Draw {
  model::SamplingParams params;
  std::vector<TokenId> prompt, output;
  std::uint32_t choice = 0;

  SampledToken operator()(std::vector<float> logits, std::uint32_t index = 0) const {
    SamplerRow row;
    row.reset({RowId{0}, params, choice, prompt, output});
    SamplerScratch scratch;
    SampledToken out;
    REQUIRE(sample(row_kernels(detect_cpu_target()), row, index, logits, scratch, &out) == SampleStatus::kOk);
    return out;
  }
};

/// How often each token comes in n draws.
std::map<TokenId, int> histogram(const Draw& draw, const std::vector<float>& logits, int n) {
  std::map<TokenId, int> counts;
  for (int i = 0; i < n; ++i) ++counts[draw(logits, static_cast<std::uint32_t>(i)).token];
  return counts;
}

std::vector<std::uint32_t> sorted_ids(const std::vector<float>& x) {
  std::vector<std::uint32_t> ids(x.size());
  std::iota(ids.begin(), ids.end(), 0u);
  std::stable_sort(ids.begin(), ids.end(), [&x](std::uint32_t a, std::uint32_t b) { return x[a] > x[b]; });
  return ids;
}

}  // namespace

TEST_CASE("sampler: temperature 0 takes the largest logit, the lowest id among equals") {
  Draw draw;
  draw.params.temperature = 0;
  std::vector<float> logits = random_logits(1);
  logits[700] = logits[300] = 50;
  CHECK(draw(logits).token == 300);
}

TEST_CASE("sampler: draws follow the softmax at the given temperature") {
  const float temperature = GENERATE(0.5f, 1.0f, 2.0f);
  Draw draw;
  draw.params.temperature = temperature;
  const std::vector<float> logits = {0, 1, 2, -1, 0.5f};
  constexpr int kDraws = 20000;
  const std::map<TokenId, int> counts = histogram(draw, logits, kDraws);
  double total = 0;
  for (const float x : logits) total += std::exp(x / temperature);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double p = std::exp(logits[i] / temperature) / total;
    const double sigma = std::sqrt(kDraws * p * (1 - p));
    INFO("token " << i << ", probability " << p);
    CHECK(std::abs(counts.at(static_cast<TokenId>(i)) - kDraws * p) < 4.5 * sigma);
  }
}

TEST_CASE("sampler: top-k draws from the k largest only, and from each of them") {
  Draw draw;
  draw.params.temperature = 5;
  draw.params.top_k = 7;
  const std::vector<float> logits = random_logits(2);
  const std::vector<std::uint32_t> best = sorted_ids(logits);
  std::set<TokenId> expected(best.begin(), best.begin() + 7), seen;
  for (const auto& [token, count] : histogram(draw, logits, 2000)) seen.insert(token);
  CHECK(seen == expected);
}

TEST_CASE("sampler: top-p keeps the smallest set whose probability reaches p") {
  const float top_p = GENERATE(0.1f, 0.5f, 0.9f);
  Draw draw;
  draw.params.top_p = top_p;
  const std::vector<float> logits = random_logits(3);
  const std::vector<std::uint32_t> best = sorted_ids(logits);
  double total = 0, sum = 0;
  for (const float x : logits) total += std::exp(double{x});
  std::size_t keep = 0;
  while (sum < top_p * total) sum += std::exp(double{logits[best[keep++]]});
  const std::set<TokenId> nucleus(best.begin(), best.begin() + static_cast<std::ptrdiff_t>(keep));
  for (const auto& [token, count] : histogram(draw, logits, 3000)) CHECK(nucleus.count(token) == 1);
}

TEST_CASE("sampler: min-p drops what is less likely than its share of the best") {
  Draw draw;
  draw.params.min_p = 0.2f;
  draw.params.temperature = 2;
  const std::vector<float> logits = random_logits(4);
  const float top = *std::max_element(logits.begin(), logits.end());
  std::set<TokenId> seen;
  for (const auto& [token, count] : histogram(draw, logits, 3000)) {
    seen.insert(token);
    CHECK(std::exp((logits[static_cast<std::size_t>(token)] - top) / 2) >= 0.2 * 0.9999);
  }
  CHECK(seen.size() > 1);
}

TEST_CASE("sampler: filters combine, min-p and top-k before top-p") {
  Draw draw;
  draw.params.top_k = 3;
  draw.params.top_p = 0.6f;
  // Among the three best p is 0.5, 0.3, 0.2: top-p 0.6 keeps two of them; of all seven it would keep three.
  std::vector<float> logits;
  for (const float p : {0.5f, 0.3f, 0.2f, 0.19f, 0.19f, 0.19f, 0.19f}) logits.push_back(std::log(p));
  std::set<TokenId> seen;
  for (const auto& [token, count] : histogram(draw, logits, 1000)) seen.insert(token);
  CHECK(seen == std::set<TokenId>{0, 1});
}

TEST_CASE("sampler: a token depends on seed, choice and index, and on nothing else") {
  Draw draw;
  draw.params.seed = 42;
  const std::vector<float> logits = random_logits(5);
  const auto sequence = [&logits](const Draw& d) {
    std::vector<TokenId> tokens;
    for (std::uint32_t i = 0; i < 20; ++i) tokens.push_back(d(logits, i).token);
    return tokens;
  };
  const std::vector<TokenId> first = sequence(draw);
  CHECK(sequence(draw) == first);
  Draw other = draw;
  other.choice = 1;
  CHECK(sequence(other) != first);
  other = draw;
  other.params.seed = 43;
  CHECK(sequence(other) != first);
}

TEST_CASE("sampler: penalties act on what was seen, as often as they should") {
  Draw draw;
  draw.params.temperature = 0;
  draw.params.logprobs = 0;
  draw.prompt = {0};
  draw.output = {1, 1, 2};
  const std::vector<float> logits = {4, 3.9f, 3.8f, 3.7f, -1};
  SECTION("none") { CHECK(draw(logits).token == 0); }
  SECTION("repetition covers the prompt and divides positive logits") {
    draw.params.repetition_penalty = 2;
    CHECK(draw(logits).token == 3);
  }
  SECTION("repetition multiplies negative logits") {
    draw.params.repetition_penalty = 2;
    draw.prompt = {0, 3};
    CHECK(draw({-1, -5, -5, -1.9f, -1.95f}).token == 3 + 1);
  }
  SECTION("presence covers the output only") {
    draw.params.presence_penalty = 1;
    CHECK(draw(logits).token == 0);
    CHECK(draw({2, 3.9f, 3.8f, 3.0f, -1}).token == 3);
  }
  SECTION("frequency counts occurrences") {
    draw.params.frequency_penalty = 0.5f;
    CHECK(draw({2, 4, 3.6f, 0, 0}).token == 2);  // 4 - 1 against 3.6 - 0.5
  }
  SECTION("the reported logprob is of the raw logits") {
    draw.params.repetition_penalty = 2;
    double total = 0;
    for (const float x : logits) total += std::exp(double{x});
    CHECK(draw(logits).logprob == Approx(3.7 - std::log(total)).epsilon(1e-5));
  }
}

TEST_CASE("sampler: logprobs are the log-softmax of the raw logits, best first, whatever the temperature") {
  Draw draw;
  draw.params.temperature = GENERATE(0.0f, 0.7f);
  draw.params.logprobs = 20;
  std::vector<float> logits = random_logits(6, 49152);
  logits[10] = logits[20000];  // equal ones in order of their ids
  const SampledToken token = draw(logits);
  const std::vector<std::uint32_t> best = sorted_ids(logits);
  double total = 0;
  for (const float x : logits) total += std::exp(double{x});
  REQUIRE(token.top.size() == 20);
  for (std::size_t i = 0; i < 20; ++i) {
    CHECK(token.top[i].token == static_cast<TokenId>(best[i]));
    CHECK(token.top[i].logprob == Approx(logits[best[i]] - std::log(total)).epsilon(1e-5));
  }
  CHECK(token.logprob ==
        Approx(logits[static_cast<std::size_t>(token.token)] - std::log(total)).epsilon(1e-5));
}

TEST_CASE("sampler: the k best are right for every k, ties and infinities included") {
  std::vector<float> x = random_logits(7);
  for (std::size_t i = 0; i < x.size(); i += 3) x[i] = std::round(x[i]);
  for (std::size_t i = 1; i < x.size(); i += 5) x[i] = -INFINITY;
  const std::vector<std::uint32_t> order = sorted_ids(x);
  for (const std::size_t k : {0u, 1u, 2u, 20u, 64u, 124u, 125u, 500u, 900u, 1000u, 2000u}) {
    INFO("k = " << k);
    std::vector<std::uint32_t> best;
    top_k_indices(row_kernels(detect_cpu_target()), x, k, best);
    CHECK(best == std::vector<std::uint32_t>(
                      order.begin(),
                      order.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(k, x.size()))));
  }
}

TEST_CASE("sampler: a NaN or a row without any finite logit is reported, not drawn from") {
  SamplerRow row;
  row.reset({});
  SamplerScratch scratch;
  SampledToken out;
  std::vector<float> logits = random_logits(8);
  logits[999] = NAN;
  CHECK(sample(row_kernels(detect_cpu_target()), row, 0, logits, scratch, &out) == SampleStatus::kNan);
  std::fill(logits.begin(), logits.end(), -INFINITY);
  CHECK(sample(row_kernels(detect_cpu_target()), row, 0, logits, scratch, &out) == SampleStatus::kNan);
}

TEST_CASE("sampler: tiny temperatures and huge logits still give the best token") {
  Draw draw;
  draw.params.temperature = 1e-30f;
  std::vector<float> logits = random_logits(9);
  logits[123] = 1e30f;
  CHECK(draw(logits).token == 123);
  logits[123] = 60;
  CHECK(draw(logits).token == 123);
}

TEST_CASE("sampler: counter random numbers are uniform and differ in every argument") {
  double sum = 0, squares = 0;
  constexpr int kDraws = 100000;
  for (int i = 0; i < kDraws; ++i) {
    const double u = counter_uniform(1, 0, static_cast<std::uint32_t>(i));
    CHECK((u >= 0 && u < 1));
    sum += u;
    squares += u * u;
  }
  CHECK(sum / kDraws == Approx(0.5).margin(0.004));
  CHECK(squares / kDraws == Approx(1.0 / 3).margin(0.004));
  CHECK(counter_uniform(1, 0, 1) != counter_uniform(1, 1, 0));
  CHECK(counter_uniform(1, 0, 1) != counter_uniform(2, 0, 1));
}

}  // namespace spillway::gpu::host
