// SPDX-License-Identifier: Apache-2.0
// What a load run reads and reports: streams, events, metrics, results.

#include <boost/json.hpp>
#include <cmath>

#include "net/load/api_dialect.hpp"
#include "net/load/html_report.hpp"
#include "net/load/metrics.hpp"
#include "net/load/result_json.hpp"
#include "net/load/sse_parser.hpp"
#include "net/load/svg_plot.hpp"
#include "net/load/target.hpp"
#include "tests/support/catch.hpp"

using namespace spillway;
using namespace spillway::net;
namespace json = boost::json;

namespace {

std::vector<std::string> events_of(std::string_view bytes, std::size_t step, bool* inside = nullptr) {
  load::SseParser parser;
  std::vector<std::string> events;
  for (std::size_t at = 0; at < bytes.size(); at += step) {
    const Result<void> fed = parser.feed(bytes.substr(at, step), [&](std::string_view data) -> Result<void> {
      events.emplace_back(data);
      return {};
    });
    REQUIRE(fed.ok());
  }
  if (inside != nullptr) *inside = parser.is_inside_event();
  return events;
}

constexpr std::int64_t kMs = 1'000'000;

/// Due and sent at `sent_ms`, pieces at the given times, the last one being the end.
load::Timeline line_of(std::int64_t sent_ms, std::vector<std::int64_t> pieces_ms) {
  load::Timeline line;
  line.scheduled_ns = line.slot_ns = line.sent_ns = sent_ms * kMs;
  for (const std::int64_t at_ms : pieces_ms) line.token_ns.push_back(at_ms * kMs);
  line.end_ns = line.token_ns.back();
  line.output_tokens = static_cast<std::uint32_t>(pieces_ms.size());
  line.prompt_tokens = 10;
  line.ok = true;
  line.counted_by_server = true;
  return line;
}

std::string message_of(const Result<void>& result) { return result.ok() ? "" : result.error().message; }

}  // namespace

TEST_CASE("sse: events are the same wherever the bytes are cut") {
  const std::string_view stream =
      ": comment\r\ndata: one\r\n\r\nevent: x\ndata:two\ndata: more\n\nid: 5\n\ndata\n\ndatabase: no\ndata: "
      "{\"a\":\"b\"}\r\rdata: cut";
  const std::vector<std::string> expected{"one", "two\nmore", "", "{\"a\":\"b\"}"};
  for (std::size_t step = 1; step <= stream.size(); ++step) {
    INFO("step " << step);
    bool inside = false;
    CHECK(events_of(stream, step, &inside) == expected);
    CHECK(inside);
  }
}

TEST_CASE("sse: an endless event is an error") {
  load::SseParser parser;
  const std::string megabyte(1 << 20, 'x');
  Result<void> fed;
  int times = 0;
  for (; times < 20 && fed; ++times)
    fed = parser.feed(megabyte, [](std::string_view) { return Result<void>(); });
  CHECK(times == 9);
}

TEST_CASE("dialect: a request has the API's own fields") {
  load::LoadRequest request{0, std::vector<model::TokenId>{1, 22, 333}, 3, 7};
  const load::BodyOptions options{"m\"x", true, R"("temperature":0)"};
  const json::value ids =
      json::parse(load::request_body(load::Dialect::kCompletions, request, options).value());
  CHECK(ids.at("prompt") == json::array{1, 22, 333});
  CHECK(ids.at("max_tokens") == 7);
  CHECK(ids.at("model") == "m\"x");
  CHECK(ids.at("ignore_eos") == true);
  CHECK(ids.at("temperature") == 0);
  CHECK(ids.at("stream_options").at("include_usage") == true);
  CHECK_FALSE(load::request_body(load::Dialect::kChat, request, options).ok());
  request.prompt = std::string("say \"hi\"\n");
  const json::value chat = json::parse(load::request_body(load::Dialect::kChat, request, options).value());
  CHECK(chat.at("messages").at(0).at("content") == "say \"hi\"\n");
  CHECK(chat.at("max_completion_tokens") == 7);
  const json::value socket =
      json::parse(load::request_body(load::Dialect::kResponsesSocket, request, {}).value());
  CHECK(socket.at("type") == "response.create");
  CHECK(socket.at("store") == false);
  CHECK_FALSE(socket.as_object().contains("stream"));
  CHECK_FALSE(socket.as_object().contains("ignore_eos"));
}

