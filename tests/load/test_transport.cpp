// SPDX-License-Identifier: Apache-2.0
// The load generator against a small server of the test's own: every API, and everything that can go wrong.

#include <chrono>

#include "net/load/load_run.hpp"
#include "tests/load/responder.hpp"
#include "tests/support/catch.hpp"

using namespace spillway;
using namespace spillway::net;
using tests::RawAnswer;
using tests::Responder;

namespace {

std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

class Watcher final : public load::RunObserver {
 public:
  explicit Watcher(int ticks_max = 1 << 30) : ticks_left_(ticks_max) {}
  void on_tick(const load::RunView&) override { --ticks_left_; }
  bool wants_end() override { return ticks_left_ <= 0; }

 private:
  int ticks_left_;
};

struct Setting {
  load::Dialect dialect = load::Dialect::kCompletions;
  std::size_t requests = 4, tokens = 3, concurrency = 0, lanes = 1, warm_ups = 0;
  std::int64_t gap_ns = 0;
  bool closed_loop = false, tls = false, verify = false;
  std::chrono::milliseconds timeout{10000};
};

Result<load::RunResult> run(const Responder& server, const Setting& setting, int ticks_max = 1 << 30) {
  load::RunOptions options;
  load::Target& target = options.transport.target;
  target.host = "127.0.0.1";
  target.port = std::to_string(server.port());
  target.tls = setting.tls;
  target.verify_peer = setting.verify;
  target.endpoint = load::default_endpoint(setting.dialect);
  options.transport.dialect = setting.dialect;
  options.transport.keep_text = true;
  options.transport.request_timeout = setting.timeout;
  options.transport.lanes = setting.lanes;
  options.max_concurrency = setting.concurrency;
  options.closed_loop = setting.closed_loop;
  options.warm_ups = setting.warm_ups;
  options.now_ns = &now_ns;
  std::vector<load::PreparedRequest> requests;
  for (std::size_t i = 0; i < setting.requests; ++i) {
    const load::LoadRequest request{0, std::string("hello"), 1, static_cast<std::uint32_t>(setting.tokens)};
    requests.push_back({static_cast<std::int64_t>(i) * setting.gap_ns,
                        load::request_body(setting.dialect, request, {"tiny", true, ""}).value(), 1});
  }
  Watcher watcher(ticks_max);
  return load::run_load(std::move(requests), options, watcher);
}

void check_all_good(const load::RunResult& result, std::size_t tokens) {
  for (const load::Timeline& line : result.lines) {
    INFO(line.error);
    REQUIRE(line.ok);
    REQUIRE(line.token_ns.size() == tokens);
    REQUIRE(line.output_tokens == tokens);
    REQUIRE(line.prompt_tokens == 5);  // as the server says
    REQUIRE(line.text.size() == 3 * tokens);
    REQUIRE(line.scheduled_ns <= line.slot_ns);
    REQUIRE(line.slot_ns <= line.sent_ns);
    REQUIRE(line.sent_ns <= line.token_ns.front());
    REQUIRE(line.token_ns.back() <= line.end_ns);
  }
}

Responder::Options scripted(std::vector<std::string> parts, bool close_after = false) {
  Responder::Options options;
  options.raw = [parts, close_after](std::size_t, const std::string&) {
    return std::make_unique<RawAnswer>(RawAnswer{parts, std::chrono::milliseconds(0), close_after});
  };
  return options;
}

std::string error_of(const Responder& server, Setting setting = {}) {
  setting.requests = 1;
  const Result<load::RunResult> result = run(server, setting);
  REQUIRE(result.ok());
  CHECK_FALSE(result->lines[0].ok);
  CHECK(result->lines[0].end_ns >= result->lines[0].sent_ns);
  return result->lines[0].error;
}

const std::string kHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";
const std::string kChunked = kHead + "Transfer-Encoding: chunked\r\n\r\n";
const std::string kEvents =
    "data: {\"choices\":[{\"text\":\"ab \"}]}\r\n\r\n: ping\n\ndata: {\"choices\":[{\"text\":\"cd "
    "\",\"finish_reason\":\"stop\"}]}\n\n"
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";

}  // namespace

