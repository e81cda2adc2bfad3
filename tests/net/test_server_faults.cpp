// SPDX-License-Identifier: Apache-2.0
// Clients that misbehave: what they cost, and that nobody else pays.

#include <random>
#include <thread>

#include "tests/net/server_fixture.hpp"
#include "tests/support/catch.hpp"

namespace spillway::test {
namespace {

using namespace std::chrono_literals;

constexpr std::string_view kLong = R"({"prompt":"a","max_tokens":8000,"ignore_eos":true,"stream":true})";

TEST_CASE("server: who goes away frees his blocks") {
  auto s = ServerFixture::start({}, [](EngineOptions& o) { o.simulated_step = 1ms; });
  if (!s) return;
  RawClient stream(s->port()), whole(s->port()), chat(s->port());
  stream.request("POST", "/v1/completions", kLong);
  whole.request("POST", "/v1/completions", R"({"prompt":"a","max_tokens":8000,"ignore_eos":true})");
  chat.request("POST", "/v1/responses", R"({"input":"a","max_output_tokens":8000,"ignore_eos":true})");
  WsClient socket(s->port());
  socket.send(R"({"type":"response.create","input":"a","max_output_tokens":8000,"ignore_eos":true})");
  socket.read_until("response.output_text.delta");
  REQUIRE(stream.wait_for("data: "));
  CHECK(ServerFixture::eventually([&] { return s->engine().stats().scheduler.running == 4; }));
  const auto before = s->engine().stats().scheduler.steps;
  stream.drop();
  whole.drop();
  chat.drop();
  socket.drop();
  CHECK(s->comes_to_rest());
  const auto after = s->engine().stats();
  CHECK(after.router.cancelled == 4);
  CHECK(call(s->port(), "GET", "/metrics").body.find("spillway_requests_total{reason=\"abort\"} 4\n") != std::string::npos);
  CHECK(after.scheduler.steps - before < 4000);  // of the 8000 that nobody reads
  CHECK(call(s->port(), "POST", "/v1/completions", R"({"prompt":"a","max_tokens":1})").status == 200);
}

TEST_CASE("server: a full queue is refused at the door") {
  auto s = ServerFixture::start([](net::ServerOptions& o) { o.max_num_queued_reqs = 1; },
                                [](EngineOptions& o) {
                                  o.simulated_step = 1ms;
                                  o.max_num_seqs = 1;
                                });
  if (!s) return;
  RawClient first(s->port()), second(s->port());
  first.request("POST", "/v1/completions", kLong);
  REQUIRE(first.wait_for("data: "));
  second.request("POST", "/v1/completions", kLong);
  CHECK(ServerFixture::eventually([&] { return s->engine().stats().router.open == 2; }));
  const HttpAnswer third = call(s->port(), "POST", "/v1/completions", kLong);
  CHECK(third.status == 429);
  CHECK(third.headers.at("retry-after") == "1");
  CHECK(member(third.body, "code") == "rate_limit_exceeded");
  WsClient socket(s->port());
  socket.send(R"({"type":"response.create","input":"a"})");
  std::string last;
  socket.read_text(&last);
  CHECK(member(last, "status") == "429");
  CHECK(member(last, "retry-after") == "1");
  first.drop();
  second.drop();
  CHECK(s->comes_to_rest());
  CHECK(call(s->port(), "POST", "/v1/completions", R"({"prompt":"a","max_tokens":1})").status == 200);
}

TEST_CASE("server: who does not read is held, then cut; others go on") {
  auto s = ServerFixture::start([](net::ServerOptions& o) {
    o.write_timeout = 1s;
    o.websocket_idle_timeout = 2s;
  });
  if (!s) return;
  WsClient lazy(s->port(), {.receive_buffer_bytes = 2048});
  for (int lane = 0; lane < 16; ++lane) {
    lazy.send(R"({"type":"response.create","input":"a","max_output_tokens":8000,"ignore_eos":true,"logprobs":true,)"
              R"("include":["message.output_text.logprobs"],"top_logprobs":5,"stream_id":"l)" +
              std::to_string(lane) + "\"}");
  }
  RawClient also(s->port(), 2048);
  also.request("POST", "/v1/completions",
               R"({"prompt":["a","b","c","d"],"n":8,"max_tokens":8000,"ignore_eos":true,"stream":true,"logprobs":5})");
  for (int i = 0; i < 5; ++i)
    CHECK(call(s->port(), "POST", "/v1/completions", R"({"prompt":"a","max_tokens":20,"ignore_eos":true})").status == 200);
  CHECK(ServerFixture::eventually([&] { return s->engine().stats().router.open == 0; }));
  CHECK(s->comes_to_rest());
}

TEST_CASE("server: who goes away without having read leaves nothing behind") {
  auto s = ServerFixture::start([](net::ServerOptions& o) { o.credits = 4; });
  if (!s) return;
  WsClient lazy(s->port(), {.receive_buffer_bytes = 2048});
  for (int lane = 0; lane < 16; ++lane) {
    lazy.send(R"({"type":"response.create","input":"a","max_output_tokens":8000,"ignore_eos":true,"top_logprobs":5,)"
              R"("stream_id":"l)" + std::to_string(lane) + "\"}");
  }
  // Until the router holds them all: nothing moves any more. Its stall limit is a minute away.
  CHECK(ServerFixture::eventually([&] { return s->engine().stats().router.open == 16; }));
  std::uint64_t steps = 0;
  CHECK(ServerFixture::eventually([&] {
    std::this_thread::sleep_for(200ms);
    return std::exchange(steps, s->engine().stats().scheduler.steps) == s->engine().stats().scheduler.steps;
  }));
  CHECK(s->engine().stats().router.open > 0);
  lazy.drop();
  CHECK(s->comes_to_rest());
  CHECK(s->engine().stats().router.cut == 0);
}

