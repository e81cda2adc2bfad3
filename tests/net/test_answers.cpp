// SPDX-License-Identifier: Apache-2.0
#include "net/live_json.hpp"
#include "net/response_answer.hpp"
#include "net/text_answer.hpp"
#include "tests/support/catch.hpp"

namespace spillway::net {
namespace {

using actors::ChoiceDelta;
using actors::ChoiceFinished;
using actors::FinishReason;

ChoiceDelta delta(std::string text, model::TokenId token) {
  ChoiceDelta d;
  d.text = std::move(text);
  d.tokens.push_back({.token = token, .logprob = -0.5f});
  return d;
}

TEST_CASE("chat chunks: the role comes once, the reason at the end") {
  TextAnswer answer({.api = TextApi::kChat, .id = "i", .model = "m", .created_s = 5, .include_usage = true}, 1);
  answer.add_prompt_tokens(4);
  const std::string head = R"({"id":"i","object":"chat.completion.chunk","created":5,"model":"m","choices":[{"index":0,)";
  CHECK(answer.on_delta(0, delta("Hel", 1), true) ==
        head + R"("delta":{"role":"assistant","content":"Hel"},"logprobs":null,"finish_reason":null}],"usage":null})");
  CHECK(answer.on_delta(0, delta("", 2), true).empty());
  CHECK(answer.on_finished(0, {.reason = FinishReason::kLength, .usage = {.prompt_tokens = 4, .completion_tokens = 2}}, true) ==
        head + R"("delta":{},"logprobs":null,"finish_reason":"length"}],"usage":null})");
  CHECK(answer.usage_chunk() ==
        R"({"id":"i","object":"chat.completion.chunk","created":5,"model":"m","choices":[],"usage":{"prompt_tokens":4,)"
        R"("completion_tokens":2,"total_tokens":6,"prompt_tokens_details":{"cached_tokens":0}}})");
}

TEST_CASE("completions: choices with log probabilities and what they echo") {
  TextAnswer answer({.api = TextApi::kCompletion, .id = "i", .model = "m", .logprobs = true}, 2, {"P", "P"});
  CHECK(answer.on_delta(0, delta(" a", 7), false).empty());
  answer.on_finished(0, {}, false);
  answer.on_finished(1, {.choice = 1, .reason = FinishReason::kLength}, false);
  const std::string whole = answer.whole();
  CHECK(whole.find(R"("choices":[{"index":0,"text":"P a","logprobs":{"tokens":["token_id:7"],"token_logprobs":[-0.5],)"
                   R"("top_logprobs":[{}],"text_offset":[1]},"finish_reason":"stop"},{"index":1,"text":"P",)") !=
        std::string::npos);
}

TEST_CASE("response events: what a client may rely on is in each") {
  ResponseAnswer answer({.id = "resp_1", .item_id = "msg_1", .model = "m", .stream_id = "lane", .created_s = 9,
                         .max_tokens_given = true});
  std::vector<ResponseEvent> events;
  answer.start(events);
  answer.on_delta(delta("Hi", 1), events);
  answer.on_finished(FinishReason::kLength, {.prompt_tokens = 3, .completion_tokens = 1, .cached_tokens = 2}, 10, events);
  std::vector<std::string_view> types;
  for (std::size_t i = 0; i < events.size(); ++i) {
    types.push_back(events[i].type);
    const std::string begin = R"({"type":")" + std::string(events[i].type) + R"(","sequence_number":)" + std::to_string(i) +
                              R"(,"stream_id":"lane",)";
    CHECK(events[i].json.starts_with(begin));
  }
  CHECK(types == std::vector<std::string_view>{"response.created", "response.in_progress", "response.output_item.added",
                                               "response.content_part.added", "response.output_text.delta",
                                               "response.output_text.done", "response.content_part.done",
                                               "response.output_item.done", "response.incomplete"});
  CHECK(events[4].json.ends_with(R"("item_id":"msg_1","output_index":0,"content_index":0,"delta":"Hi","logprobs":[]})"));
  CHECK(events[8].json.find(R"("incomplete_details":{"reason":"max_output_tokens"})") != std::string::npos);
  CHECK(events[8].json.find(R"("input_tokens_details":{"cached_tokens":2,"cache_write_tokens":1})") != std::string::npos);
}

TEST_CASE("response events: cancelled and failed end as the protocol can say it") {
  const auto end_of = [](auto finish) {
    ResponseAnswer answer({.id = "r", .item_id = "i", .model = "m"});
    std::vector<ResponseEvent> events;
    answer.start(events);
    finish(answer, events);
    return events.back();
  };
  const ResponseEvent cancelled = end_of([](ResponseAnswer& answer, std::vector<ResponseEvent>& events) {
    answer.on_finished(FinishReason::kCancelled, {}, 1, events);
  });
  CHECK(cancelled.type == "response.incomplete");
  CHECK(cancelled.json.find(R"("status":"cancelled","error":null,"incomplete_details":null)") != std::string::npos);
  const ResponseEvent failed = end_of([](ResponseAnswer& answer, std::vector<ResponseEvent>& events) {
    answer.on_failed(to_api_error({Errc::kDeviceFailed, "cuda:0 at 0x7f"}), {}, events);
  });
  CHECK(failed.type == "response.failed");
  CHECK(failed.json.find(R"("error":{"code":"server_error")") != std::string::npos);
  CHECK(failed.json.find("cuda") == std::string::npos);
}

TEST_CASE("usage: says what sparsification did, of sparsified requests only") {
  const auto whole = [](actors::Usage first, actors::Usage second) {
    TextAnswer answer({.api = TextApi::kCompletion, .id = "i", .model = "m"}, 2);
    answer.on_finished(0, {.usage = first}, false);
    answer.on_finished(1, {.choice = 1, .usage = second}, false);
    return answer.whole();
  };
  CHECK(whole({}, {}).find("sparse_kv_cache") == std::string::npos);
  CHECK(whole({.sparsified = true}, {.sparsified = true})
            .ends_with(R"({"cached_tokens":0},"sparse_kv_cache":{"evicted_tokens":0,"exact":true}}})"));
  CHECK(whole({.sparsified = true, .evicted_tokens = 3}, {.sparsified = true, .evicted_tokens = 4})
            .ends_with(R"(,"sparse_kv_cache":{"evicted_tokens":7,"exact":false}}})"));
  ResponseAnswer response({.id = "r", .item_id = "i", .model = "m"});
  std::vector<ResponseEvent> events;
  response.on_finished(FinishReason::kStop, {.sparsified = true, .evicted_tokens = 5}, 1, events);
  CHECK(events.back().json.ends_with(R"("total_tokens":0,"sparse_kv_cache":{"evicted_tokens":5,"exact":false}}}})"));
}

TEST_CASE("live: blocks as runs of one letter each") {
  using enum actors::BlockState;
  CHECK(run_lengths({}).empty());
  const std::vector<actors::BlockState> blocks(3);
  CHECK(run_lengths(blocks) == "3f");
  CHECK(run_lengths({kHeld, kSparse, kSparse, kShared, kCached}) == "1h2e1s1c");
}

}  // namespace
}  // namespace spillway::net
