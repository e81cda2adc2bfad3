// SPDX-License-Identifier: Apache-2.0
#include "net/conversations.hpp"

#include "net/metrics.hpp"
#include "tests/support/catch.hpp"

namespace spillway::net {
namespace {

std::vector<model::Message> words(std::string text) { return {{"user", std::move(text)}}; }

TEST_CASE("conversations: found by their owner, and on their connection when they are not stored") {
  Conversations all(10, 1 << 20);
  all.put("a", 1, 0, words("x"));
  all.put("b", 1, 7, words("y"));
  REQUIRE(all.find("a", 1, 99) != nullptr);
  CHECK(all.find("a", 1, 99)->front().content == "x");
  CHECK(all.find("a", 2, 99) == nullptr);
  CHECK(all.find("b", 1, 7) != nullptr);
  CHECK(all.find("b", 1, 8) == nullptr);
  CHECK(all.find("c", 1, 7) == nullptr);
  all.forget_connection(7);
  CHECK(all.find("b", 1, 7) == nullptr);
  CHECK(all.size() == 1);
}

TEST_CASE("conversations: the one unused longest makes room") {
  Conversations all(3, 1 << 20);
  for (const char* id : {"a", "b", "c"}) all.put(id, 0, 0, words("x"));
  CHECK(all.find("a", 0, 0) != nullptr);
  all.put("d", 0, 0, words("x"));
  CHECK(all.find("b", 0, 0) == nullptr);
  CHECK(all.find("a", 0, 0) != nullptr);
  CHECK(all.size() == 3);

  Conversations small(100, 4000);
  for (int i = 0; i < 20; ++i) small.put(std::to_string(i), 0, 0, words(std::string(500, 'x')));
  CHECK(small.bytes() <= 4000);
  CHECK(small.size() >= 2);
  small.put("huge", 0, 0, words(std::string(5000, 'x')));
  CHECK(small.find("huge", 0, 0) == nullptr);
  CHECK(small.find("19", 0, 0) != nullptr);
}

TEST_CASE("metrics: one value under both names") {
  Metrics metrics;
  metrics.name_model("m");
  ChoiceClock clock(runtime::TimePoint(std::chrono::seconds(1)));
  const auto at = [](int ms) { return runtime::TimePoint(std::chrono::milliseconds(ms)); };
  clock.on_tokens(metrics, 1, at(1050));
  clock.on_tokens(metrics, 2, at(1150));
  clock.on_end(metrics, {.prompt_tokens = 5, .completion_tokens = 3, .queue_time = std::chrono::milliseconds(20)},
               "stop", at(1150));
  CHECK(clock.ended());
  metrics.count_abandoned();
  metrics.count_http(200);
  const std::string text = metrics.text(nullptr);
  const auto says = [&](std::string_view line) { return text.find(line) != std::string::npos; };
  CHECK(says("spillway_prompt_tokens_total 5\n"));
  CHECK(says("vllm:generation_tokens_total{model_name=\"m\"} 3\n"));
  CHECK(says("spillway_time_to_first_token_seconds_bucket{le=\"0.04\"} 0\n"));
  CHECK(says("spillway_time_to_first_token_seconds_bucket{le=\"0.06\"} 1\n"));
  CHECK(says("vllm:inter_token_latency_seconds_count{model_name=\"m\"} 2\n"));
  CHECK(says("vllm:request_queue_time_seconds_sum{model_name=\"m\"} 0.02\n"));
  CHECK(says("vllm:request_prefill_time_seconds_sum{model_name=\"m\"} 0.03"));
  CHECK(says("spillway_requests_total{reason=\"stop\"} 1\n"));
  CHECK(says("spillway_requests_total{reason=\"abort\"} 1\n"));
  CHECK(says("spillway_http_responses_total{status=\"200\"} 1\n"));
  CHECK(metrics.itl().counts[5] == 2);  // 50 ms each
}

}  // namespace
}  // namespace spillway::net