TEST_CASE("server: headers that trickle in are not waited for") {
  auto s = ServerFixture::start([](net::ServerOptions& o) {
    o.header_timeout = 1s;
    o.body_timeout = 1s;
    o.keep_alive_timeout = 1s;
  });
  if (!s) return;
  RawClient silent(s->port()), header(s->port()), body(s->port()), idle(s->port());
  header.send("GET /health HTTP/1.1\r\nX-");
  body.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{");
  idle.request("GET", "/health");
  CHECK(idle.answer().status == 200);
  for (int i = 0; i < 3; ++i) {
    header.send("a");
    body.send(" ");
    CHECK(call(s->port(), "GET", "/health").status == 200);
  }
  CHECK(header.closed_within(4s));
  CHECK(body.closed_within(4s));
  CHECK(silent.closed_within(4s));
  CHECK(idle.closed_within(4s));
}

TEST_CASE("server: sizes are bounded") {
  auto s = ServerFixture::start([](net::ServerOptions& o) {
    o.body_bytes_max = 1000;
    o.header_bytes_max = 1024;
    o.prompt_bytes_max = 100;
    o.connections_max = 3;
  });
  if (!s) return;
  CHECK(call(s->port(), "POST", "/v1/completions", std::string(2000, ' ')).status == 413);
  CHECK(call(s->port(), "GET", "/health", {}, "X-A: " + std::string(2000, 'a') + "\r\n").status == 431);
  const HttpAnswer prompt = call(s->port(), "POST", "/v1/completions", R"({"prompt":")" + std::string(200, 'a') + "\"}");
  CHECK(member(prompt.body, "code") == "prompt_too_long");
  CHECK(call(s->port(), "GET", "\x01\x02", {}).status == 400);
  RawClient a(s->port()), b(s->port()), c(s->port());
  CHECK(ServerFixture::eventually([&] {
    RawClient one_more(s->port());
    return one_more.closed_within(100ms);
  }));
}

TEST_CASE("server: garbage harms nobody") {
  auto s = ServerFixture::start([](net::ServerOptions& o) { o.header_timeout = 1s; });
  if (!s) return;
  const unsigned seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937 random(seed);
  const std::string handshake =
      "GET /v1/responses HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
      "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
  const std::string post =
      "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 60\r\n\r\n"
      R"({"messages":[{"role":"user","content":"x"}],"max_tokens":1  })";
  for (int round = 0; round < 300; ++round) {
    RawClient client(s->port());
    std::string data = round % 3 == 0 ? post : handshake;
    if (round % 3 != 1) {
      for (int i = 0; i < 4; ++i) data[random() % data.size()] = static_cast<char>(random());
    }
    for (unsigned i = random() % 200; i > 0; --i) data += static_cast<char>(random());
    client.send(data);
    if (round % 2 == 0) client.receive(2ms);
    if (round % 5 == 0) client.drop();
  }
  CHECK(call(s->port(), "GET", "/health").status == 200);
  CHECK(s->comes_to_rest());
}

TEST_CASE("server: a frame that announces more than any memory ends its own connection only") {
  auto s = ServerFixture::start();
  if (!s) return;
  RawClient client(s->port());
  client.send(
      "GET /v1/responses HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n");
  REQUIRE(client.wait_for("101 Switching"));
  using namespace std::string_view_literals;
  constexpr std::string_view kHeader = "\xc1\xff\x40\0\0\0\0\0\0\0\0\0\0\0"sv;  // deflated text, 2^62 bytes, no mask
  constexpr std::string_view kStored = "\0\x04\0\xfb\xff{ }\x20"sv;              // a block of 4 bytes as they are
  client.send(kHeader);
  for (int i = 0; i < 20; ++i) {
    client.send(kStored);
    std::this_thread::sleep_for(5ms);
  }
  CHECK(client.closed_within(4s));
  CHECK(call(s->port(), "GET", "/health").status == 200);
}

}  // namespace
}  // namespace spillway::test