TEST_CASE("transport: every API answers, open loop and closed") {
  using enum load::Dialect;
  for (const load::Dialect dialect : {kCompletions, kChat, kResponses, kResponsesSocket}) {
    const Responder server;
    INFO("dialect " << static_cast<int>(dialect));
    const Result<load::RunResult> open = run(server, {.dialect = dialect, .requests = 20, .gap_ns = 500'000});
    REQUIRE(open.ok());
    check_all_good(*open, 3);
    const Result<load::RunResult> closed =
        run(server, {.dialect = dialect, .requests = 20, .concurrency = 2, .closed_loop = true});
    REQUIRE(closed.ok());
    check_all_good(*closed, 3);
    CHECK(closed->connections_opened <= 2);
    CHECK(server.bodies().size() == 40);
  }
}

TEST_CASE("transport: TLS works, and a certificate nobody vouches for is refused unless asked") {
  Responder::Options options;
  options.tls = true;
  const Responder server(options);
  for (const load::Dialect dialect : {load::Dialect::kCompletions, load::Dialect::kResponsesSocket}) {
    const Result<load::RunResult> result = run(server, {.dialect = dialect, .tls = true});
    REQUIRE(result.ok());
    check_all_good(*result, 3);
    CHECK(error_of(server, {.dialect = dialect, .tls = true, .verify = true}).find("TLS handshake: ") == 0);
  }
}

TEST_CASE("transport: lanes share a connection, and their events do not mix") {
  Responder::Options options;
  options.per_token = std::chrono::milliseconds(1);
  const Responder server(options);
  const Result<load::RunResult> result = run(server, {.dialect = load::Dialect::kResponsesSocket,
                                                      .requests = 64,
                                                      .tokens = 5,
                                                      .concurrency = 32,
                                                      .lanes = 16,
                                                      .closed_loop = true});
  REQUIRE(result.ok());
  check_all_good(*result, 5);
  CHECK(result->connections_opened == 2);
  CHECK(server.bodies()[0].find(R"("stream_id":"l)") != std::string::npos);
}

TEST_CASE("transport: pieces are timed as they come, not when the answer is whole") {
  Responder::Options options;
  options.per_token = std::chrono::milliseconds(20);
  const Responder server(options);
  for (const load::Dialect dialect : {load::Dialect::kChat, load::Dialect::kResponsesSocket}) {
    const Result<load::RunResult> result = run(server, {.dialect = dialect, .requests = 1, .tokens = 5});
    REQUIRE(result.ok());
    check_all_good(*result, 5);
    const load::Timeline& line = result->lines[0];
    CHECK(line.token_ns.back() - line.token_ns.front() >=
          70'000'000);  // four pauses of 20 ms; a sleep is never short
  }
}

TEST_CASE("transport: requests keep to their schedule while answers are slow") {
  Responder::Options options;
  options.per_token = std::chrono::milliseconds(200);
  const Responder server(options);
  const Result<load::RunResult> result = run(server, {.requests = 10, .tokens = 1, .gap_ns = 10'000'000});
  REQUIRE(result.ok());
  check_all_good(*result, 1);
  for (std::size_t i = 0; i < 10; ++i)
    CHECK(result->lines[i].scheduled_ns == static_cast<std::int64_t>(i) * 10'000'000);
  CHECK(result->lines[9].sent_ns < result->lines[0].end_ns);  // nobody waited for an answer
}

TEST_CASE("transport: a full --max-concurrency holds requests back, and the wait is on record") {
  Responder::Options options;
  options.per_token = std::chrono::milliseconds(30);
  const Responder server(options);
  const Result<load::RunResult> result = run(server, {.requests = 4, .tokens = 1, .concurrency = 1});
  REQUIRE(result.ok());
  check_all_good(*result, 1);
  for (std::size_t i = 1; i < 4; ++i) {
    CHECK(result->lines[i].scheduled_ns == 0);
    CHECK(result->lines[i].slot_ns >= result->lines[i - 1].end_ns);
  }
}

TEST_CASE("transport: warm-ups are sent and not measured") {
  const Responder server;
  const Result<load::RunResult> result = run(server, {.requests = 3, .warm_ups = 5});
  REQUIRE(result.ok());
  CHECK(result->lines.size() == 3);
  CHECK(server.bodies().size() == 8);
}

TEST_CASE("http: a body is the same wherever its chunks and packets are cut") {
  for (std::size_t step = 1; step < kEvents.size(); step += step < 8 ? 1 : 13) {
    std::string body;
    for (std::size_t at = 0; at < kEvents.size(); at += step) {
      const std::string piece = kEvents.substr(at, step);
      char size[16];
      std::snprintf(size, sizeof size, "%zx\r\n", piece.size());
      body += size + piece + "\r\n";
    }
    body += "0\r\n\r\n";
    const std::string whole = kChunked + body;
    std::vector<std::string> packets;
    for (std::size_t at = 0; at < whole.size(); at += 7) packets.push_back(whole.substr(at, 7));
    const Responder server(scripted(packets));
    const Result<load::RunResult> result =
        run(server, {.requests = 2, .concurrency = 1, .closed_loop = true});
    REQUIRE(result.ok());
    INFO("step " << step);
    check_all_good(*result, 2);
    CHECK(result->connections_opened == 1);
  }
}

TEST_CASE("http: a body may have a length, or end with its connection") {
  const Responder sized(
      scripted({kHead + "Content-Length: " + std::to_string(kEvents.size()) + "\r\n\r\n" + kEvents}));
  const Result<load::RunResult> by_length = run(sized, {.requests = 2});
  REQUIRE(by_length.ok());
  check_all_good(*by_length, 2);
  const Responder closing(scripted({kHead + "\r\n" + kEvents}, true));
  const Result<load::RunResult> by_end = run(closing, {.requests = 2, .concurrency = 1, .closed_loop = true});
  REQUIRE(by_end.ok());
  check_all_good(*by_end, 2);
  CHECK(by_end->connections_opened == 2);
}

TEST_CASE("http: a connection that the server has closed while idle is replaced, unseen") {
  Responder::Options options;
  options.requests_per_connection = 1;
  const Responder server(options);
  const Result<load::RunResult> result = run(server, {.requests = 5, .concurrency = 1, .closed_loop = true});
  REQUIRE(result.ok());
  check_all_good(*result, 3);
  CHECK(result->connections_opened == 5);
}

TEST_CASE("http: what goes wrong is named") {
  const std::string refusal = R"({"error":{"message":"The queue is full."}})";
  CHECK(error_of(Responder(scripted({"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: " +
                                     std::to_string(refusal.size()) + "\r\n\r\n" + refusal}))) ==
        "HTTP 429: The queue is full.");
  CHECK(error_of(Responder(scripted({kChunked + "1d\r\ndata: {\"choices\":[{\"text\":\"a"}, true)))
            .find("closed in mid-answer") == 0);
  CHECK(error_of(Responder(scripted({kHead + "\r\ndata: {\"choices\":[{\"text\":\"a\"}]}\n\n"}, true))) ==
        "the stream ended before the answer was whole");
  CHECK(error_of(Responder(scripted({kHead + "\r\ndata: {\"choi"}, true))) ==
        "the stream ended inside an event");
  CHECK(error_of(Responder(scripted({kChunked + "6\r\ndata: \r\n5\r\nnope\n\r\n1\r\n\n\r\n0\r\n\r\n"})))
            .find("malformed event") == 0);
  CHECK(error_of(Responder(scripted({kChunked + "zz\r\n"}))).find("malformed answer: ") == 0);
  CHECK(error_of(Responder(scripted({"nonsense\r\n\r\n"}))).find("no answer: ") == 0);
  CHECK(error_of(Responder(scripted({""}, true))).find("no answer: ") == 0);
  CHECK(error_of(Responder(scripted(
                     {"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"})))
            .find("no event stream") != std::string::npos);
  const std::string event = "data: {\"error\":{\"message\":\"out of blocks\"}}\n\n";
  CHECK(error_of(Responder(scripted({kHead + "\r\n" + event}, true))) ==
        "error in the stream: out of blocks");
}

TEST_CASE("websocket: what goes wrong is named") {
  const auto server = [](std::vector<std::string> messages) {
    Responder::Options options;
    options.messages = [messages](std::size_t, const std::string&) {
      return std::make_unique<std::vector<std::string>>(messages);
    };
    return options;
  };
  const Setting setting{.dialect = load::Dialect::kResponsesSocket};
  CHECK(
      error_of(Responder(server(
                   {R"({"type":"error","status":429,"error":{"type":"x","message":"The queue is full."}})"})),
               setting) == "error in the stream: The queue is full.");
  CHECK(error_of(Responder(server({R"({"type":"response.created"})", "CLOSE"})), setting) ==
        "the server closed the WebSocket, code 1013: draining");
  CHECK(error_of(Responder(server({"{{{"})), setting).find("malformed event") == 0);
  CHECK(error_of(Responder(server({R"({"type":"response.completed"})"})), setting).find("malformed event") ==
        0);
  Setting lanes = setting;
  lanes.lanes = 4;
  CHECK(error_of(Responder(server({R"({"type":"response.created","stream_id":"zz"})"})), lanes)
            .find("belongs to no request") != std::string::npos);
}

TEST_CASE("websocket: an error on one request leaves the connection to the next") {
  Responder::Options options;
  options.messages = [](std::size_t number, const std::string&) -> std::unique_ptr<std::vector<std::string>> {
    if (number != 0) return nullptr;
    return std::make_unique<std::vector<std::string>>(
        1, R"({"type":"error","status":429,"error":{"type":"x","message":"busy"}})");
  };
  const Responder server(options);
  const Result<load::RunResult> result =
      run(server,
          {.dialect = load::Dialect::kResponsesSocket, .requests = 3, .concurrency = 1, .closed_loop = true});
  REQUIRE(result.ok());
  CHECK_FALSE(result->lines[0].ok);
  CHECK(result->lines[1].ok);
  CHECK(result->lines[2].ok);
  CHECK(result->connections_opened == 1);
}

TEST_CASE("transport: a port where nobody listens fails every request, and warm-ups say so at once") {
  std::uint16_t port = 0;
  for (const load::Dialect dialect : {load::Dialect::kCompletions, load::Dialect::kResponsesSocket}) {
    auto server = std::make_unique<Responder>();
    port = server->port();
    server.reset();
    load::RunOptions options;
    options.transport.dialect = dialect;
    options.transport.target.host = "127.0.0.1";
    options.transport.target.port = std::to_string(port);
    options.transport.target.endpoint = load::default_endpoint(dialect);
    options.now_ns = &now_ns;
    Watcher watcher;
    const Result<load::RunResult> result = load::run_load({{0, "{}", 1}, {0, "{}", 1}}, options, watcher);
    REQUIRE(result.ok());
    CHECK(result->lines[1].error == "connect: Connection refused");
    options.warm_ups = 1;
    const Result<load::RunResult> warm = load::run_load({{0, "{}", 1}}, options, watcher);
    REQUIRE_FALSE(warm.ok());
    CHECK(warm.error().message.find("every warm-up request failed: connect") == 0);
  }
}

TEST_CASE("transport: an answer that never ends is given up, a run that is stopped ends at once") {
  Responder::Options options;
  options.per_token = std::chrono::hours(1);
  const Responder server(options);
  for (const load::Dialect dialect : {load::Dialect::kCompletions, load::Dialect::kResponsesSocket}) {
    CHECK(error_of(server, {.dialect = dialect, .timeout = std::chrono::milliseconds(50)}) ==
          "no end within --request-timeout");
    const Result<load::RunResult> stopped =
        run(server, {.dialect = dialect, .requests = 3, .concurrency = 2}, 1);
    REQUIRE(stopped.ok());
    CHECK(stopped->interrupted);
    CHECK(stopped->lines[0].error == "the run was interrupted");
    CHECK(stopped->lines[2].error == "not sent: the run was interrupted");
  }
}

TEST_CASE("fetch: a page as a whole, or why not") {
  const Responder server;
  load::Target target;
  target.host = "127.0.0.1";
  target.port = std::to_string(server.port());
  const Result<std::string> models = load::fetch(target, "/v1/models", "", std::chrono::seconds(5));
  REQUIRE(models.ok());
  CHECK(models->find("tiny") != std::string::npos);
  target.host = "no.such.host.invalid";
  CHECK_FALSE(load::fetch(target, "/v1/models", "", std::chrono::seconds(5)).ok());
}