TEST_CASE("dialect: an answer's events fill the timeline") {
  load::Timeline line;
  load::AnswerReader reader(load::Dialect::kCompletions, line, true);
  CHECK(reader.take(R"({"choices":[{"text":"a","finish_reason":null}],"usage":null})", 10).ok());
  CHECK(reader.take(R"({"choices":[{"text":"","finish_reason":null}]})", 15).ok());  // half a character
  CHECK(reader.take(R"({"choices":[{"text":"bc","finish_reason":"length"}]})", 20).ok());
  CHECK(reader.take(R"({"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3}})", 30).ok());
  CHECK(reader.take("[DONE]", 31).ok());
  CHECK(reader.finish().ok());
  CHECK(line.token_ns == std::vector<std::int64_t>{10, 20});
  CHECK(line.end_ns == 20);
  CHECK(line.output_tokens == 3);
  CHECK(line.prompt_tokens == 9);
  CHECK(line.text == "abc");
}

TEST_CASE("dialect: without usage the pieces are counted") {
  load::Timeline line;
  load::AnswerReader reader(load::Dialect::kChat, line, false);
  CHECK(reader.take(R"({"choices":[{"delta":{"role":"assistant","content":""}}]})", 1).ok());
  CHECK(reader.take(R"({"choices":[{"delta":{"content":"a"}}]})", 2).ok());
  CHECK(reader.take(R"({"choices":[{"delta":{"content":"b"},"finish_reason":"stop"}]})", 3).ok());
  CHECK(reader.finish().ok());
  CHECK(line.output_tokens == 2);
  CHECK_FALSE(line.counted_by_server);
  CHECK(line.text.empty());
}

TEST_CASE("dialect: a response ends with its terminal event") {
  load::Timeline line;
  load::AnswerReader reader(load::Dialect::kResponsesSocket, line, false);
  CHECK(reader.take(R"({"type":"response.created","response":{}})", 1).ok());
  CHECK(reader.take(R"({"type":"response.output_text.delta","delta":"x"})", 2).ok());
  CHECK_FALSE(reader.is_ended());
  CHECK(
      reader
          .take(
              R"({"type":"response.incomplete","response":{"status":"incomplete","usage":{"input_tokens":4,"output_tokens":1}}})",
              5)
          .ok());
  CHECK(reader.is_ended());
  CHECK(reader.finish().ok());
  CHECK(line.end_ns == 5);
  CHECK(line.output_tokens == 1);
}

TEST_CASE("dialect: errors in a stream are the server's words, malformed events are named") {
  load::Timeline line;
  const auto error = [&](load::Dialect dialect, std::string_view event) {
    return message_of(load::AnswerReader(dialect, line, false).take(event, 1));
  };
  using enum load::Dialect;
  CHECK(error(kChat, R"({"error":{"message":"out of blocks"}})") == "error in the stream: out of blocks");
  CHECK(error(kCompletions, R"({"error":"oops"})") == "error in the stream: oops");
  CHECK(
      error(kResponsesSocket, R"({"type":"error","status":429,"error":{"message":"The queue is full."}})") ==
      "error in the stream: The queue is full.");
  CHECK(error(kResponses, R"({"type":"error","message":"flat"})") == "error in the stream: flat");
  CHECK(error(kResponses, R"({"type":"response.failed","response":{"error":{"message":"lost"}}})") ==
        "error in the stream: lost");
  CHECK(error(kResponses, R"({"type":"response.incomplete","response":{"status":"cancelled"}})")
            .find("cancelled") != std::string::npos);
  for (const std::string_view event :
       {"{", "[]", "5", "{}", R"({"choices":5})", R"({"choices":[5]})", "\xff\xfe"}) {
    INFO(event);
    CHECK(error(kCompletions, event).find("malformed event") == 0);
  }
  CHECK(error(kResponses, R"({"type":"response.completed"})").find("malformed event") == 0);
  load::AnswerReader cut(kCompletions, line, false);
  CHECK(cut.take(R"({"choices":[{"text":"a"}]})", 1).ok());
  CHECK(message_of(cut.finish()) == "the stream ended before the answer was whole");
}

