// SPDX-License-Identifier: Apache-2.0
#include "model/sparse_kv_fields.hpp"

#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <string>
#include <utility>

#include "tests/support/catch.hpp"

namespace spillway::model::test {
namespace {

Result<SparseKvFields> parsed(std::string_view json) { return parse_sparse_kv(boost::json::parse(json)); }

}  // namespace

TEST_CASE("sparse KV fields: every field is taken") {
  const auto fields = parsed(
      R"({"method":"streaming","budget":100,"num_per_evict":2,"internal":"sparse-copy","granularity":"token",)"
      R"("sinks":8,"recent":50,"heavy":42,"window":16,"positions":"cache"})");
  REQUIRE(fields.ok());
  SparseKvParams params;
  fields->apply_to(params);
  CHECK(params == SparseKvParams{.method = SparseMethod::kStreaming,
                                 .strategy = SparseStrategy::kSparseCopy,
                                 .granularity = SparseGranularity::kToken,
                                 .budget = 100,
                                 .num_per_evict = 2,
                                 .sinks = 8,
                                 .recent = 50,
                                 .heavy = 42,
                                 .window = 16,
                                 .rotate_to_cache = true});
}

TEST_CASE("sparse KV fields: what is absent or null is left to the engine") {
  const SparseKvParams engine{.method = SparseMethod::kTova, .budget = 64, .sinks = 7};
  SparseKvParams params = engine;
  parsed(R"({"method":null,"sinks":null})")->apply_to(params);
  CHECK(params == engine);
  parsed(R"({"granularity":"layer"})")->apply_to(params);
  CHECK(params.granularity == SparseGranularity::kLayer);
  CHECK(params.budget == 64);
}

TEST_CASE("sparse KV: who chooses is left to the method unless somebody says") {
  const auto chosen = [](const char* fields) {
    SparseKvParams params;
    parsed(fields)->apply_to(params);
    const Result<SparseKvParams> whole = resolve(params, 100);
    REQUIRE(whole.ok());
    return whole->granularity;
  };
  CHECK(chosen(R"({"method":"h2o","budget":64})") == SparseGranularity::kHead);
  CHECK(chosen(R"({"method":"snapkv","budget":64,"granularity":"auto"})") == SparseGranularity::kHead);
  CHECK(chosen(R"({"method":"tova","budget":64})") == SparseGranularity::kLayer);
  CHECK(chosen(R"({"method":"tova","budget":64,"granularity":"head"})") == SparseGranularity::kHead);
}

TEST_CASE("sparse KV fields: a budget takes the old one's place, and its quotas with it") {
  SparseKvParams params{.method = SparseMethod::kH2o, .budget = 64, .recent = 30, .heavy = 30};
  parsed(R"({"budget":0.25})")->apply_to(params);
  CHECK(params.budget == 0);
  CHECK(params.budget_fraction == 0.25);
  CHECK_FALSE(params.recent.has_value());
  CHECK_FALSE(params.heavy.has_value());
  parsed(R"({"budget":32,"recent":4})")->apply_to(params);
  CHECK(params.budget == 32);
  CHECK(params.budget_fraction == 0);
  CHECK(params.recent == 4u);
}

TEST_CASE("sparse KV fields: errors begin with the field and say what would be right") {
  const std::pair<const char*, const char*> cases[] = {
      {R"(7)", "sparse_kv_cache is 7; it must be an object"},
      {R"({"methid":"h2o"})", "sparse_kv_cache has no field 'methid'; there are method, budget"},
      {R"({"method":"h3o"})",
       "sparse_kv_cache.method is not right: the method is 'h3o'; there are none, random"},
      {R"({"method":1})", "sparse_kv_cache.method is 1; it must be one of a few words"},
      {R"({"internal":"vllm"})", "sparse_kv_cache.internal is not right: the strategy is 'vllm'"},
      {R"({"granularity":"block"})", "sparse_kv_cache.granularity is not right"},
      {R"({"positions":"new"})", "sparse_kv_cache.positions is not right: the positions are 'new'"},
      {R"({"budget":0})", "sparse_kv_cache.budget is 0; it must be a whole number of tokens, 1 or more"},
      {R"({"budget":1.5})",
       "sparse_kv_cache.budget is 1.5; it must be a whole number of tokens, 1 or more, or a share"},
      {R"({"budget":"many"})", "sparse_kv_cache.budget is \"many\"; it must be"},
      {R"({"sinks":-1})", "sparse_kv_cache.sinks is -1; it must be a whole number of tokens, 0 or more"},
      {R"({"num_per_evict":0})", "sparse_kv_cache.num_per_evict is 0"},
      {R"({"recent":4294967296})", "sparse_kv_cache.recent is 4294967296"}};
  for (const auto& [json, message] : cases) {
    CAPTURE(json);
    const auto fields = parsed(json);
    REQUIRE_FALSE(fields.ok());
    CHECK_THAT(fields.error().message, Catch::Matchers::StartsWith(message));
  }
}

}  // namespace spillway::model::test
