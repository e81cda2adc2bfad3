// SPDX-License-Identifier: Apache-2.0
// spillway bench serve: loads a server and measures its answers. Options and results are those of `vllm bench
// serve`, where it has them.

#include <poll.h>
#include <sys/resource.h>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <boost/json.hpp>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <memory>

#include "cli/bench.hpp"
#include "cli/bench_dataset.hpp"
#include "cli/bench_prompts.hpp"
#include "cli/bench_report.hpp"
#include "cli/interrupt.hpp"
#include "cli/live_view.hpp"
#include "cli/log.hpp"
#include "cli/option_values.hpp"
#include "cli/output.hpp"
#include "cli/report.hpp"
#include "net/load/arrivals.hpp"
#include "net/load/load_run.hpp"

namespace spillway::cli {
namespace {

namespace load = net::load;

struct ServeBenchOptions {
  DatasetOptions dataset;
  ReportFiles report;
  load::ArrivalOptions arrivals;
  std::string backend = "openai", base_url, host = "127.0.0.1", endpoint, model, served_model_name, api_key;
  std::string label, ramp_up_strategy, extra_body;
  std::uint16_t port = 8000;
  std::filesystem::path tokenizer;
  std::vector<std::string> headers;
  std::optional<double> ramp_start, ramp_end, temperature, top_p, min_p, frequency_penalty, presence_penalty,
      repetition_penalty;
  std::optional<std::int32_t> top_k;
  std::size_t max_concurrency = 0, warm_ups = 0, lanes = 1;
  double request_timeout_s = 21600, ready_timeout_s = 0;
  bool ignore_eos = false, insecure = false, text_prompts = false, no_live = false;
};

void declare_server(CLI::App& command, ServeBenchOptions& options) {
  const OptionGroup group(command, "Server");
  add_word(command, "--backend", "the API to speak; -ws: the Responses API over WebSocket [openai]",
           options.backend, {"openai", "vllm", "openai-chat", "openai-responses", "openai-responses-ws"});
  add_text(command, "--base-url", "URL", "http(s)://host:port, instead of --host and --port",
           options.base_url);
  add_text(command, "--host", "ADDRESS", "where the server is [127.0.0.1]", options.host);
  add_number(command, "--port", "its port [8000]", options.port, 1, 65535);
  add_text(command, "--endpoint", "PATH", "path of the requests [the backend's]", options.endpoint);
  add_text(command, "--model", "NAME", "the model's name in requests [the server's first]", options.model);
  add_text(command, "--served-model-name", "NAME", "the same; it wins over --model",
           options.served_model_name);
  add_text(command, "--api-key", "KEY", "sent as Authorization: Bearer [$OPENAI_API_KEY]", options.api_key);
  add_texts(command, "--header", "KEY=VALUE", "another header; may be given several times", options.headers);
  command.add_flag("--insecure", options.insecure, "TLS: take any certificate");
  add_number(command, "--websocket-lanes", "responses in flight on one WebSocket, by stream_id, 1 to 16 [1]",
             options.lanes, 1, 16);
  add_decimal(command, "--ready-check-timeout-sec", "wait so long for /v1/models to answer [0: ask once]",
              options.ready_timeout_s, 0, 86400);
  add_decimal(command, "--request-timeout", "seconds until an answer counts as failed [21600]",
              options.request_timeout_s, 0.001, 1e6);
}

void declare_load(CLI::App& command, ServeBenchOptions& options) {
  const OptionGroup group(command, "Load");
  add_decimal(command, "--request-rate", "requests a second, open loop; inf: all at once [inf]",
              options.arrivals.rate_per_s, 1e-9, load::kInfinity);
  add_decimal(command, "--burstiness",
              "1: Poisson; below: burstier (Gamma); above: more even; inf: constant [1]",
              options.arrivals.burstiness, 1e-6, load::kInfinity);
  add_number(command, "--max-concurrency",
             "most requests in flight; with --request-rate inf: closed loop [no limit]",
             options.max_concurrency, 1, 1'000'000);
  add_word(command, "--ramp-up-strategy", "let the rate go from one value to another",
           options.ramp_up_strategy, {"linear", "exponential"});
  add_decimal(command, "--ramp-up-start-rps", "its first value", options.ramp_start, 1e-9, 1e9);
  add_decimal(command, "--ramp-up-end-rps", "its last value", options.ramp_end, 1e-9, 1e9);
  add_number(command, "--num-warmups", "requests before the run, like the first, not measured [0]",
             options.warm_ups, 0, 1'000'000);
}

void declare_requests(CLI::App& command, ServeBenchOptions& options) {
  const OptionGroup group(command, "Requests");
  add_text(command, "--tokenizer", "MODEL",
           "GGUF file, model directory or tokenizer.json: exact lengths of text", options.tokenizer);
  command.add_flag("--text-prompts", options.text_prompts,
                   "text instead of token ids for --backend openai (other backends take text only)");
  command.add_flag("--ignore-eos", options.ignore_eos,
                   "go on past the model's own end; implied by random, lengths and timed_trace");
  add_decimal(command, "--temperature", "0: always the likeliest token [the server's]", options.temperature,
              0, 100);
  add_number(command, "--top-k", "draw from the N likeliest [the server's]", options.top_k, -1, 1'000'000);
  add_decimal(command, "--top-p", "draw from this share of the probability [the server's]", options.top_p, 0,
              1);
  add_decimal(command, "--min-p", "leave out tokens below this share of the likeliest [the server's]",
              options.min_p, 0, 1);
  add_decimal(command, "--frequency-penalty", "-2 to 2 [the server's]", options.frequency_penalty, -2, 2);
  add_decimal(command, "--presence-penalty", "-2 to 2 [the server's]", options.presence_penalty, -2, 2);
  add_decimal(command, "--repetition-penalty", "over 0 [the server's]", options.repetition_penalty, 0.001,
              1000);
  add_text(command, "--extra-body", "JSON", "an object whose members go into every request",
           options.extra_body);
}

std::int64_t steady_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

Result<load::Target> target_of(const ServeBenchOptions& options, load::Dialect dialect) {
  const bool is_v6 = options.host.find(':') != std::string::npos;
  const std::string url = !options.base_url.empty()
                              ? options.base_url
                              : "http://" + (is_v6 ? "[" + options.host + "]" : options.host) + ":" +
                                    std::to_string(options.port);
  Result<load::Target> target = load::parse_base_url(url);
  if (!target) return Error{target.error().code, "--base-url: " + target.error().message};
  target->endpoint =
      options.endpoint.empty() ? std::string(load::default_endpoint(dialect)) : options.endpoint;
  if (!target->endpoint.starts_with('/'))
    return Error{Errc::kInvalidArgument, "--endpoint: it begins with a /"};
  target->verify_peer = !options.insecure;
  const char* environment = std::getenv("OPENAI_API_KEY");
  const std::string key = !options.api_key.empty() ? options.api_key
                          : environment != nullptr ? environment
                                                   : "";
  if (!key.empty()) target->headers.emplace_back("Authorization", "Bearer " + key);
  for (const std::string& header : options.headers) {
    const std::size_t equals = header.find('=');
    if (equals == std::string::npos || equals == 0 || header.find_first_of("\r\n") != std::string::npos)
      return Error{Errc::kInvalidArgument, "--header: '" + header + "' is not KEY=VALUE"};
    target->headers.emplace_back(header.substr(0, equals), header.substr(equals + 1));
  }
  return target;
}

Result<std::string> first_model(const load::Target& target, double patience_s) {
  const std::int64_t deadline_ns = steady_ns() + static_cast<std::int64_t>(patience_s * 1e9);
  for (;;) {
    const Result<std::string> answer = load::fetch(target, "/v1/models", "", std::chrono::seconds(10));
    if (answer) {
      boost::system::error_code failure;
      const boost::json::value models = boost::json::parse(*answer, failure);
      const boost::json::value* id = failure ? nullptr : models.find_pointer("/data/0/id", failure);
      if (id != nullptr && id->is_string()) return std::string(id->get_string());
      return Error{Errc::kInvalidArgument, target.authority() + ": /v1/models names no model; give --model"};
    }
    if (steady_ns() >= deadline_ns || interrupt::signal() != 0)
      return Error{Errc::kIo, target.authority() + ": /v1/models: " + answer.error().message};
    ::poll(nullptr, 0, 500);
  }
}

Result<std::string> extra_members(const ServeBenchOptions& options) {
  std::string members;
  const auto add = [&](const char* name, const auto& value) {
    if (!value) return;
    char text[64];
    std::snprintf(text, sizeof text, "%s\"%s\":%.9g", members.empty() ? "" : ",", name,
                  static_cast<double>(*value));
    members += text;
  };
  add("temperature", options.temperature);
  add("top_k", options.top_k);
  add("top_p", options.top_p);
  add("min_p", options.min_p);
  add("frequency_penalty", options.frequency_penalty);
  add("presence_penalty", options.presence_penalty);
  add("repetition_penalty", options.repetition_penalty);
  if (options.extra_body.empty()) return members;
  const Result<std::string> extra = load::json_members(options.extra_body);
  if (!extra) return Error{extra.error().code, "--extra-body: " + extra.error().message};
  return members + (members.empty() || extra->empty() ? "" : ",") + *extra;
}

Result<void> complete_arrivals(ServeBenchOptions& options) {
  if (!options.ramp_up_strategy.empty()) {
    options.arrivals.ramp_up =
        load::RampUp{options.ramp_up_strategy == "linear" ? load::RampUp::Strategy::kLinear
                                                          : load::RampUp::Strategy::kExponential,
                     options.ramp_start.value_or(0), options.ramp_end.value_or(0)};
  } else if (options.ramp_start || options.ramp_end) {
    return Error{Errc::kInvalidArgument, "--ramp-up-start-rps and --ramp-up-end-rps need --ramp-up-strategy"};
  }
  return load::validate(options.arrivals);
}

std::string arrivals_name(const ServeBenchOptions& options, bool closed_loop) {
  if (closed_loop) return "closed loop";
  if (options.dataset.is_self_timed()) return "trace";
  if (std::isinf(options.arrivals.rate_per_s) && !options.arrivals.ramp_up) return "all at once";
  if (std::isinf(options.arrivals.burstiness)) return "constant";
  return options.arrivals.burstiness == 1 ? "poisson" : "gamma";
}

/// One file descriptor a connection: the soft limit of 1024 is too few.
void raise_file_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  static_cast<void>(::setrlimit(RLIMIT_NOFILE, &limit));
}

Result<std::vector<load::PreparedRequest>> prepare(const ServeBenchOptions& options, load::Dialect dialect,
                                                   const std::string& model) {
  std::optional<model::Tokenizer> tokenizer;
  load::CountTokens count;
  if (!options.tokenizer.empty()) {
    Result<model::Tokenizer> loaded = load_tokenizer_of(options.tokenizer);
    if (!loaded) return Error{loaded.error().code, "--tokenizer: " + loaded.error().message};
    tokenizer.emplace(std::move(*loaded));
    count = counter_of(*tokenizer);
  }
  constexpr model::TokenId kFirstId = 1000;  // special tokens and single bytes are below
  const bool ids = dialect == load::Dialect::kCompletions && !options.text_prompts;
  const load::PromptSource source =
      ids         ? load::PromptSource::of_ids(kFirstId, options.dataset.random_vocab_size)
      : tokenizer ? load::PromptSource::of_vocabulary(*tokenizer)
                  : load::PromptSource::of_common_words();
  Result<std::vector<load::LoadRequest>> requests = make_requests(options.dataset, source, count);
  if (!requests) return requests.error();
  if (!options.dataset.is_self_timed()) {
    runtime::Random random(options.dataset.seed ^ 0x6172726976616c73ULL);  // apart from the lengths' numbers
    const std::vector<std::int64_t> times = load::arrival_times(options.arrivals, requests->size(), random);
    for (std::size_t i = 0; i < times.size(); ++i) (*requests)[i].at_ns = times[i];
  }
  const Result<std::string> extra = extra_members(options);
  if (!extra) return extra.error();
  const load::BodyOptions body{model, options.ignore_eos || options.dataset.fixes_lengths(), *extra};
  std::vector<load::PreparedRequest> prepared;
  prepared.reserve(requests->size());
  for (load::LoadRequest& request : *requests) {
    Result<std::string> text = load::request_body(dialect, request, body);
    if (!text) return text.error();
    prepared.push_back({request.at_ns, std::move(*text), request.prompt_tokens});
    request.prompt = {};
  }
  return prepared;
}

int run(ServeBenchOptions options) {
  if (const Result<void> valid = complete_arrivals(options); !valid) return complain(valid.error());
  if (const Result<void> valid = validate(options.report); !valid) return complain(valid.error());
  const Result<load::Dialect> dialect = load::dialect_of(options.backend);
  if (!dialect) return complain(dialect.error());
  if (options.lanes > 1 && *dialect != load::Dialect::kResponsesSocket)
    return complain("--websocket-lanes needs --backend openai-responses-ws", kWrongInput);
  const Result<load::Target> target = target_of(options, *dialect);
  if (!target) return complain(target.error());
  std::string model = !options.served_model_name.empty() ? options.served_model_name : options.model;
  if (model.empty() || options.ready_timeout_s > 0) {
    const Result<std::string> first = first_model(*target, options.ready_timeout_s);
    if (!first) return complain(first.error().message, kFailed);
    if (model.empty()) model = *first;
  }
  Result<std::vector<load::PreparedRequest>> requests = prepare(options, *dialect, model);
  if (!requests) return complain(requests.error());

  const bool closed_loop = options.max_concurrency != 0 && std::isinf(options.arrivals.rate_per_s) &&
                           !options.arrivals.ramp_up && !options.dataset.is_self_timed();
  load::RunLabel label;
  label.date = date_now();
  label.backend = options.backend;
  label.label = options.label;
  label.model = model;
  label.tokenizer = options.tokenizer.string();
  label.dataset =
      options.dataset.name == "lengths" ? "lengths:" + options.dataset.lengths : options.dataset.name;
  label.base_url = (target->tls ? "https://" : "http://") + target->authority() + target->prefix;
  label.num_prompts = requests->size();
  label.request_rate = options.dataset.is_self_timed() ? load::kInfinity : options.arrivals.rate_per_s;
  label.burstiness = options.arrivals.burstiness;
  label.max_concurrency = options.max_concurrency;
  label.seed = options.dataset.seed;
  label.arrivals = arrivals_name(options, closed_loop);

  load::RunOptions run_options;
  run_options.transport = {
      *dialect, *target, options.report.detailed,
      std::chrono::milliseconds(static_cast<std::int64_t>(options.request_timeout_s * 1e3)), options.lanes};
  run_options.max_concurrency = options.max_concurrency;
  run_options.closed_loop = closed_loop;
  run_options.warm_ups = options.warm_ups;
  run_options.now_ns = &steady_ns;
  raise_file_limit();
  interrupt::defer(true);
  LiveView live(label, !options.no_live);
  Result<load::RunResult> result = load::run_load(std::move(*requests), std::move(run_options), live);
  live.clear();
  if (!result)
    return complain(result.error().message, interrupt::signal() != 0 ? 128 + interrupt::signal() : kFailed);
  label.interrupted = result->interrupted;
  label.connections_opened = result->connections_opened;
  return report_run(options.report, label, *result);
}

}  // namespace

Run make_bench_serve(CLI::App& command) {
  const auto options = std::make_shared<ServeBenchOptions>();
  declare_server(command, *options);
  add_dataset_options(command, options->dataset);
  declare_load(command, *options);
  declare_requests(command, *options);
  add_report_options(command, options->report);
  add_text(command, "--label", "TEXT", "the run's name in its results", options->label);
  command.add_flag("--no-live,--disable-tqdm", options->no_live, "no live view, even on a terminal");
  add_log_level(command);
  return [options] { return run(*options); };
}

}  // namespace spillway::cli
