// SPDX-License-Identifier: Apache-2.0
// The Responses WebSocket: lanes, continuation, cancelling, limits.

#include <set>

#include "tests/net/server_fixture.hpp"
#include "tests/support/catch.hpp"

namespace spillway::test {
namespace {

std::string create(std::string_view input, int tokens, std::string_view more = {}) {
  return R"({"type":"response.create","temperature":0,"ignore_eos":true,"input":")" + std::string(input) +
         R"(","max_output_tokens":)" + std::to_string(tokens) + std::string(more) + "}";
}

TEST_CASE("responses socket: events come in order, each with its number") {
  auto s = ServerFixture::start();
  if (!s) return;
  const bool deflate = GENERATE(false, true);
  WsClient client(s->port(), {.deflate = deflate});
  REQUIRE(client.open());
  CHECK((client.header("Sec-WebSocket-Extensions").find("permessage-deflate") == 0) == deflate);
  client.send(create("Hi", 12, R"(,"include":["message.output_text.logprobs"])"));
  std::vector<std::string> types;
  std::string text, last;
  while (auto event = client.read()) {
    CHECK(member(*event, "sequence_number") == std::to_string(types.size()));
    CHECK(member(*event, "stream_id") == "");
    types.push_back(member(*event, "type"));
    if (types.back() == "response.output_text.delta") text += member(*event, "delta");
    if (types.back() == "response.output_text.done") CHECK(member(*event, "text") == text);
    last = *event;
    if (types.back() == "response.incomplete") break;
  }
  REQUIRE(types.size() >= 9);
  const std::vector<std::string> first(types.begin(), types.begin() + 4);
  CHECK(first == std::vector<std::string>{"response.created", "response.in_progress", "response.output_item.added",
                                          "response.content_part.added"});
  const std::vector<std::string> end(types.end() - 4, types.end());
  CHECK(end == std::vector<std::string>{"response.output_text.done", "response.content_part.done",
                                        "response.output_item.done", "response.incomplete"});
  CHECK(member(last, "output_tokens") == "12");
  CHECK(member(last, "reason") == "max_output_tokens");
  client.close();
  CHECK(s->comes_to_rest());
}

TEST_CASE("responses socket: a conversation goes on, on the blocks that are there") {
  auto s = ServerFixture::start();
  if (!s) return;
  WsClient client(s->port());
  std::string last;
  client.send(create(std::string(300, 'x') + " y z", 40));
  client.read_text(&last);
  const std::string stored = member(last, "id");
  client.send(create("And then?", 4, R"(,"store":false,"previous_response_id":")" + stored + "\""));
  client.read_text(&last);
  CHECK(std::stoi(member(last, "cached_tokens")) >= 32);
  const std::string kept = member(last, "id");
  client.send(create("And?", 4, R"(,"previous_response_id":")" + kept + "\""));
  client.read_text(&last);
  CHECK(member(last, "type") == "response.incomplete");

  WsClient other(s->port());
  other.send(create("And?", 4, R"(,"previous_response_id":")" + kept + "\""));
  other.read_text(&last);
  CHECK(member(last, "code") == "previous_response_not_found");  // store:false: the other connection's
  other.send(create("And?", 4, R"(,"previous_response_id":")" + stored + "\""));
  other.read_text(&last);
  CHECK(member(last, "type") == "response.incomplete");
  other.send(R"({"type":"response.create","generate":false,"input":"Some context that is read ahead of time"})");
  other.read_text(&last);
  CHECK(member(last, "status") == "completed");
  CHECK(member(last, "output_tokens") == "0");
  client.close();
  other.close();
  CHECK(s->comes_to_rest());
}

TEST_CASE("responses socket: lanes run beside each other, one lane's responses one after another") {
  auto s = ServerFixture::start({}, [](EngineOptions& o) { o.simulated_step = std::chrono::milliseconds(1); });
  if (!s) return;
  WsClient client(s->port());
  client.send(create("a", 60, R"(,"stream_id":"a")"));
  client.send(create("b", 20, R"(,"stream_id":"b")"));
  client.send(create("c", 20, R"(,"stream_id":"a")"));
  std::vector<std::string> order;
  std::set<std::string> open;
  std::size_t together = 0;
  while (order.size() < 3) {
    const auto event = client.read();
    REQUIRE(event);
    const std::string lane = member(*event, "stream_id"), type = member(*event, "type");
    if (type == "response.created") CHECK(open.insert(lane).second);
    together = std::max(together, open.size());
    if (type == "response.incomplete") {
      order.push_back(lane);
      open.erase(lane);
    }
  }
  CHECK(together == 2);
  CHECK(order == std::vector<std::string>{"b", "a", "a"});
}

