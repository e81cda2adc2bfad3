// SPDX-License-Identifier: Apache-2.0
// spillway bench serve against spillway serve, both as a shell starts them: every transport, and the saved
// JSON under vLLM's names (those of `vllm bench serve` 0.32, vllm/benchmarks/serve.py).

#include <boost/json.hpp>
#include <csignal>
#include <fstream>
#include <iterator>

#include "tests/e2e/program.hpp"
#include "tests/support/catch.hpp"

namespace spillway::e2e {
namespace {

namespace json = boost::json;

constexpr int kPrompts = 12, kOutputTokens = 7, kInFlight = 3;

/// A server of the tiny model on a free port, for as long as this lives.
class Served {
 public:
  Served() : server_({"serve", tiny_model().string(), "--port", "0", "--served-model-name", "tiny"}) {
    const std::string line = server_.read_until("127.0.0.1:");
    const std::size_t colon = line.rfind(':');
    port_ = line.substr(colon + 1, line.find('\n', colon) - colon - 1);
    REQUIRE_FALSE(port_.empty());
  }
  const std::string& port() const { return port_; }
  int end() {
    server_.signal(SIGTERM);
    return server_.finish().code;
  }

 private:
  Running server_;
  std::string port_;
};

std::vector<std::string> bench(const std::string& port, const std::string& backend,
                               std::vector<std::string> more = {}) {
  std::vector<std::string> arguments = {"bench",
                                        "serve",
                                        "--port",
                                        port,
                                        "--backend",
                                        backend,
                                        "--num-prompts",
                                        std::to_string(kPrompts),
                                        "--input-len",
                                        "9",
                                        "--output-len",
                                        std::to_string(kOutputTokens),
                                        "--text-prompts",
                                        "--no-live",
                                        "--save-result",
                                        "--save-detailed",
                                        "--result-dir",
                                        scratch().string(),
                                        "--result-filename",
                                        "bench.json"};
  if (backend != "openai") std::erase(arguments, "--text-prompts");
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

json::object saved_result() {
  std::ifstream file(scratch() / "bench.json");
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return json::parse(text).as_object();
}

void check_vllm_keys(const json::object& result) {
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
    for (const char* statistic : {"mean", "median", "std", "p50", "p99"}) {
      const std::string key = std::string(statistic) + "_" + metric + "_ms";
      INFO(key);
      REQUIRE(result.contains(key));
      CHECK(result.at(key).to_number<double>() >= 0);
    }
    CHECK(result.at(std::string("p50_") + metric + "_ms") ==
          result.at(std::string("median_") + metric + "_ms"));
    CHECK(result.at(std::string("p99_") + metric + "_ms").to_number<double>() >=
          result.at(std::string("p50_") + metric + "_ms").to_number<double>());
  }
  for (const char* key : {"input_lens", "output_lens", "ttfts", "itls", "latencies", "start_times",
                          "queue_times", "generated_texts", "errors"}) {
    INFO(key);
    REQUIRE(result.contains(key));
    CHECK(result.at(key).as_array().size() == kPrompts);
  }
}

void check_figures(const json::object& result) {
  CHECK(result.at("completed").as_int64() == kPrompts);
  CHECK(result.at("failed").as_int64() == 0);
  CHECK(result.at("total_output_tokens").as_int64() == kPrompts * kOutputTokens);
  CHECK(result.at("max_concurrent_requests").as_int64() <= kInFlight);
  CHECK(result.at("counted_by_server").as_int64() == kPrompts);
  const double duration_s = result.at("duration").to_number<double>();
  CHECK(result.at("output_throughput").to_number<double>() * duration_s == Approx(kPrompts * kOutputTokens));
  CHECK(result.at("request_throughput").to_number<double>() * duration_s == Approx(kPrompts));
  CHECK(result.at("mean_e2el_ms").to_number<double>() > result.at("mean_ttft_ms").to_number<double>());
}

TEST_CASE("bench serve: all transports against a real server, results under vLLM's names") {
  Served server;
  for (const char* backend : {"openai", "openai-chat", "openai-responses", "openai-responses-ws"}) {
    CAPTURE(backend);
    std::vector<std::string> more = {"--max-concurrency", std::to_string(kInFlight), "--metric-percentiles",
                                     "50,99"};
    if (std::string_view(backend).ends_with("-ws")) more.insert(more.end(), {"--websocket-lanes", "2"});
    const Ran ran = spillway(bench(server.port(), backend, more));
    INFO(ran.out << ran.err);
    REQUIRE(ran.code == 0);
    const json::object result = saved_result();
    CHECK(result.at("backend").as_string() == backend);
    CHECK(result.at("model_id").as_string() == "tiny");
    check_vllm_keys(result);
    check_figures(result);
  }
  CHECK(server.end() == 0);
}

TEST_CASE("bench serve: an open loop with a goal, and what a server refuses counts as failed") {
  Served server;
  const Ran ran =
      spillway(bench(server.port(), "openai-chat", {"--request-rate", "200", "--goodput", "e2el:60000"}));
  INFO(ran.out << ran.err);
  REQUIRE(ran.code == 0);
  const json::object result = saved_result();
  CHECK(result.at("request_rate").to_number<double>() == 200);
  CHECK(result.at("request_goodput").to_number<double>() ==
        Approx(result.at("request_throughput").to_number<double>()));
  CHECK(result.contains("mean_ttft_from_schedule_ms"));
  CHECK(result.contains("p99_schedule_lag_ms"));

  const Ran refused = spillway(bench(server.port(), "openai-chat", {"--model", "another"}));
  CHECK(refused.code == 1);
  const json::object failures = saved_result();
  CHECK(failures.at("completed").as_int64() == 0);
  CHECK(failures.at("failed").as_int64() == kPrompts);
  REQUIRE(failures.at("error_counts").as_array().size() == 1);
  CHECK(failures.at("error_counts").as_array()[0].at("count").as_int64() == kPrompts);
  CHECK(server.end() == 0);
}

}  // namespace
}  // namespace spillway::e2e
