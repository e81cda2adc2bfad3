// SPDX-License-Identifier: Apache-2.0
// spillway bench throughput and latency: the embedded engine, without a server between. As vLLM's commands of
// these names, in options and in the JSON they write.

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>

#include "cli/bench.hpp"
#include "cli/bench_dataset.hpp"
#include "cli/bench_prompts.hpp"
#include "cli/interrupt.hpp"
#include "cli/job.hpp"
#include "cli/option_values.hpp"
#include "cli/output.hpp"
#include "cli/report.hpp"
#include "cli/start_engine.hpp"
#include "net/load/metrics.hpp"

namespace spillway::cli {
namespace {

namespace load = net::load;
namespace json = boost::json;

struct OfflineOptions {
  EngineOptions engine;
  DatasetOptions dataset;
  std::filesystem::path output;  // JSON
  std::uint32_t input_len = 32, output_len = 128, batch_size = 8, warm_ups = 10, iterations = 30;
};

double seconds_between(runtime::TimePoint from, runtime::TimePoint to) {
  return std::chrono::duration<double>(to - from).count();
}

Result<void> write_json(const std::filesystem::path& path, const json::object& object) {
  if (path.empty()) return {};
  std::ofstream file(path);
  file << json::serialize(object) << '\n';
  file.close();
  if (!file) return Error{Errc::kIo, path.string() + ": " + std::strerror(errno)};
  return {};
}

GenerationRequest greedy_request(std::vector<model::TokenId> prompt, std::uint32_t tokens) {
  GenerationRequest request;
  request.prompt = std::move(prompt);
  request.params.max_tokens = static_cast<std::int32_t>(tokens);
  request.params.temperature = 0;
  request.params.ignore_eos = true;
  return request;
}

/// What a finished job took and made.
struct JobFigures {
  double elapsed_s = 0;
  std::size_t completed = 0, failed = 0;
  std::uint64_t prompt_tokens = 0, output_tokens = 0;
  std::string first_error;
};

JobFigures figures_of(const Job& job) {
  JobFigures figures;
  runtime::TimePoint start{}, end{};
  for (std::size_t i = 0; i < job.answers.size(); ++i) {
    const Answer& answer = job.answers[i];
    if (i == 0 || answer.submitted < start) start = answer.submitted;
    end = std::max(end, answer.end);
    const std::optional<Error>& error = answer.refused ? answer.refused : answer.choices.front().error;
    if (error) {
      ++figures.failed;
      if (figures.first_error.empty()) figures.first_error = error->message;
      continue;
    }
    ++figures.completed;
    figures.prompt_tokens += job.requests[i].prompt.size();
    figures.output_tokens += answer.choices.front().tokens.size();
  }
  figures.elapsed_s = seconds_between(start, end);
  return figures;
}

Result<Job> throughput_job(const Engine& engine, DatasetOptions dataset) {
  const std::int32_t vocabulary = engine.model().spec().vocab_size;
  constexpr model::TokenId kFirstId = 100;  // special tokens are below
  const load::PromptSource source = load::PromptSource::of_ids(
      std::min(kFirstId, vocabulary - 1), std::min(dataset.random_vocab_size, vocabulary));
  load::CountTokens count;
  if (engine.tokenizer() != nullptr) count = counter_of(*engine.tokenizer());
  Result<std::vector<load::LoadRequest>> requests = make_requests(dataset, source, count);
  if (!requests) return requests.error();
  Job job;
  for (load::LoadRequest& request : *requests) {
    if (auto* text = std::get_if<std::string>(&request.prompt)) {
      Result<std::vector<model::TokenId>> ids = engine.encode(*text);
      if (!ids) return ids.error();
      request.prompt = std::move(*ids);
    }
    job.requests.push_back(greedy_request(std::move(std::get<std::vector<model::TokenId>>(request.prompt)),
                                          request.output_tokens));
  }
  return job;
}

int run_throughput(const OfflineOptions& options) {
  Result<std::unique_ptr<Engine>> engine = start_engine(options.engine);
  if (!engine) return complain(engine.error());
  Result<Job> job = throughput_job(**engine, options.dataset);
  if (!job) return complain(job.error());
  interrupt::defer(true);
  run_job(**engine, *job);
  (*engine)->shutdown();
  if (interrupt::signal() != 0) return 128 + interrupt::signal();
  const JobFigures figures = figures_of(*job);
  if (figures.completed == 0) return complain("every request failed: " + figures.first_error, kFailed);

  const double total = static_cast<double>(figures.prompt_tokens + figures.output_tokens);
  const double output = static_cast<double>(figures.output_tokens);
  char text[256];
  std::snprintf(text, sizeof text, "Throughput: %.2f requests/s, %.2f total tokens/s, %.2f output tokens/s\n",
                static_cast<double>(figures.completed) / figures.elapsed_s, total / figures.elapsed_s,
                output / figures.elapsed_s);
  Output out;
  out.write(text);
  std::snprintf(text, sizeof text, "%zu requests, %llu prompt and %llu output tokens in %.2f s\n",
                figures.completed, static_cast<unsigned long long>(figures.prompt_tokens),
                static_cast<unsigned long long>(figures.output_tokens), figures.elapsed_s);
  out.write(text);
  if (figures.failed != 0) {
    out.write(std::to_string(figures.failed) +
              " requests failed, the first: " + one_line(figures.first_error) + "\n");
  }
  const Result<void> written = write_json(
      options.output, {{"elapsed_time", figures.elapsed_s},
                       {"num_requests", figures.completed},
                       {"failed", figures.failed},
                       {"total_num_tokens", figures.prompt_tokens + figures.output_tokens},
                       {"total_output_tokens", figures.output_tokens},
                       {"requests_per_second", static_cast<double>(figures.completed) / figures.elapsed_s},
                       {"tokens_per_second", total / figures.elapsed_s},
                       {"output_tokens_per_second", output / figures.elapsed_s}});
  if (!written) return complain(written.error().message, kFailed);
  const int code = out.finish();
  return code != 0 ? code : figures.failed != 0 ? kFailed : kDone;
}

int run_latency(const OfflineOptions& options) {
  Result<std::unique_ptr<Engine>> engine = start_engine(options.engine);
  if (!engine) return complain(engine.error());
  const std::int32_t vocabulary = (*engine)->model().spec().vocab_size;
  const load::PromptSource source = load::PromptSource::of_ids(std::min(100, vocabulary - 1), vocabulary);
  runtime::Random random(options.dataset.seed);
  std::vector<double> latencies_s;
  interrupt::defer(true);
  for (std::uint32_t i = 0; i < options.warm_ups + options.iterations; ++i) {
    Job job;
    for (std::uint32_t k = 0; k < options.batch_size; ++k) {
      // New prompts each time: with the same ones the prefix cache would answer.
      job.requests.push_back(greedy_request(
          std::get<std::vector<model::TokenId>>(source.draw(options.input_len, random)), options.output_len));
    }
    run_job(**engine, job);
    if (interrupt::signal() != 0) return 128 + interrupt::signal();
    const JobFigures figures = figures_of(job);
    if (figures.failed != 0) return complain(figures.first_error, kFailed);
    if (i >= options.warm_ups) latencies_s.push_back(figures.elapsed_s);
  }
  (*engine)->shutdown();

  const load::Distribution values = load::Distribution::of(latencies_s);
  Output out;
  char text[128];
  std::snprintf(text, sizeof text, "Avg latency: %.6f seconds\n", values.mean);
  out.write(text);
  json::object percentiles;
  for (const int percent : {10, 25, 50, 75, 90, 99}) {
    std::snprintf(text, sizeof text, "%d%% percentile latency: %.6f seconds\n", percent, values.at(percent));
    out.write(text);
    percentiles[std::to_string(percent)] = values.at(percent);
  }
  const Result<void> written = write_json(options.output, {{"avg_latency", values.mean},
                                                           {"latencies", json::value_from(latencies_s)},
                                                           {"percentiles", percentiles}});
  if (!written) return complain(written.error().message, kFailed);
  return out.finish();
}

void add_output(CLI::App& command, OfflineOptions& options) {
  add_text(command, "--output-json", "FILE", "write the results as JSON", options.output);
}

}  // namespace

Run make_bench_throughput(CLI::App& command) {
  const auto options = std::make_shared<OfflineOptions>();
  add_model(command, options->engine.model);
  add_output(command, *options);
  add_dataset_options(command, options->dataset);
  add_engine_options(command, options->engine);
  add_sparse_options(command, options->engine);
  return [options] { return run_throughput(*options); };
}

Run make_bench_latency(CLI::App& command) {
  const auto options = std::make_shared<OfflineOptions>();
  add_model(command, options->engine.model);
  add_output(command, *options);
  add_number(command, "--input-len", "tokens of each prompt [32]", options->input_len, 1, 10'000'000);
  add_number(command, "--output-len", "tokens of each answer [128]", options->output_len, 1, 1'000'000);
  add_number(command, "--batch-size", "requests that start together [8]", options->batch_size, 1, 65536);
  add_number(command, "--num-iters-warmup", "batches before those that count [10]", options->warm_ups, 0,
             1'000'000);
  add_number(command, "--num-iters", "batches that count [30]", options->iterations, 1, 1'000'000);
  add_number(command, "--seed", "of the prompts' tokens [0]", options->dataset.seed, 0, 1LL << 53);
  add_engine_options(command, options->engine);
  add_sparse_options(command, options->engine);
  return [options] { return run_latency(*options); };
}

}  // namespace spillway::cli
