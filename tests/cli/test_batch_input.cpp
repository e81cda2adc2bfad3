// SPDX-License-Identifier: Apache-2.0
#include "cli/batch_input.hpp"

#include "tests/support/catch.hpp"

namespace {

using namespace spillway;
using cli::BatchLine;
using cli::parse_batch;

std::string error_of(std::string_view text) {
  const Result<std::vector<BatchLine>> lines = parse_batch(text, "f");
  return lines ? "" : lines.error().message;
}

}  // namespace

TEST_CASE("batch input: every field of a line is taken") {
  const auto lines = parse_batch(
      R"({"prompt":"p","id":"i","n":2,"max_tokens":3,"temperature":0.5,"top_k":4,"top_p":0.25,"min_p":0.125,)"
      R"("seed":18446744073709551615,"repetition_penalty":1.5,"presence_penalty":-1,"frequency_penalty":2,)"
      R"("stop":["a","b"],"stop_token_ids":[7],"logprobs":0,"ignore_eos":true})",
      "f");
  REQUIRE(lines.ok());
  const BatchLine& line = lines->at(0);
  model::SamplingParams params;
  line.sampling.apply_to(params);
  CHECK(std::get<std::string>(line.prompt) == "p");
  CHECK(line.id == "\"i\"");
  CHECK(params.n == 2);
  CHECK(params.max_tokens == 3);
  CHECK(params.temperature == 0.5f);
  CHECK(params.top_k == 4);
  CHECK(params.top_p == 0.25f);
  CHECK(params.min_p == 0.125f);
  CHECK(params.seed == ~std::uint64_t{0});
  CHECK(params.repetition_penalty == 1.5f);
  CHECK(params.presence_penalty == -1.0f);
  CHECK(params.frequency_penalty == 2.0f);
  CHECK(params.stop == std::vector<std::string>{"a", "b"});
  CHECK(params.stop_token_ids == std::vector<model::TokenId>{7});
  CHECK(params.logprobs == 0);
  CHECK(params.ignore_eos);
}

TEST_CASE("batch input: what a line leaves out, or has as null, is left to the layers below") {
  const auto lines = parse_batch(R"({"prompt":"p","temperature":null,"stop":null})", "f");
  REQUIRE(lines.ok());
  model::SamplingParams params;
  params.temperature = 0.75f;
  params.stop = {"kept"};
  lines->at(0).sampling.apply_to(params);
  CHECK(params.temperature == 0.75f);
  CHECK(params.stop == std::vector<std::string>{"kept"});
}

TEST_CASE("batch input: a line's sparsification lies over the engine's") {
  const auto lines = parse_batch(R"({"prompt":"p","sparse_kv_cache":{"method":"tova","sinks":0}})", "f");
  REQUIRE(lines.ok());
  model::SamplingParams params;
  params.sparse_kv = model::SparseKvParams{.budget = 128, .window = 8};
  lines->at(0).sampling.apply_to(params);
  CHECK(*params.sparse_kv ==
        model::SparseKvParams{.method = model::SparseMethod::kTova, .budget = 128, .sinks = 0, .window = 8});
  CHECK(error_of(R"({"prompt":"p","sparse_kv_cache":{"budget":-1}})") ==
        "f:1: sparse_kv_cache.budget is -1; it must be a whole number of tokens, 1 or more");
}

TEST_CASE("batch input: the id defaults to the request's index and blank lines do not count") {
  const auto lines = parse_batch("\n{\"prompt\":\"a\"}\r\n \t\n{\"prompt\":\"b\"}", "f");
  REQUIRE(lines.ok());
  REQUIRE(lines->size() == 2);
  CHECK(lines->at(0).id == "0");
  CHECK(lines->at(1).id == "1");
  CHECK(lines->at(1).place == "f:4");
}

TEST_CASE("batch input: ids keep their kind") {
  const auto lines = parse_batch(
      "{\"prompt\":\"\",\"id\":\"7\"}\n{\"prompt\":\"\",\"id\":7}\n{\"prompt\":\"\",\"id\":-7}\n"
      "{\"prompt\":\"\",\"id\":18446744073709551615}\n{\"prompt\":\"\",\"id\":0.5}",
      "f");
  REQUIRE(lines.ok());
  std::vector<std::string> ids;
  for (const BatchLine& line : *lines) ids.push_back(line.id);
  CHECK(ids == std::vector<std::string>{"\"7\"", "7", "-7", "18446744073709551615", "0.5"});
}

TEST_CASE("batch input: a byte order mark is no part of the first line") {
  CHECK(parse_batch("\xef\xbb\xbf{\"prompt\":\"a\"}", "f").ok());
}

TEST_CASE("batch input: errors name line and field and say what would be right") {
  CHECK(error_of("{\"prompt\":\"a\"}\n{\"prompt\":\"a\",\"top_k\":1e3}").find("f:2: top_k is 1") == 0);
  CHECK(error_of(R"({"prompt":"a","n":3000000000})") ==
        "f:1: n is 3000000000; it must be a whole number from -2147483648 to 2147483647");
  CHECK(error_of(R"({"prompt":"a","seed":-1})").find("f:1: seed is -1; it must be a whole number from 0") ==
        0);
  CHECK(error_of(R"({"prompt":"a","top_p":1e999})").find("f:1: top_p is inf") == 0);
  CHECK(error_of(R"({"prompt":"a","zebra":1})").find("f:1: 'zebra' is no known field; there are prompt,") ==
        0);
  CHECK(error_of(R"({"messages":[]})") ==
        "f:1: messages is an empty list; it must hold at least one message");
  CHECK(error_of(R"({"messages":["hi"]})").find("f:1: messages[0] is a string") == 0);
  CHECK(error_of("x\ny\nz").find("(and 2 more lines are wrong)") != std::string::npos);
  CHECK(error_of("") == "f: there is no line; each is an object such as {\"prompt\": \"...\"}");
}
