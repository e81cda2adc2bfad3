// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the tests of the whole engine share: a small engine, requests of token ids, and their answers' tokens.

#include <filesystem>
#include <functional>
#include <memory>
#include <vector>

#include "actors/engine.hpp"
#include "tests/support/catch.hpp"

namespace spillway {

inline const std::filesystem::path kModels = std::filesystem::path(SPW_SOURCE_DIR) / "tests/data/models";

inline std::vector<model::TokenId> some_prompt(std::uint32_t seed, std::uint32_t length, std::int32_t vocab) {
  std::vector<model::TokenId> tokens;
  for (std::uint32_t i = 0; i < length; ++i) {
    seed = seed * 1664525u + 1013904223u;
    tokens.push_back(static_cast<model::TokenId>((seed >> 8) % static_cast<std::uint32_t>(vocab)));
  }
  return tokens;
}

inline GenerationRequest greedy(std::vector<model::TokenId> prompt, std::int32_t count) {
  GenerationRequest request{.prompt = std::move(prompt)};
  request.params.temperature = 0;
  request.params.max_tokens = count;
  request.params.ignore_eos = true;
  return request;
}

inline std::unique_ptr<Engine> make(const std::filesystem::path& model,
                                    const std::function<void(EngineOptions&)>& change = {}) {
  EngineOptions options{.model = model, .kv_cache_memory_bytes = 32 << 20, .threads = 2};
  if (change) change(options);
  Result<std::unique_ptr<Engine>> engine = Engine::create(options);
  if (!engine.ok()) FAIL(engine.error().message);
  return *std::move(engine);
}

inline std::vector<model::TokenId> tokens_of(const Completion& completion, std::size_t choice = 0) {
  REQUIRE_FALSE(completion.refused.has_value());
  const CompletedChoice& c = completion.choices.at(choice);
  REQUIRE_FALSE(c.error.has_value());
  std::vector<model::TokenId> tokens;
  for (const TokenInfo& token : c.tokens) tokens.push_back(token.token);
  return tokens;
}

}  // namespace spillway
