// SPDX-License-Identifier: Apache-2.0
#include "model/sampling_params.hpp"

#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/catch.hpp"

namespace spillway::model::test {

TEST_CASE("sampling params: the defaults and the ends of every range are accepted") {
  CHECK(validate(SamplingParams{}).ok());
  const std::vector<std::function<void(SamplingParams&)>> edits = {
      [](auto& p) { p.max_tokens = 0; },
      [](auto& p) { p.temperature = 0; },
      [](auto& p) { p.top_k = -1; },
      [](auto& p) { p.top_p = 1e-6f; },
      [](auto& p) { p.min_p = 0; },
      [](auto& p) { p.min_p = 1; },
      [](auto& p) { p.repetition_penalty = 0.1f; },
      [](auto& p) { p.presence_penalty = -2; },
      [](auto& p) { p.frequency_penalty = 2; },
      [](auto& p) { p.logprobs = 0; },
      [](auto& p) { p.stop = {"x"}; },
      [](auto& p) { p.stop_token_ids = {0}; }};
  for (const auto& edit : edits) {
    SamplingParams params;
    edit(params);
    CHECK(validate(params).ok());
  }
}

TEST_CASE("sampling params: a value out of range is refused by its field, value and range") {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinite = std::numeric_limits<float>::infinity();
  const std::vector<std::pair<std::string, std::function<void(SamplingParams&)>>> edits = {
      {"max_tokens is -1; it must be 0 or more", [](auto& p) { p.max_tokens = -1; }},
      {"temperature is -0.5; ", [](auto& p) { p.temperature = -0.5f; }},
      {"temperature is nan; ", [=](auto& p) { p.temperature = nan; }},
      {"temperature is inf; ", [=](auto& p) { p.temperature = infinite; }},
      {"top_k is -2; ", [](auto& p) { p.top_k = -2; }},
      {"top_p is 0; it must be over 0 and at most 1", [](auto& p) { p.top_p = 0; }},
      {"top_p is 1.5; ", [](auto& p) { p.top_p = 1.5f; }},
      {"top_p is nan; ", [=](auto& p) { p.top_p = nan; }},
      {"min_p is -0.1; ", [](auto& p) { p.min_p = -0.1f; }},
      {"min_p is nan; ", [=](auto& p) { p.min_p = nan; }},
      {"repetition_penalty is 0; ", [](auto& p) { p.repetition_penalty = 0; }},
      {"repetition_penalty is inf; ", [=](auto& p) { p.repetition_penalty = infinite; }},
      {"presence_penalty is 2.5; it must be between -2 and 2", [](auto& p) { p.presence_penalty = 2.5f; }},
      {"frequency_penalty is nan; ", [=](auto& p) { p.frequency_penalty = nan; }},
      {"stop[1] is empty; ",
       [](auto& p) {
         p.stop = {"a", ""};
       }},
      {"stop_token_ids[0] is -5; ", [](auto& p) { p.stop_token_ids = {-5}; }},
      {"n is 0; it must be 1 or more", [](auto& p) { p.n = 0; }},
      {"logprobs is -2; ", [](auto& p) { p.logprobs = -2; }}};
  for (const auto& [message, edit] : edits) {
    SamplingParams params;
    edit(params);
    const auto result = validate(params);
    INFO(message);
    REQUIRE_FALSE(result.ok());
    CHECK(result.error().code == Errc::kInvalidArgument);
    CHECK(result.error().message.find(message) == 0);
  }
}

}  // namespace spillway::model::test
