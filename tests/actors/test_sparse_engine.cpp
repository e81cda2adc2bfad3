// SPDX-License-Identifier: Apache-2.0
// Sparsified requests in the real engine with the host device: the answer depends on the request alone.
#include "tests/actors/engine_fixture.hpp"

namespace spillway {
namespace {

using model::SparseGranularity;
using model::SparseKvParams;
using model::SparseMethod;
using model::SparseStrategy;

constexpr std::uint32_t kPrompt = 45;
constexpr std::int32_t kAnswer = 60;

SparseKvParams params_of(SparseMethod method, SparseGranularity granularity,
                         SparseStrategy strategy = SparseStrategy::kSpvllm) {
  SparseKvParams params;
  params.method = method;
  params.granularity = granularity;
  params.strategy = strategy;
  params.budget = 32;
  params.sinks = 2;
  return params;
}

GenerationRequest sparse(const Engine& engine, const SparseKvParams& params) {
  GenerationRequest request = greedy(some_prompt(7, kPrompt, engine.model().spec().vocab_size), kAnswer);
  request.params.sparse_kv = params;
  return request;
}

std::unique_ptr<Engine> make_sparse(const std::filesystem::path& model,
                                    const std::function<void(EngineOptions&)>& change = {}) {
  return make(model, [&](EngineOptions& o) {
    o.sparse_kv_per_request = true;
    if (change) change(o);
  });
}

/// Rows of tokens, so that a failure shows them.
using Tokens = std::vector<model::TokenId>;

Tokens alone(const std::filesystem::path& model, const SparseKvParams& params,
             const std::function<void(EngineOptions&)>& change = {}) {
  auto engine = make_sparse(model, change);
  const Completion completion = engine->complete({sparse(*engine, params)})[0];
  Tokens tokens = tokens_of(completion);
  CHECK(tokens.size() == static_cast<std::size_t>(kAnswer));
  CHECK(completion.choices[0].usage.evicted_tokens > 0);
  CHECK(engine->stats().block_manager.held == 0);
  return tokens;
}

void check_all_ways(const std::filesystem::path& path, const SparseKvParams& params) {
  INFO(model::name_of(params.method) << " " << model::name_of(params.granularity));
  const Tokens expected = alone(path, params, [](EngineOptions& o) { o.async_submit = 1; });
  for (const auto strategy :
       {SparseStrategy::kNoOp, SparseStrategy::kFreeBlock, SparseStrategy::kSparseCopy, SparseStrategy::kSpvllm}) {
    INFO("strategy " << model::name_of(strategy));
    SparseKvParams same_victims = params;
    same_victims.strategy = strategy;
    CHECK(alone(path, same_victims) == expected);
  }
  INFO("in chunks of 7 tokens, three steps in flight, on one thread");
  CHECK(alone(path, params, [](EngineOptions& o) {
          o.max_num_seqs = 7;
          o.max_num_batched_tokens = 7;
          o.async_submit = 3;
          o.threads = 1;
        }) == expected);
  {
    INFO("as one of three choices, among exact requests, which answer as without it");
    auto engine = make_sparse(path);
    const std::int32_t vocab = engine->model().spec().vocab_size;
    const Tokens exact = tokens_of(engine->complete({greedy(some_prompt(7, kPrompt, vocab), 40)})[0]);
    std::vector<GenerationRequest> requests;
    for (std::uint32_t i = 0; i < 12; ++i) requests.push_back(greedy(some_prompt(i % 3 == 0 ? 7 : 90 + i, kPrompt, vocab), 40));
    requests.push_back(sparse(*engine, params));
    requests.back().params.n = 3;
    const std::vector<Completion> done = engine->complete(std::move(requests));
    for (std::size_t choice = 0; choice < 3; ++choice) CHECK(tokens_of(done.back(), choice) == expected);
    for (std::size_t i = 0; i < 12; i += 3) CHECK(tokens_of(done[i]) == exact);
  }
}

TEST_CASE("sparse engine: a small llama answers the same by every strategy, in chunks, in a crowd and as one of three") {
  const auto path = kModels / "llama-gqa";
  check_all_ways(path, params_of(SparseMethod::kH2o, SparseGranularity::kHead));
  check_all_ways(path, params_of(SparseMethod::kTova, SparseGranularity::kLayer));
  check_all_ways(path, params_of(SparseMethod::kStreaming, SparseGranularity::kToken));
  check_all_ways(path, params_of(SparseMethod::kRandom, SparseGranularity::kHead));
}

TEST_CASE("sparse engine: a small OPT answers the same by every strategy, in chunks, in a crowd and as one of three") {
  check_all_ways(kModels / "opt", params_of(SparseMethod::kSnapKv, SparseGranularity::kHead));
  check_all_ways(kModels / "opt", params_of(SparseMethod::kH2o, SparseGranularity::kToken));
}

TEST_CASE("sparse engine: a preempted answer is computed again with the same tokens kept") {
  const auto path = kModels / "llama-gqa";
  for (const auto method : {SparseMethod::kH2o, SparseMethod::kTova}) {
    const SparseKvParams params = params_of(method, SparseGranularity::kHead);
    const Tokens expected = alone(path, params);
    auto engine = make_sparse(path, [&](EngineOptions& o) {
      Result<model::Model> model = model::Model::load(path);
      o.block_size = 8;
      o.kv_cache_memory_bytes = (kv_bytes_per_token(model->spec(), gpu::KvDType::kF32) + 64) * 260;
    });
    const std::int32_t vocab = engine->model().spec().vocab_size;
    // Exact ones that came before grow and take the blocks of the one that came last.
    std::vector<GenerationRequest> requests;
    for (std::uint32_t i = 0; i < 3; ++i) requests.push_back(greedy(some_prompt(50 + i, 25, vocab), 80));
    requests.push_back(sparse(*engine, params));
    const std::vector<Completion> done = engine->complete(std::move(requests));
    CHECK(tokens_of(done.back()) == expected);
    CHECK(done.back().choices[0].usage.preemptions > 0);
  }
}

TEST_CASE("sparse engine: sequences that get no blocks leave the rest of their step as it was") {
  const auto path = kModels / "llama-gqa";
  const SparseKvParams params =
      params_of(SparseMethod::kH2o, SparseGranularity::kHead, SparseStrategy::kSparseCopy);
  const Tokens expected = alone(path, params);
  auto engine = make_sparse(path, [&](EngineOptions& o) {
    Result<model::Model> model = model::Model::load(path);
    o.block_size = 8;
    o.kv_cache_memory_bytes = (kv_bytes_per_token(model->spec(), gpu::KvDType::kF32) + 64) * 260;
  });
  const std::vector<Completion> done =
      engine->complete(std::vector<GenerationRequest>(24, sparse(*engine, params)));
  for (const Completion& completion : done) CHECK(tokens_of(completion) == expected);
  CHECK(engine->stats().block_manager.denials > 0);
  CHECK(engine->stats().scheduler.failed_steps == 0);
}

TEST_CASE("sparse engine: a budget that nothing exceeds gives the exact answer") {
  auto engine = make_sparse(kModels / "llama-gqa");
  SparseKvParams params = params_of(SparseMethod::kH2o, SparseGranularity::kHead);
  params.budget = kPrompt + kAnswer + 1;
  const std::vector<Completion> done = engine->complete(
      {sparse(*engine, params), greedy(some_prompt(7, kPrompt, engine->model().spec().vocab_size), kAnswer)});
  CHECK(tokens_of(done[0]) == tokens_of(done[1]));
  CHECK(done[0].choices[0].usage.evicted_tokens == 0);
}

TEST_CASE("sparse engine: what was not allowed at start is refused by name") {
  auto engine = make(kModels / "llama-gqa");
  const Completion refused =
      engine->complete({sparse(*engine, params_of(SparseMethod::kH2o, SparseGranularity::kHead))})[0];
  REQUIRE(refused.refused.has_value());
  CHECK(refused.refused->message.find("--sparse-kv-cache") != std::string::npos);
}

}  // namespace
}  // namespace spillway