TEST_CASE("dialect: an HTTP error gives the server's message, short and on one line") {
  CHECK(load::http_error_text(429, R"({"error":{"message":"The queue is full."}})") ==
        "HTTP 429: The queue is full.");
  CHECK(load::http_error_text(500, "a\nb") == "HTTP 500: a b");
  CHECK(load::http_error_text(502, "") == "HTTP 502");
  CHECK(load::http_error_text(500, std::string(10000, 'x')).size() < 250);
}

TEST_CASE("dialect: an event's lane is found with and without spaces, and text cannot fake one") {
  CHECK(load::stream_id_of(R"({"type":"x","stream_id":"l3"})") == "l3");
  CHECK(load::stream_id_of(R"({"stream_id" : "l11", "type":"x"})") == "l11");
  CHECK(load::stream_id_of(R"({"type":"x","delta":"\"stream_id\":\"l1\""})").empty());
  CHECK(load::stream_id_of(R"({"stream_id":5})").empty());
}

TEST_CASE("target: URLs give host, port and prefix") {
  const load::Target plain = load::parse_base_url("http://localhost:8000").value();
  CHECK((plain.host == "localhost" && plain.port == "8000" && !plain.tls && plain.prefix.empty()));
  const load::Target v6 = load::parse_base_url("wss://[::1]/api/").value();
  CHECK((v6.host == "::1" && v6.port == "443" && v6.tls && v6.prefix == "/api"));
  CHECK(v6.authority() == "[::1]:443");
  for (const std::string_view wrong : {"", "localhost:8000", "ftp://x", "http://", "http://a:b", "http://a@b",
                                       "http://[::1", "http://x/?q", "http://x:123456", "http://[::1]8"}) {
    INFO(wrong);
    CHECK_FALSE(load::parse_base_url(wrong).ok());
  }
}

TEST_CASE("metrics: percentiles are linear between ranks, as numpy's") {
  const std::vector<double> values{10, 20, 30, 40};
  CHECK(load::percentile(values, 50) == 25);
  CHECK(load::percentile(values, 0) == 10);
  CHECK(load::percentile(values, 100) == 40);
  CHECK(load::percentile(values, 99) == Approx(39.7));
  CHECK(load::percentile(values, 90) == Approx(37));
  CHECK(load::percentile({}, 50) == 0);
  const load::Distribution of = load::Distribution::of({4, 2, 4, 4, 5, 5, 7, 9});
  CHECK(of.mean == 5);
  CHECK(of.std_deviation == 2);
  CHECK(of.median == 4.5);
  CHECK(of.max == 9);
}

TEST_CASE("metrics: a request's figures follow from its timeline") {
  load::Timeline line = line_of(100, {150, 160, 180, 190});
  line.scheduled_ns = 70 * kMs;
  line.slot_ns = 98 * kMs;
  const std::vector<load::Timeline> lines{line};
  const load::Metrics metrics = load::compute_metrics(lines, 2, {});
  CHECK(metrics.ttft.mean == 50);
  CHECK(metrics.e2el.mean == 90);
  CHECK(metrics.tpot.mean == Approx(40.0 / 3));
  CHECK(metrics.itl.sorted == std::vector<double>{10, 10, 20});
  CHECK(metrics.ttft_scheduled.mean == 80);  // nothing that the client did is left out
  CHECK(metrics.e2el_scheduled.mean == 120);
  CHECK(metrics.queue_time.mean == 28);
  CHECK(metrics.lag.mean == 2);
  CHECK(metrics.output_throughput == 2);
  CHECK(metrics.total_token_throughput == 7);
  CHECK_FALSE(metrics.request_goodput.has_value());
}

