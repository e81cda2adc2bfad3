// SPDX-License-Identifier: Apache-2.0
// The real engine on threads with the host device: one prompt gives the same greedy tokens however it is
// served.
#include <cstdlib>

#include "tests/actors/engine_fixture.hpp"

namespace spillway {
namespace {

/// Serves the same prompt in many ways and wants the same tokens each time.
void check_all_ways(const std::filesystem::path& path, std::uint32_t length, std::int32_t count) {
  const auto prompt_for = [&](const Engine& engine, std::uint32_t seed, std::uint32_t tokens) {
    return some_prompt(seed, tokens, engine.model().spec().vocab_size);
  };
  std::vector<model::TokenId> alone;
  {
    auto engine = make(path, [](EngineOptions& o) { o.async_submit = 1; });
    alone = tokens_of(engine->complete({greedy(prompt_for(*engine, 7, length), count)})[0]);
    REQUIRE(alone.size() == static_cast<std::size_t>(count));
    INFO("again, from the prefix cache");
    const Completion again = engine->complete({greedy(prompt_for(*engine, 7, length), count)})[0];
    CHECK(tokens_of(again) == alone);
    CHECK(again.choices[0].usage.cached_tokens > 0);
  }
  {
    INFO("among 31 others");
    auto engine = make(path);
    std::vector<GenerationRequest> requests;
    for (std::uint32_t i = 0; i < 32; ++i) {
      requests.push_back(
          greedy(prompt_for(*engine, i == 13 ? 7 : 100 + i, i == 13 ? length : 3 + 5 * (i % 9)),
                 i == 13 ? count : 10));
    }
    CHECK(tokens_of(engine->complete(std::move(requests))[13]) == alone);
  }
  {
    INFO("in chunks of 7 tokens, three steps in flight, without prefix caching, on one thread");
    auto engine = make(path, [](EngineOptions& o) {
      o.max_num_seqs = 7;
      o.max_num_batched_tokens = 7;
      o.async_submit = 3;
      o.enable_prefix_caching = false;
      o.threads = 1;
    });
    CHECK(tokens_of(engine->complete({greedy(prompt_for(*engine, 7, length), count)})[0]) == alone);
  }
  {
    INFO("preempted");
    auto engine = make(path, [&](EngineOptions& o) {
      Result<model::Model> model = model::Model::load(path);
      const std::size_t per_token = kv_bytes_per_token(
          model->spec(),
          model->dominant_dtype() == model::DType::kF32 ? gpu::KvDType::kF32 : gpu::KvDType::kF16);
      // Room for all four prompts and a spare block each, but not for the answers.
      const auto whole = [](std::uint32_t tokens) { return (tokens + 8) / 8 * 8; };
      o.block_size = 8;
      o.kv_cache_memory_bytes = per_token * (3 * whole(length / 2) + whole(length) + 56);
    });
    std::vector<GenerationRequest> requests;
    for (std::uint32_t i = 0; i < 3; ++i)
      requests.push_back(greedy(prompt_for(*engine, 50 + i, length / 2), count));
    requests.push_back(greedy(prompt_for(*engine, 7, length), count));
    CHECK(tokens_of(engine->complete(std::move(requests))[3]) == alone);
    CHECK(engine->stats().scheduler.preemptions > 0);
  }
  {
    INFO("as one of three choices that share the prompt");
    auto engine = make(path);
    GenerationRequest request = greedy(prompt_for(*engine, 7, length), count);
    request.params.n = 3;
    const Completion completion = engine->complete({std::move(request)})[0];
    for (std::size_t choice = 0; choice < 3; ++choice) CHECK(tokens_of(completion, choice) == alone);
    CHECK(engine->stats().block_manager.forks == 2);
  }
}

TEST_CASE(
    "engine: a small llama answers the same alone, in a crowd, in chunks, preempted, cached and forked") {
  check_all_ways(kModels / "llama-gqa", 45, 40);
}

TEST_CASE("engine: a small OPT answers the same alone, in a crowd, in chunks, preempted, cached and forked") {
  check_all_ways(kModels / "opt", 45, 40);
}

TEST_CASE("engine: SmolLM2 answers the same alone, in a crowd, in chunks, preempted, cached and forked") {
  const char* given = std::getenv("SPILLWAY_TEST_MODEL");
  const std::filesystem::path path =
      given != nullptr ? std::filesystem::path(given)
                       : std::filesystem::path(SPW_SOURCE_DIR) / "models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(path)) {
    WARN("skipped: " << path << " is not there; ./dev model fetches it");
    return;
  }
  check_all_ways(path, 100, 40);
}

TEST_CASE("engine: sampling depends on the seed and the choice, not on the crowd") {
  auto engine = make(kModels / "llama-gqa");
  const auto request = [&](std::uint64_t seed) {
    GenerationRequest r = greedy(some_prompt(3, 20, engine->model().spec().vocab_size), 20);
    r.params.temperature = 1;
    r.params.seed = seed;
    r.params.n = 2;
    return r;
  };
  const Completion once = engine->complete({request(1)})[0];
  const std::vector<Completion> crowd = engine->complete({request(2), request(1), request(3)});
  CHECK(tokens_of(once, 0) == tokens_of(crowd[1], 0));
  CHECK(tokens_of(once, 1) == tokens_of(crowd[1], 1));
  CHECK(tokens_of(once, 0) != tokens_of(once, 1));
  CHECK(tokens_of(once, 0) != tokens_of(crowd[0], 0));
}

TEST_CASE("engine: what cannot run is refused alone, by name") {
  auto engine = make(kModels / "llama-gqa", [](EngineOptions& o) { o.max_model_len = 32; });
  const std::int32_t vocab = engine->model().spec().vocab_size;
  std::vector<GenerationRequest> requests{greedy({}, 4), greedy(some_prompt(1, 32, vocab), 4),
                                          greedy({vocab}, 4), greedy(some_prompt(1, 31, vocab), 4),
                                          greedy(some_prompt(1, 5, vocab), 0)};
  const std::vector<Completion> done = engine->complete(std::move(requests));
  REQUIRE(done[0].refused.has_value());
  CHECK(done[0].refused->message.find("empty") != std::string::npos);
  REQUIRE(done[1].refused.has_value());
  CHECK(done[1].refused->message.find("--max-model-len") != std::string::npos);
  REQUIRE(done[2].refused.has_value());
  CHECK(done[2].refused->message.find("vocabulary") != std::string::npos);
  CHECK(tokens_of(done[3]).size() == 1);  // up to the limit
  CHECK(done[3].choices[0].reason == FinishReason::kLength);
  CHECK(tokens_of(done[4]).empty());
  CHECK(done[4].choices[0].reason == FinishReason::kLength);
}

TEST_CASE("engine: a prompt that the whole KV cache cannot hold is refused, and the others go on") {
  auto engine = make(kModels / "llama-gqa", [](EngineOptions& o) {
    Result<model::Model> model = model::Model::load(o.model);
    o.kv_cache_memory_bytes = kv_bytes_per_token(model->spec(), gpu::KvDType::kF32) * 48;
  });
  const std::int32_t vocab = engine->model().spec().vocab_size;
  const auto done =
      engine->complete({greedy(some_prompt(1, 60, vocab), 4), greedy(some_prompt(2, 10, vocab), 4)});
  REQUIRE(done[0].refused.has_value());
  CHECK(done[0].refused->code == Errc::kOutOfMemory);
  CHECK(done[0].refused->message.find("--kv-cache-memory-bytes") != std::string::npos);
  CHECK(tokens_of(done[1]).size() == 4);
}

TEST_CASE("engine: a thousand requests at once are all answered") {
  auto engine = make(kModels / "opt");
  std::vector<GenerationRequest> requests;
  for (std::uint32_t i = 0; i < 1000; ++i) {
    requests.push_back(greedy(some_prompt(i, 1 + i % 20, engine->model().spec().vocab_size),
                              1 + static_cast<std::int32_t>(i % 5)));
  }
  const auto done = engine->complete(std::move(requests));
  for (std::size_t i = 0; i < done.size(); ++i) REQUIRE(tokens_of(done[i]).size() == 1 + i % 5);
  // They were served in order, so the last waited for most of the others.
  const auto queued = [&](std::size_t i) { return done[i].choices.at(0).usage.queue_time; };
  CHECK(queued(0).count() >= 0);
  CHECK(queued(999) > queued(0));
  CHECK(queued(999) < done[999].choices[0].end - done[999].submitted);
}

TEST_CASE("engine: cancelling a job ends it early, and the engine serves on") {
  auto engine = make(kModels / "llama-gqa");
  const std::int32_t vocab = engine->model().spec().vocab_size;
  std::vector<GenerationRequest> requests;
  for (std::uint32_t i = 0; i < 200; ++i) requests.push_back(greedy(some_prompt(i, 20, vocab), 30));
  const auto done = engine->complete(std::move(requests), {}, [] { return true; });
  for (const Completion& completion : done) {
    if (completion.refused) CHECK(completion.refused->code == Errc::kCancelled);
  }
  CHECK(tokens_of(engine->complete({greedy(some_prompt(1, 5, vocab), 3)})[0]).size() == 3);
  CHECK(engine->stats().block_manager.held == 0);
}

}  // namespace
}  // namespace spillway
