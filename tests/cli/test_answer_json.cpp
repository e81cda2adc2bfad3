// SPDX-License-Identifier: Apache-2.0
#include "cli/answer_json.hpp"

#include <limits>

#include "tests/support/catch.hpp"

namespace {

using namespace spillway;

cli::ChoiceAnswer answer() {
  cli::ChoiceAnswer choice;
  choice.text = "say \"hi\"\n\xc3\xa4";
  choice.tokens = {
      {.token = 5, .logprob = -0.5f, .top = {{5, -0.5f}, {6, -std::numeric_limits<float>::infinity()}}}};
  choice.reason = FinishReason::kLength;
  choice.usage = {.prompt_tokens = 2, .completion_tokens = 1, .cached_tokens = 0};
  return choice;
}

}  // namespace

TEST_CASE("answer JSON: a choice has the documented fields in their order") {
  const std::vector<model::TokenId> prompt = {1, 2};
  CHECK(
      cli::choice_json("\"a\"", 3, prompt, answer(), false) ==
      R"({"id":"a","index":3,"prompt_token_ids":[1,2],"text":"say \"hi\"\nä","token_ids":[5],)"
      R"("finish_reason":"length","logprobs":null,"usage":{"prompt_tokens":2,"completion_tokens":1,"cached_tokens":0}})");
}

TEST_CASE("answer JSON: usage says what sparsification did") {
  cli::ChoiceAnswer choice = answer();
  choice.usage.sparsified = true;
  CHECK(cli::choice_json("0", 0, {}, choice, false)
            .ends_with(R"("cached_tokens":0,"sparse_kv_cache":{"evicted_tokens":0,"exact":true}}})"));
  choice.usage.evicted_tokens = 9;
  CHECK(cli::choice_json("0", 0, {}, choice, false)
            .ends_with(R"("cached_tokens":0,"sparse_kv_cache":{"evicted_tokens":9,"exact":false}}})"));
}

TEST_CASE("answer JSON: log probabilities are numbers even where a probability is zero") {
  const std::string line = cli::choice_json("0", 0, {}, answer(), true);
  CHECK(line.find(R"("logprobs":[{"token_id":5,"logprob":-0.5,"top":[{"token_id":5,"logprob":-0.5},)"
                  R"({"token_id":6,"logprob":-9999}]}])") != std::string::npos);
}

TEST_CASE("answer JSON: a failed choice is an error in its place") {
  cli::ChoiceAnswer choice = answer();
  choice.error = Error{Errc::kDeviceFailed, "the \"device\" failed"};
  CHECK(cli::choice_json("7", 1, {}, choice, false) ==
        R"({"id":7,"index":1,"error":{"message":"the \"device\" failed"}})");
}
