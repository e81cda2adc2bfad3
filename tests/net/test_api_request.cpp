// SPDX-License-Identifier: Apache-2.0
#include "net/api_request.hpp"

#include "tests/support/catch.hpp"

namespace spillway::net {
namespace {

struct Wrong {
  const char* body;
  const char* message;  // part of it
  const char* param;
};

template <class Parse>
void check_all(Parse parse, std::initializer_list<Wrong> cases) {
  for (const Wrong& wrong : cases) {
    CAPTURE(wrong.body);
    const auto parsed = parse(wrong.body);
    const auto* error = std::get_if<ApiError>(&parsed);
    REQUIRE(error != nullptr);
    CHECK(error->status == 400);
    CHECK(error->type == "invalid_request_error");
    CHECK_THAT(error->message, Catch::Matchers::Contains(wrong.message));
    CHECK(error->param == wrong.param);
  }
}

template <class Request, class Parse>
Request good(Parse parse, std::string_view body) {
  auto parsed = parse(body);
  if (auto* error = std::get_if<ApiError>(&parsed)) FAIL(error->message);
  return std::get<Request>(std::move(parsed));
}

const auto chat = [](std::string_view body) { return parse_chat_request(body, {.prompt_bytes_max = 1000}); };
const auto completion = [](std::string_view body) { return parse_completion_request(body, {.prompt_bytes_max = 1000}); };
const auto response = [](std::string_view body) { return parse_response_request(body, {.prompt_bytes_max = 1000}); };

TEST_CASE("chat request: what is wrong is named") {
  check_all(chat, {
      {"", "not JSON", ""},
      {"[]", "object", ""},
      {"{}", "'messages' must be a list", "messages"},
      {R"({"messages":"x"})", "'messages' must be a list", "messages"},
      {R"({"messages":[1]})", "messages[0]", "messages[0]"},
      {R"({"messages":[{"role":"user"}]})", "messages[0].content", "messages[0].content"},
      {R"({"messages":[{"role":"wizard","content":"x"}]})", "messages[0].role", "messages[0].role"},
      {R"({"messages":[{"role":"user","content":[{"type":"image_url"}]}]})", "image_url", "messages[0].content[0]"},
      {R"({"messages":[{"role":"user","content":[{"type":"text"}]}]})", "messages[0].content[0].text",
       "messages[0].content[0].text"},
      {R"({"messages":[{"role":"user","content":"x"}],"tools":[{}]})", "tools", "tools"},
      {R"({"messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema"}})", "response_format",
       "response_format"},
      {R"({"messages":[{"role":"user","content":"x"}],"temperature":"hot"})", "temperature", "temperature"},
      {R"({"messages":[{"role":"user","content":"x"}],"temperature":-1})", "temperature", "temperature"},
      {R"({"messages":[{"role":"user","content":"x"}],"top_p":2})", "top_p", "top_p"},
      {R"({"messages":[{"role":"user","content":"x"}],"n":0})", "n ", "n"},
      {R"({"messages":[{"role":"user","content":"x"}],"n":1000})", "at most 128", "n"},
      {R"({"messages":[{"role":"user","content":"x"}],"max_tokens":1.5})", "max_tokens", "max_tokens"},
      {R"({"messages":[{"role":"user","content":"x"}],"max_tokens":-3})", "max_tokens", "max_tokens"},
      {R"({"messages":[{"role":"user","content":"x"}],"stop":7})", "stop", "stop"},
      {R"({"messages":[{"role":"user","content":"x"}],"stop":["a",1]})", "stop", "stop"},
      {R"({"messages":[{"role":"user","content":"x"}],"stream_options":1})", "stream_options", "stream_options"},
      {R"({"messages":[{"role":"user","content":"x"}],"top_logprobs":2})", "'logprobs': true", "top_logprobs"},
      {R"({"messages":[{"role":"user","content":"x"}],"logprobs":true,"top_logprobs":50})", "at most 20", "top_logprobs"},
      {R"({"messages":[{"role":"user","content":"x"}],"logit_bias":{"1":2}})", "logit_bias", "logit_bias"},
      {R"({"messages":[{"role":"user","content":"x"}],"seed":"a"})", "seed", "seed"},
      {R"({"messages":[{"role":"user","content":"x"}],"sparse_kv_cache":true})", "must be an object", "sparse_kv_cache"},
      {R"({"messages":[{"role":"user","content":"x"}],"sparse_kv_cache":{"method":"best"}})", "there are none, random, h2o",
       "sparse_kv_cache.method"},
      {R"({"messages":[{"role":"user","content":"x"}],"sparse_kv_cache":{"method":"h2o"}})", "there is no budget",
       "sparse_kv_cache"},
      {R"({"messages":[{"role":"user","content":"x"}],"sparse_kv_cache":{"method":"h2o","budget":3}})", "too small",
       "sparse_kv_cache"},
  });
  const std::string big = R"({"messages":[{"role":"user","content":")" + std::string(2000, 'x') + R"("}]})";
  const auto parsed = chat(big);
  CHECK(std::get<ApiError>(parsed).code == "prompt_too_long");
  std::string deep;
  for (int i = 0; i < 2000; ++i) deep += R"({"a":[)";
  CHECK(std::holds_alternative<ApiError>(chat(deep)));
}

TEST_CASE("sparse_kv_cache: read alike by every endpoint, over what the engine does by itself") {
  RequestRules rules;
  rules.defaults.sparse_kv = model::SparseKvParams{.method = model::SparseMethod::kH2o, .budget = 512, .sinks = 2};
  const std::string field = R"("sparse_kv_cache":{"budget":64,"granularity":"layer"}})";
  const auto check = [](const model::SamplingParams& params) {
    REQUIRE(params.sparse_kv.has_value());
    CHECK(*params.sparse_kv == model::SparseKvParams{.method = model::SparseMethod::kH2o,
                                                     .granularity = model::SparseGranularity::kLayer,
                                                     .budget = 64,
                                                     .sinks = 2});
  };
  const auto with_rules = [&](auto parse) { return [&rules, parse](std::string_view body) { return parse(body, rules); }; };
  check(good<TextRequest>(with_rules(&parse_chat_request), R"({"messages":[{"role":"user","content":"x"}],)" + field).params);
  check(good<TextRequest>(with_rules(&parse_completion_request), R"({"prompt":"x",)" + field).params);
  check(good<ResponseRequest>(with_rules(&parse_response_request), R"({"input":"x",)" + field).params);
  const auto off = good<TextRequest>(with_rules(&parse_completion_request),
                                     R"({"prompt":"x","sparse_kv_cache":{"method":"none"}})");
  CHECK_FALSE(off.params.sparse_kv->on());
  const auto silent = good<TextRequest>(with_rules(&parse_completion_request), R"({"prompt":"x","sparse_kv_cache":null})");
  CHECK(silent.params.sparse_kv == rules.defaults.sparse_kv);
}

TEST_CASE("chat request: everything clients send is read") {
  const auto request = good<TextRequest>(chat, R"({"model":"m","messages":[{"role":"developer","content":"D"},
    {"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}],"temperature":0.5,"top_p":0.9,
    "top_k":5,"min_p":0.1,"seed":-1,"stop":null,"n":2,"max_completion_tokens":7,"logprobs":true,"top_logprobs":3,
    "presence_penalty":0.5,"frequency_penalty":-0.5,"repetition_penalty":1.1,"ignore_eos":true,"stream":true,
    "stream_options":{"include_usage":true,"continuous_usage_stats":true},"user":"u","tools":[],"tool_choice":"none",
    "response_format":{"type":"text"},"unknown":{"x":1}})");
  CHECK(request.model == "m");
  const auto& messages = std::get<std::vector<model::Message>>(request.prompts.at(0));
  CHECK(messages.at(0).role == "system");
  CHECK(messages.at(1).content == "a\nb");
  CHECK(request.params.n == 2);
  CHECK(request.params.max_tokens == 7);
  CHECK(request.params.seed == ~std::uint64_t{0});
  CHECK(request.seed_given);
  CHECK(request.params.logprobs == 3);
  CHECK(request.params.ignore_eos);
  CHECK(request.stream);
  CHECK(request.include_usage);
  CHECK(request.continuous_usage);
}

TEST_CASE("completion request: prompts in every shape") {
  CHECK(good<TextRequest>(completion, R"({"prompt":"x"})").params.max_tokens == 16);
  CHECK(good<TextRequest>(completion, R"({"prompt":["x","y"]})").prompts.size() == 2);
  CHECK(std::get<std::vector<model::TokenId>>(good<TextRequest>(completion, R"({"prompt":[1,2]})").prompts[0]).size() == 2);
  CHECK(good<TextRequest>(completion, R"({"prompt":[[1],[2,3]]})").prompts.size() == 2);
  check_all(completion, {
      {R"({})", "'prompt' must be", "prompt"},
      {R"({"prompt":[]})", "'prompt' must be", "prompt"},
      {R"({"prompt":[{}]})", "'prompt' must be", "prompt"},
      {R"({"prompt":[-1]})", "token ids", "prompt"},
      {R"({"prompt":[1.5]})", "token ids", "prompt"},
      {R"({"prompt":["a","b"],"n":100})", "prompts times n", "n"},
      {R"({"prompt":"a","suffix":"b"})", "suffix", "suffix"},
      {R"({"prompt":"a","best_of":3})", "best_of", "best_of"},
      {R"({"prompt":"a","echo":true,"logprobs":1})", "echo", "echo"},
      {R"({"prompt":"a","stop_token_ids":1})", "stop_token_ids", "stop_token_ids"},
  });
}

TEST_CASE("response request: input, and what is not there yet") {
  const auto text = good<ResponseRequest>(response, R"({"input":"x","instructions":"I","metadata":{"k":"v"}})");
  CHECK(text.input.at(0).content == "x");
  CHECK(text.instructions == "I");
  CHECK(text.metadata == R"({"k":"v"})");
  CHECK(text.store);
  const auto items = good<ResponseRequest>(
      response, R"({"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"q"}]},
      {"role":"assistant","content":[{"type":"output_text","text":"a"}]}],"max_output_tokens":4,"store":false})");
  CHECK(items.input.at(1).role == "assistant");
  CHECK(items.params.max_tokens == 4);
  CHECK(good<ResponseRequest>(response, R"({"previous_response_id":"r"})").previous_response_id == "r");
  check_all(response, {
      {R"({})", "'input' must be", "input"},
      {R"({"input":[{"type":"function_call_output"}]})", "function_call_output", "input[0]"},
      {R"({"input":"x","background":true})", "background", "background"},
      {R"({"input":"x","text":{"format":{"type":"json_schema"}}})", "text.format", "text.format"},
      {R"({"input":"x","truncation":"auto"})", "truncation", "truncation"},
      {R"({"input":"x","conversation":"c"})", "conversation", "conversation"},
      {R"({"input":"x","metadata":[]})", "metadata", "metadata"},
      {R"({"input":"x","include":"a"})", "include", "include"},
      {R"({"input":"x","top_logprobs":-1})", "top_logprobs", "top_logprobs"},
  });
}

TEST_CASE("client events: lanes are named with harmless characters") {
  const ClientEvent event = parse_client_event(R"({"type":"response.cancel","response_id":"r","stream_id":"a.B-9_"})");
  CHECK_FALSE(event.wrong.has_value());
  CHECK(event.type == "response.cancel");
  CHECK(event.response_id == "r");
  CHECK(event.stream_id == "a.B-9_");
  const std::string long_id = R"({"type":"x","stream_id":")" + std::string(257, 'a') + "\"}";
  for (const std::string& wrong : {std::string("x"), std::string("[]"), std::string(R"({"type":1})"), long_id,
                                   std::string(R"({"type":"x","stream_id":""})"), std::string(R"({"type":"x","stream_id":1})")}) {
    CAPTURE(wrong);
    CHECK(parse_client_event(wrong).wrong.has_value());
  }
}

}  // namespace
}  // namespace spillway::net
