// SPDX-License-Identifier: Apache-2.0
// The server over HTTP, on a real socket.

#include "tests/net/server_fixture.hpp"
#include "tests/support/catch.hpp"

namespace spillway::test {
namespace {

const std::string kChat =
    R"({"messages":[{"role":"user","content":"Hello there"}],"temperature":0,"max_tokens":24,"ignore_eos":true)";

TEST_CASE("server: what a monitor asks for") {
  auto s = ServerFixture::start();
  if (!s) return;
  CHECK(call(s->port(), "GET", "/health").body == R"({"status":"ok"})");
  CHECK(member(call(s->port(), "GET", "/version").body, "version") == "test");
  CHECK(member(call(s->port(), "GET", "/v1/models").body, "id") == "smol");
  const HttpAnswer metrics = call(s->port(), "GET", "/metrics");
  CHECK(metrics.body.find("vllm:num_requests_running{model_name=\"smol\"} 0") != std::string::npos);
  CHECK(metrics.body.find("spillway_kv_blocks ") != std::string::npos);
  RawClient client(s->port());
  client.request("HEAD", "/version");
  client.request("GET", "/health");  // on the same connection, and HEAD brings no body
  CHECK(client.wait_for("\r\n\r\nHTTP/1.1 200 OK\r\n"));
  const HttpAnswer page = call(s->port(), "GET", "/");
  CHECK(page.headers.at("content-type") == "text/html; charset=utf-8");
  CHECK(page.body.find("<title>Spillway") != std::string::npos);
  CHECK(page.headers.at("content-security-policy").find("default-src 'none'") == 0);
  CHECK(call(s->port(), "GET", "/nothing").status == 404);
  CHECK(call(s->port(), "DELETE", "/v1/models").status == 405);
}

TEST_CASE("server: greedy text is the same over chat, its stream, completions' shape, Responses and WebSocket") {
  auto s = ServerFixture::start();
  if (!s) return;
  const HttpAnswer chat = call(s->port(), "POST", "/v1/chat/completions", kChat + "}");
  REQUIRE(chat.status == 200);
  const std::string text = member(chat.body, "content");
  CHECK(text.size() > 10);
  CHECK(member(chat.body, "finish_reason") == "length");
  CHECK(member(chat.body, "completion_tokens") == "24");

  const HttpAnswer stream = call(s->port(), "POST", "/v1/chat/completions",
                                 kChat + R"(,"stream":true,"stream_options":{"include_usage":true}})");
  CHECK(stream.headers.at("content-type") == "text/event-stream");
  CHECK(joined(stream.body, "content") == text);
  CHECK(stream.body.ends_with("data: [DONE]\n\n"));
  CHECK(stream.body.find(R"("choices":[],"usage":{"prompt_tokens":)") != std::string::npos);

  const std::string ask = R"({"input":"Hello there","temperature":0,"max_output_tokens":24,"ignore_eos":true)";
  const HttpAnswer response = call(s->port(), "POST", "/v1/responses", ask + "}");
  CHECK(member(response.body, "text") != "");
  CHECK(response.body.find(R"("status":"incomplete")") != std::string::npos);
  const HttpAnswer events = call(s->port(), "POST", "/v1/responses", ask + R"(,"stream":true})");
  CHECK(joined(events.body, "delta") == text);

  WsClient client(s->port());
  REQUIRE(client.open());
  client.send(R"({"type":"response.create",)" + ask.substr(1) + "}");
  CHECK(client.read_text() == text);
}

TEST_CASE("server: several prompts, several choices, echo, log probabilities") {
  auto s = ServerFixture::start();
  if (!s) return;
  const HttpAnswer answer = call(
      s->port(), "POST", "/v1/completions",
      R"({"prompt":["One","Two"],"n":2,"max_tokens":3,"ignore_eos":true,"echo":true,"temperature":0})");
  REQUIRE(answer.status == 200);
  CHECK(answer.body.find(R"("index":3,"text":"Two)") != std::string::npos);
  CHECK(member(answer.body, "completion_tokens") == "12");
  const HttpAnswer ids = call(s->port(), "POST", "/v1/completions", R"({"prompt":[1,2,3],"max_tokens":2,"logprobs":0})");
  CHECK(ids.status == 200);
  CHECK(member(ids.body, "prompt_tokens") == "3");
  CHECK(ids.body.find(R"("token_logprobs":[)") != std::string::npos);
  const HttpAnswer chat = call(s->port(), "POST", "/v1/chat/completions", kChat + R"(,"logprobs":true,"stream":true})");
  CHECK(chat.body.find(R"("logprobs":{"content":[{"token":)") != std::string::npos);
  const HttpAnswer usage = call(s->port(), "POST", "/v1/completions",
                                R"({"prompt":[1,2,3],"max_tokens":2,"ignore_eos":true,"stream":true,)"
                                R"("stream_options":{"include_usage":true,"continuous_usage_stats":true}})");
  CHECK(usage.body.find(R"("usage":{"prompt_tokens":0)") == std::string::npos);
}

TEST_CASE("server: sparsified requests are bounded, told so, and counted") {
  auto s = ServerFixture::start({}, [](EngineOptions& options) {
    options.sparse_kv_per_request = true;
    options.sparse_kv_budget_min = 16;
  });
  if (!s) return;
  const auto ask = [&](const std::string& sparse) {
    return call(s->port(), "POST", "/v1/completions",
                R"({"prompt":[1,2,3,4,5,6,7,8],"max_tokens":60,"temperature":0,"ignore_eos":true)" + sparse + "}");
  };
  CHECK(ask("").body.find("sparse_kv_cache") == std::string::npos);
  const HttpAnswer wide = ask(R"(,"sparse_kv_cache":{"method":"h2o","budget":512})");
  CHECK(wide.body.find(R"("sparse_kv_cache":{"evicted_tokens":0,"exact":true})") != std::string::npos);
  const HttpAnswer narrow = ask(R"(,"sparse_kv_cache":{"method":"streaming","budget":16,"granularity":"layer"})");
  CHECK(narrow.status == 200);
  CHECK(std::stoi(member(narrow.body, "evicted_tokens")) >= 8 + 59 - 16);
  CHECK(member(narrow.body, "exact") == "false");
  const HttpAnswer refused = ask(R"(,"sparse_kv_cache":{"method":"h2o","budget":15})");
  CHECK(refused.status == 400);
  CHECK(refused.body.find("the least allowed is 16") != std::string::npos);
  CHECK(ask(R"(,"sparse_kv_cache":{"method":"h2o","budget":0.5})").status == 200);  // a share is raised to it

  WsClient client(s->port());
  REQUIRE(client.open());
  client.send(R"({"type":"response.create","input":"Hello","max_output_tokens":40,"ignore_eos":true,)"
              R"("sparse_kv_cache":{"method":"tova","budget":16}})");
  CHECK(member(client.read_until("response.incomplete"), "exact") == "false");

  const std::string metrics = call(s->port(), "GET", "/metrics").body;
  const auto value = [&](const std::string& name) {
    const std::size_t at = metrics.find("\n" + name + " ");
    return at == std::string::npos ? -1 : std::stod(metrics.substr(at + name.size() + 2));
  };
  CHECK(value("spillway_kv_tokens_evicted_total") >= 51 + 24);
  CHECK(value("spillway_kv_slots_reused_total") > 0);
  for (const char* name : {"spillway_kv_slots", "spillway_kv_live_tokens", "spillway_kv_holes",
                           "spillway_kv_fragmentation_ratio", "spillway_kv_compactions_total", "spillway_kv_blocks_copied_total"})
    CHECK(value(name) >= 0);
}

TEST_CASE("server: a request that wants sparsification is refused where the engine has none") {
  auto s = ServerFixture::start();
  if (!s) return;
  const HttpAnswer answer =
      call(s->port(), "POST", "/v1/completions", R"({"prompt":"x","sparse_kv_cache":{"method":"h2o","budget":64}})");
  CHECK(answer.status == 400);
  CHECK(answer.body.find("sparse_kv_cache: this engine was started without sparsification") != std::string::npos);
  CHECK(call(s->port(), "POST", "/v1/completions", R"({"prompt":"x","max_tokens":1,"sparse_kv_cache":{"method":"none"}})").status ==
        200);
}

TEST_CASE("server: tokens and back") {
  auto s = ServerFixture::start();
  if (!s) return;
  const HttpAnswer tokens = call(s->port(), "POST", "/tokenize", R"({"prompt":"Hello world","add_special_tokens":false})");
  REQUIRE(tokens.status == 200);
  CHECK(member(tokens.body, "count") == "2");
  const std::string back = R"({"tokens":)" + member(tokens.body, "tokens") + "}";
  CHECK(member(call(s->port(), "POST", "/detokenize", back).body, "prompt") == "Hello world");
  CHECK(call(s->port(), "POST", "/detokenize", R"({"tokens":[2147483647]})").status != 500);
  CHECK(call(s->port(), "GET", "/health").status == 200);
}

TEST_CASE("server: a wrong request is answered, and the connection goes on") {
  auto s = ServerFixture::start();
  if (!s) return;
  RawClient client(s->port());
  const auto post = [&](std::string_view path, std::string_view body) {
    client.request("POST", path, body);
    return client.answer();
  };
  HttpAnswer answer = post("/v1/chat/completions", "{nope");
  CHECK(answer.status == 400);
  CHECK(member(answer.body, "code") == "invalid_json");
  answer = post("/v1/chat/completions", R"({"model":"other","messages":[{"role":"user","content":"x"}]})");
  CHECK(answer.status == 404);
  CHECK(member(answer.body, "code") == "model_not_found");
  answer = post("/v1/completions", R"({"prompt":[49999999]})");
  CHECK(answer.status == 400);
  CHECK(member(answer.body, "message").find("vocabulary") != std::string::npos);
  std::string words;
  for (int i = 0; i < 9000; ++i) words += "word ";
  answer = post("/v1/completions", R"({"prompt":")" + words + R"("})");
  CHECK(answer.status == 400);
  CHECK(member(answer.body, "message").find("--max-model-len") != std::string::npos);
  answer = post("/v1/responses", R"({"input":"x","previous_response_id":"resp_x"})");
  CHECK(member(answer.body, "code") == "previous_response_not_found");
  answer = post("/v1/requests/x/cancel", "");
  CHECK(answer.status == 404);
  CHECK(post("/v1/completions", R"({"prompt":"a","max_tokens":1})").status == 200);
}

TEST_CASE("server: 503 until the model is loaded, and while draining") {
  auto s = ServerFixture::start({}, [](EngineOptions& o) { o.simulated_step = std::chrono::milliseconds(2); }, false);
  if (!s) return;
  CHECK(call(s->port(), "GET", "/health").status == 503);
  HttpAnswer early = call(s->port(), "POST", "/v1/completions", R"({"prompt":"a"})");
  CHECK(early.status == 503);
  CHECK(early.headers.contains("retry-after"));
  CHECK(call(s->port(), "POST", "/v1/responses", R"({"input":"a"})").status == 503);
  CHECK(WsClient(s->port()).status() == 503);
  s->attach();
  CHECK(call(s->port(), "GET", "/health").status == 200);

  RawClient running(s->port());
  running.request("POST", "/v1/completions", R"({"prompt":"a","max_tokens":150,"ignore_eos":true,"stream":true})");
  REQUIRE(running.wait_for("data: "));
  WsClient socket(s->port());
  REQUIRE(socket.open());
  bool clean = false;
  {
    // Draining waits for the stream; meanwhile newcomers are refused.
    RawClient idle(s->port());
    idle.request("GET", "/health");
    CHECK(idle.answer().status == 200);
    clean = s->server().drain(std::chrono::seconds(20), {});
  }
  CHECK(clean);
  CHECK(running.wait_for("data: [DONE]"));
  CHECK(call(s->port(), "GET", "/health").body == R"({"status":"draining"})");
  CHECK(call(s->port(), "POST", "/v1/completions", R"({"prompt":"a"})").status == 503);
  CHECK_FALSE(socket.read().has_value());
  CHECK(socket.close_code() == 1001);
}

TEST_CASE("server: what does not end in time is cut when draining") {
  auto s = ServerFixture::start({}, [](EngineOptions& o) { o.simulated_step = std::chrono::milliseconds(5); });
  if (!s) return;
  RawClient running(s->port());
  running.request("POST", "/v1/completions", R"({"prompt":"a","max_tokens":8000,"ignore_eos":true,"stream":true})");
  REQUIRE(running.wait_for("data: "));
  CHECK_FALSE(s->server().drain(std::chrono::milliseconds(100), {}));
  CHECK(running.wait_for(R"("code":"cancelled")"));
  CHECK(s->comes_to_rest());
}

TEST_CASE("server: a key is asked for where something can be had") {
  auto s = ServerFixture::start([](net::ServerOptions& o) { o.api_keys = {"one", "two"}; });
  if (!s) return;
  CHECK(call(s->port(), "GET", "/health").status == 200);
  HttpAnswer answer = call(s->port(), "GET", "/v1/models");
  CHECK(answer.status == 401);
  CHECK(member(answer.body, "code") == "invalid_api_key");
  CHECK(call(s->port(), "GET", "/v1/models", {}, "Authorization: Bearer on\r\n").status == 401);
  CHECK(call(s->port(), "GET", "/v1/models", {}, "Authorization: Bearer two\r\n").status == 200);
  CHECK(WsClient(s->port()).status() == 401);
  CHECK(WsClient(s->port(), {.path = "/v1/live"}).status() == 401);
  CHECK(WsClient(s->port(), {.headers = {{"Authorization", "Bearer one"}}}).open());
  WsClient browser(s->port(), {.headers = {{"Sec-WebSocket-Protocol", "realtime, openai-insecure-api-key.one"}}});
  CHECK(browser.open());
  CHECK(browser.header("Sec-WebSocket-Protocol") == "realtime");

  // A conversation, and a running request, are their owner's.
  answer = call(s->port(), "POST", "/v1/responses", R"({"input":"secret","max_output_tokens":2})",
                "Authorization: Bearer one\r\n");
  REQUIRE(answer.status == 200);
  const std::string again = R"({"input":"x","max_output_tokens":2,"previous_response_id":")" + member(answer.body, "id") + "\"}";
  CHECK(call(s->port(), "POST", "/v1/responses", again, "Authorization: Bearer two\r\n").status == 400);
  CHECK(call(s->port(), "POST", "/v1/responses", again, "Authorization: Bearer one\r\n").status == 200);
}

TEST_CASE("server: the prefix cache can be kept apart by key") {
  const std::string ask = R"({"prompt":")" + std::string(400, 'a') + R"( b c d e f g h i j k l m n o p q r s t","max_tokens":1})";
  const std::string one = "Authorization: Bearer one\r\n", two = "Authorization: Bearer two\r\n";
  for (const bool salted : {false, true}) {
    auto s = ServerFixture::start([&](net::ServerOptions& o) {
      o.api_keys = {"one", "two"};
      o.salt_prefix_cache_per_key = salted;
    });
    if (!s) return;
    CHECK(member(call(s->port(), "POST", "/v1/completions", ask, one).body, "cached_tokens") == "0");
    CHECK(member(call(s->port(), "POST", "/v1/completions", ask, one).body, "cached_tokens") != "0");
    const std::string other = member(call(s->port(), "POST", "/v1/completions", ask, two).body, "cached_tokens");
    CHECK((other == "0") == salted);
  }
}

TEST_CASE("server: pages of other origins") {
  auto s = ServerFixture::start();
  if (!s) return;
  HttpAnswer answer = call(s->port(), "GET", "/v1/models", {}, "Origin: https://evil.example\r\n");
  CHECK_FALSE(answer.headers.contains("access-control-allow-origin"));
  CHECK(WsClient(s->port(), {.headers = {{"Origin", "https://evil.example"}}}).status() == 403);
  CHECK(WsClient(s->port(), {.path = "/v1/live", .headers = {{"Origin", "https://evil.example"}}}).status() == 403);
  CHECK(WsClient(s->port(), {.headers = {{"Origin", "http://localhost:" + std::to_string(s->port())}}}).open());

  auto open = ServerFixture::start([](net::ServerOptions& o) { o.allowed_origins = {"https://app.example"}; });
  answer = call(open->port(), "OPTIONS", "/v1/models", {}, "Origin: https://app.example\r\n");
  CHECK(answer.status == 204);
  CHECK(answer.headers.at("access-control-allow-origin") == "https://app.example");
  CHECK(WsClient(open->port(), {.headers = {{"Origin", "https://app.example"}}}).open());
}

TEST_CASE("server: over TLS") {
  const Certificate files;
  auto s = ServerFixture::start([&](net::ServerOptions& o) {
    o.ssl_certfile = files.certificate;
    o.ssl_keyfile = files.key;
    o.header_timeout = std::chrono::seconds(1);
  });
  if (!s) return;
  const HttpAnswer answer = call_tls(s->port(), "/health");
  CHECK(answer.status == 200);
  CHECK(answer.body == R"({"status":"ok"})");
  RawClient plain(s->port());
  plain.request("GET", "/health");
  CHECK(plain.closed_within(std::chrono::seconds(5)));  // an alert, perhaps, and the end

  net::ServerOptions wrong;
  wrong.port = 0;
  wrong.served_model_names = {"m"};
  wrong.ssl_certfile = "/nothing/here.pem";
  wrong.ssl_keyfile = files.key;
  const auto refused = net::Server::start(std::move(wrong));
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().message.find("--ssl-certfile") == 0);
}

}  // namespace
}  // namespace spillway::test