TEST_CASE("metrics: a server that stalls shows in the latency from the due time, not only in one request") {
  // Due every 10 ms; the client may have one in flight, and the first answer takes 100 ms, the others 1 ms.
  std::vector<load::Timeline> lines;
  std::int64_t free_ms = 0;
  for (int i = 0; i < 10; ++i) {
    load::Timeline line = line_of(std::max<std::int64_t>(i * 10, free_ms),
                                  {std::max<std::int64_t>(i * 10, free_ms) + (i == 0 ? 100 : 1)});
    line.scheduled_ns = i * 10 * kMs;
    free_ms = line.end_ns / kMs;
    lines.push_back(line);
  }
  const load::Metrics metrics = load::compute_metrics(lines, 1, {});
  CHECK(metrics.e2el.median == 1);
  CHECK(metrics.e2el_scheduled.median > 40);
}

TEST_CASE("metrics: failed requests count as failed, and their reasons are counted") {
  std::vector<load::Timeline> lines{line_of(0, {10, 20}), line_of(0, {500}), line_of(0, {10})};
  for (int i = 1; i < 3; ++i) {
    lines[static_cast<std::size_t>(i)].ok = false;
    lines[static_cast<std::size_t>(i)].error = "HTTP 429: The queue is full.";
  }
  lines.push_back(lines[1]);
  lines.back().error = "connect: Connection refused";
  lines.back().sent_ns = -1;
  const load::Metrics metrics = load::compute_metrics(lines, 1, {});
  CHECK(metrics.completed == 1);
  CHECK(metrics.failed == 3);
  CHECK(metrics.output_tokens == 2);
  CHECK(metrics.lag.sorted.size() == 3);
  REQUIRE(metrics.errors.size() == 2);
  CHECK(metrics.errors[0].error == "HTTP 429: The queue is full.");
  CHECK(metrics.errors[0].count == 2);
  const load::Metrics none = load::compute_metrics({}, 0, {});
  CHECK(none.request_throughput == 0);
}

TEST_CASE("metrics: goodput takes requests that keep every limit") {
  const std::vector<load::Timeline> lines{line_of(0, {50, 60}), line_of(0, {250, 260}),
                                          line_of(0, {50, 150})};
  const auto good = [&](load::Goodput goodput) {
    return load::compute_metrics(lines, 1, goodput).request_goodput.value();
  };
  CHECK(good({200, {}, {}}) == 2);
  CHECK(good({{}, 50, {}}) == 2);
  CHECK(good({200, 50, {}}) == 1);
  CHECK(good({{}, {}, 150}) == 2);
}

TEST_CASE("metrics: the peak counts requests that overlap, not those that touch") {
  const std::vector<load::Timeline> lines{line_of(0, {10}), line_of(5, {15}), line_of(10, {20}),
                                          line_of(30, {40})};
  CHECK(load::compute_metrics(lines, 1, {}).peak_concurrency == 2);
}