TEST_CASE("responses socket: a cancelled response ends, and gives its blocks back") {
  auto s = ServerFixture::start({}, [](EngineOptions& o) { o.simulated_step = std::chrono::milliseconds(1); });
  if (!s) return;
  WsClient client(s->port());
  client.send(create("a", 8000));
  const std::string created = client.read_until("response.created");
  client.read_until("response.output_text.delta");
  SECTION("by an event") { client.send(R"({"type":"response.cancel","response_id":")" + member(created, "id") + "\"}"); }
  SECTION("over HTTP") {
    CHECK(call(s->port(), "POST", "/v1/requests/" + member(created, "id") + "/cancel").status == 200);
  }
  std::string last;
  client.read_text(&last);
  CHECK(member(last, "type") == "response.incomplete");
  CHECK(member(last, "status") == "cancelled");
  CHECK(s->comes_to_rest());
  client.send(R"({"type":"response.cancel","response_id":"resp_x"})");
  client.read_text(&last);
  CHECK(member(last, "code") == "response_not_found");
}

TEST_CASE("responses socket: a wrong frame ends nothing but itself") {
  auto s = ServerFixture::start();
  if (!s) return;
  WsClient client(s->port());
  const auto code_of = [&](std::string_view frame) {
    client.send(frame);
    std::string last;
    client.read_text(&last);
    CHECK(member(last, "type") == "error");
    return member(last, "code");
  };
  CHECK(code_of("nope") == "invalid_json");
  CHECK(code_of("[]") != "");
  CHECK(code_of(R"({"type":"response.create","stream_id":"","input":"x"})") == "invalid_stream_id");
  CHECK(code_of(R"({"type":"response.create","stream_id":"a b","input":"x"})") == "invalid_stream_id");
  CHECK(code_of(R"({"type":"response.steer"})") == "unsupported_event");
  CHECK(code_of(R"({"type":"response.create","model":"x","input":"x"})") == "model_not_found");
  client.send(R"({"type":"response.create","stream_id":"lane","input":1})");
  std::string last;
  client.read_text(&last);
  CHECK(member(last, "stream_id") == "lane");
  for (int i = 0; i < 31; ++i) client.send(create("x", 1, R"(,"stream_id":"l)" + std::to_string(i) + "\""));
  for (int i = 0; i < 31; ++i) client.read_text();
  CHECK(code_of(create("x", 1, R"(,"stream_id":"one-too-many")")) == "websocket_stream_limit_reached");
  client.send(create("x", 3));
  client.read_text(&last);
  CHECK(member(last, "type") == "response.incomplete");
}

TEST_CASE("responses socket: a message over the limit closes the connection") {
  auto s = ServerFixture::start([](net::ServerOptions& o) { o.frame_bytes_max = 4096; });
  if (!s) return;
  WsClient client(s->port());
  client.send(create(std::string(5000, 'x'), 1));
  CHECK_FALSE(client.read().has_value());
  CHECK(client.close_code() == 1009);
  CHECK(WsClient(s->port(), {.path = "/v1/nothing"}).status() == 404);
}

TEST_CASE("live socket: tells of the engine and its blocks") {
  auto s = ServerFixture::start({}, [](EngineOptions& o) { o.simulated_step = std::chrono::milliseconds(1); });
  if (!s) return;
  RawClient running(s->port());
  running.request("POST", "/v1/completions", R"({"prompt":"a","max_tokens":8000,"ignore_eos":true,"stream":true})");
  REQUIRE(running.wait_for("data: "));
  WsClient live(s->port(), {.path = "/v1/live"});
  REQUIRE(live.open());
  const auto first = live.read();
  REQUIRE(first);
  CHECK(member(*first, "running") == "1");
  CHECK(member(*first, "states").find('h') != std::string::npos);
  running.drop();
  CHECK(s->comes_to_rest());
  bool seen = false;
  for (int i = 0; i < 20 && !seen; ++i) {
    const auto next = live.read();
    REQUIRE(next);
    seen = member(*next, "running") == "0" && member(*next, "held") == "0";
  }
  CHECK(seen);
}

}  // namespace
}  // namespace spillway::test
