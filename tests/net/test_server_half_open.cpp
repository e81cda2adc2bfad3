// SPDX-License-Identifier: Apache-2.0
// Peers that vanish without a FIN or a reset: the server finds out by itself, and their blocks come back.

#include "tests/net/server_fixture.hpp"
#include "tests/support/catch.hpp"

namespace spillway::test {
namespace {

using namespace std::chrono_literals;

constexpr std::string_view kAnswer = R"("max_tokens":8000,"ignore_eos":true})";

bool no_connection_but_mine(ServerFixture& s) {
  return ServerFixture::eventually([&] {
    return call(s.port(), "GET", "/metrics").body.find("spillway_connections 1\n") != std::string::npos;
  });
}

/// The limit is 2 s in these tests; a machine may be busy with something else meanwhile.
bool comes_to_rest_in_time(ServerFixture& s) { return s.comes_to_rest() || s.comes_to_rest(); }

TEST_CASE("server: a client that vanishes from an HTTP answer is cut, its blocks come back") {
  auto s = ServerFixture::start([](net::ServerOptions& o) { o.write_timeout = 2s; },
                                [](EngineOptions& o) {
                                  o.simulated_step = 5ms;  // 40 s for an answer
                                  o.max_num_seqs = 3;
                                });
  if (!s) return;
  RawClient stream(s->port()), whole(s->port()), stays(s->port()), queued(s->port()), idle(s->port());
  idle.request("GET", "/health");
  CHECK(idle.answer().status == 200);
  stream.request("POST", "/v1/completions", R"({"prompt":"a","stream":true,)" + std::string(kAnswer));
  whole.request("POST", "/v1/completions", R"({"prompt":"a",)" + std::string(kAnswer));
  stays.request("POST", "/v1/completions", R"({"prompt":"a",)" + std::string(kAnswer));
  REQUIRE(stream.wait_for("data: "));
  REQUIRE(ServerFixture::eventually([&] { return s->engine().stats().scheduler.running == 3; }));
  queued.request("POST", "/v1/chat/completions",
                 R"({"messages":[{"role":"user","content":"a"}],"stream":true,)" + std::string(kAnswer));
  REQUIRE(ServerFixture::eventually([&] { return s->engine().stats().router.open == 4; }));

  stream.vanish();
  whole.vanish();
  queued.vanish();
  idle.vanish();
  const auto one_is_left = [&] { return s->engine().stats().router.open == 1; };
  CHECK((ServerFixture::eventually(one_is_left) || ServerFixture::eventually(one_is_left)));
  CHECK(s->engine().stats().router.cancelled == 3);
  CHECK(s->engine().stats().scheduler.running == 1);  // who is still there is still answered
  stays.drop();
  CHECK(comes_to_rest_in_time(*s));
  CHECK(no_connection_but_mine(*s));
}

TEST_CASE("server: a client that vanishes from a WebSocket is cut, its blocks come back") {
  // Either of the two finds out alone: the socket's own pings, and the kernel.
  const bool by_ping = GENERATE(true, false);
  auto s = ServerFixture::start(
      [&](net::ServerOptions& o) {
        o.websocket_idle_timeout = by_ping ? 2s : 60s;
        o.write_timeout = by_ping ? 60s : 2s;
      },
      [](EngineOptions& o) { o.simulated_step = 5ms; });
  if (!s) return;
  CAPTURE(by_ping);
  WsClient streaming(s->port()), idle(s->port()), live(s->port(), {.path = "/v1/live"});
  streaming.send(R"({"type":"response.create","input":"a","max_output_tokens":8000,"ignore_eos":true})");
  streaming.read_until("response.output_text.delta");
  REQUIRE(live.read());
  streaming.vanish();
  idle.vanish();
  live.vanish();
  CHECK(comes_to_rest_in_time(*s));
  CHECK(s->engine().stats().router.cancelled == 1);
  CHECK(no_connection_but_mine(*s));
}

}  // namespace
}  // namespace spillway::test