TEST_CASE("results: the JSON has vLLM's keys, and details only when asked for") {
  const std::vector<load::Timeline> lines{line_of(100, {150, 160, 180, 190})};
  const load::Metrics metrics = load::compute_metrics(lines, 2, {200, {}, {}});
  load::RunLabel label;
  label.backend = "openai";
  label.model = "m";
  label.num_prompts = 1;
  label.request_rate = INFINITY;
  label.metadata = {{"gpu", "none"}};
  const json::object result =
      json::parse(
          load::result_json(label, metrics, lines, {{"ttft", "tpot", "itl", "e2el"}, {50, 99.9}, false}))
          .as_object();
  for (const char* key : {"date",
                          "backend",
                          "endpoint_type",
                          "label",
                          "model_id",
                          "tokenizer_id",
                          "num_prompts",
                          "request_rate",
                          "burstiness",
                          "max_concurrency",
                          "duration",
                          "completed",
                          "failed",
                          "total_input_tokens",
                          "total_output_tokens",
                          "request_throughput",
                          "request_goodput",
                          "output_throughput",
                          "total_token_throughput",
                          "max_output_tokens_per_s",
                          "max_concurrent_requests"}) {
    INFO(key);
    CHECK(result.contains(key));
  }
  for (const char* metric : {"ttft", "tpot", "itl", "e2el"}) {
    for (const char* statistic : {"mean", "median", "std", "p50", "p99.9"}) {
      INFO(statistic << metric);
      CHECK(result.contains(std::string(statistic) + "_" + metric + "_ms"));
    }
  }
  CHECK(result.at("request_rate") == "inf");
  CHECK(result.at("max_concurrency").is_null());
  CHECK(result.at("mean_ttft_ms").to_number<double>() == 50);
  CHECK(result.at("request_goodput").to_number<double>() == 0.5);
  CHECK(result.at("gpu") == "none");
  CHECK(result.contains("mean_e2el_from_schedule_ms"));
  CHECK(result.contains("max_schedule_lag_ms"));
  CHECK_FALSE(result.contains("ttfts"));
  const json::object detailed =
      json::parse(load::result_json(label, metrics, lines, {{"ttft"}, {99}, true})).as_object();
  for (const char* key :
       {"input_lens", "output_lens", "ttfts", "itls", "generated_texts", "errors", "start_times"}) {
    INFO(key);
    CHECK(detailed.at(key).as_array().size() == 1);
  }
  CHECK(detailed.at("itls").at(0).as_array().size() == 3);
  CHECK_FALSE(detailed.contains("mean_itl_ms"));
}

TEST_CASE("results: percentiles are named as vLLM names them") {
  CHECK(load::percentile_name(99) == "99");
  CHECK(load::percentile_name(99.9) == "99.9");
}

TEST_CASE("plot: ticks are round and inside the axis") {
  CHECK(load::axis_ticks({0, 100, ""}, 5) == std::vector<double>{0, 20, 40, 60, 80, 100});
  CHECK(load::axis_ticks({0, 7, ""}, 4) == std::vector<double>{0, 2, 4, 6});
  CHECK(load::axis_ticks({1, 1000, "", true}, 3) == std::vector<double>{1, 10, 100, 1000});
  CHECK(load::short_number(1234567) == "1.23M");
  CHECK(load::short_number(0.05) == "0.05");
}

TEST_CASE("report: the page is complete in itself and quotes what it is given") {
  std::vector<load::Timeline> lines{line_of(100, {150, 160, 180, 190}), line_of(100, {900})};
  lines[1].ok = false;
  lines[1].error = "<script>alert(1)</script>";
  load::RunLabel label;
  label.model = "<img src=x>";
  label.num_prompts = 2;
  label.request_rate = INFINITY;
  const std::string page = load::html_report(label, load::compute_metrics(lines, 2, {}), lines, {});
  CHECK(page.find("<script") == std::string::npos);
  CHECK(page.find("<img") == std::string::npos);
  CHECK(page.find("http://") == std::string::npos);
  CHECK(page.find("&lt;script&gt;alert") != std::string::npos);
  CHECK(page.find("nan") == std::string::npos);
  CHECK(page.find("inf\"") == std::string::npos);
  // A run of which nothing came still makes a page.
  CHECK(load::html_report(label, load::compute_metrics({}, 0, {}), {}, {}).find("</html>") !=
        std::string::npos);
}
