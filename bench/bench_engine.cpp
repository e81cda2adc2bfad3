// SPDX-License-Identifier: Apache-2.0
// The whole engine as a driver of bench/peers/compare.py: jobs as JSON lines on stdin, times on stdout
// (bench/peers/protocol.py has the protocol). `./dev bench peers --engine spillway` runs it alone.

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "actors/engine.hpp"
#include "runtime/check.hpp"

namespace spillway::bench {
namespace {

using Clock = std::chrono::steady_clock;
using TokenIds = std::vector<model::TokenId>;

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

/// The requests of one job, taken in order, at most `concurrency` at a time, and when each token came.
struct Job {
  std::vector<TokenIds> prompts;
  std::vector<std::int32_t> max_tokens;
  std::size_t concurrency = 1;
  std::vector<Clock::time_point> began;
  std::vector<std::vector<Clock::time_point>> times;
  std::string error;  // of the first request that did not run to its end
};

Job parse_job(const std::string& line) {
  const boost::json::value document = boost::json::parse(line);
  Job job;
  for (const boost::json::value& prompt : document.at("prompts").as_array()) {
    TokenIds& ids = job.prompts.emplace_back();
    for (const boost::json::value& id : prompt.as_array()) ids.push_back(id.to_number<model::TokenId>());
  }
  for (const boost::json::value& count : document.at("max_tokens").as_array()) {
    job.max_tokens.push_back(count.to_number<std::int32_t>());
  }
  job.concurrency = document.at("concurrency").to_number<std::size_t>();
  job.began.resize(job.prompts.size());
  job.times.resize(job.prompts.size());
  return job;
}

/// Keeps `concurrency` requests open until all have ended.
Task<void> run_job(Session& session, Job* job) {
  std::map<StreamTag, std::size_t> request_of;
  std::map<StreamTag, Stream> streams;
  std::size_t next = 0;
  while (true) {
    while (next < job->prompts.size() && streams.size() < job->concurrency) {
      SamplingParams params;
      params.max_tokens = job->max_tokens[next];
      params.temperature = 0.0f;
      params.ignore_eos = true;
      job->began[next] = Clock::now();
      // A name of its own: GCC 12 destroys a temporary aggregate inside a co_await twice.
      GenerationRequest request{job->prompts[next], params};
      Result<Stream> stream = co_await session.generate(std::move(request));
      if (!stream) {
        job->error = stream.error().message;
        co_return;
      }
      const StreamTag tag = stream->tag();
      request_of[tag] = next++;
      streams.emplace(tag, std::move(*stream));
    }
    auto event = co_await session.next_event();
    if (!event) co_return;
    auto& [tag, what] = *event;
    if (const auto* delta = std::get_if<ChoiceDelta>(&what)) {
      auto& times = job->times[request_of[tag]];
      times.insert(times.end(), delta->tokens.size(), Clock::now());
    } else if (const auto* failed = std::get_if<ChoiceFailed>(&what)) {
      job->error = failed->error.message;
    } else if (std::holds_alternative<RequestDone>(what)) {
      streams.erase(tag);
    }
  }
}

/// Peak resident memory since the last reset, in 10^6 bytes.
double rss_peak_mb() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::strtod(line.c_str() + 6, nullptr) * 1024 / 1e6;
  }
  return 0;
}

void reset_rss_peak() { std::ofstream("/proc/self/clear_refs") << '5'; }

boost::json::object report(const Job& job, Clock::time_point origin) {
  boost::json::array first, last, tokens;
  std::vector<double> gaps_ms;
  Clock::time_point end = origin;
  for (std::size_t i = 0; i < job.times.size(); ++i) {
    const auto& times = job.times[i];
    first.push_back(seconds_between(job.began[i], times.front()));
    last.push_back(seconds_between(job.began[i], times.back()));
    tokens.push_back(times.size());
    end = std::max(end, times.back());
    for (std::size_t t = 1; t < times.size(); ++t) gaps_ms.push_back(1e3 * seconds_between(times[t - 1], times[t]));
  }
  std::sort(gaps_ms.begin(), gaps_ms.end());
  const auto quantile = [&](double q) -> boost::json::value {
    if (gaps_ms.empty()) return nullptr;
    const auto rank = static_cast<std::size_t>(q * static_cast<double>(gaps_ms.size()));
    return gaps_ms[std::min(gaps_ms.size() - 1, rank)];
  };
  return {{"seconds", seconds_between(origin, end)},
          {"first", first},
          {"last", last},
          {"tokens", tokens},
          {"gaps_ms", boost::json::array{quantile(0.5), quantile(0.99)}},
          {"gap_max_ms", quantile(1)},
          {"rss_peak_mb", rss_peak_mb()}};
}

std::uint32_t whole_number(std::string_view option, std::string_view text) {
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc() && end == text.data() + text.size()) return value;
  std::cerr << option << " wants a whole number, not '" << text << "'\n";
  std::exit(2);
}

EngineOptions parse_options(int argc, char** argv) {
  EngineOptions options;
  options.enable_prefix_caching = false;
  options.threads = 2;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i], value = argv[i + 1];
    if (name == "--serve") options.model = value;
    else if (name == "--threads") options.threads = whole_number(name, value);
    else if (name == "--max-num-seqs") options.max_num_seqs = whole_number(name, value);
    else if (name == "--max-num-batched-tokens") options.max_num_batched_tokens = whole_number(name, value);
    else if (name == "--max-itl-stretch") options.max_itl_stretch = std::strtod(argv[i + 1], nullptr);
    else if (name == "--async-submit") options.async_submit = whole_number(name, value);
    else if (name == "--block-size") options.block_size = whole_number(name, value);
    else if (name == "--kv-cache-memory-mib") options.kv_cache_memory_bytes = std::size_t{whole_number(name, value)} << 20;
    else if (name == "--cpu-target") options.cpu_target = value;
    else if (name == "--execution-mode" && value == "performance")
      options.execution_mode = gpu::host::ExecutionMode::kPerformance;
    else if (name == "--execution-mode" && value == "accuracy")
      options.execution_mode = gpu::host::ExecutionMode::kAccuracy;
    else if (name == "--device" && value == "cuda") options.device = DeviceKind::kCuda;
    else if (name == "--device" && value == "host") options.device = DeviceKind::kHost;
    else if (name == "--load-format" && value == "dummy") options.load_format = model::LoadFormat::kDummy;
    else if (name == "--tensor-parallel-size") options.tensor_parallel_size = whole_number(name, value);
    else if (name == "--nnodes") options.nodes.nodes = whole_number(name, value);
    else if (name == "--master-port") options.nodes.master_port = static_cast<std::uint16_t>(whole_number(name, value));
    else if (name == "--max-model-len") options.max_model_len = whole_number(name, value);
    else if (name == "--trace") options.trace = value;
    else if (name == "--kv-cache-dtype" && value == "fp32") options.kv_cache_dtype = KvCacheDType::kF32;
    else if (name == "--kv-cache-dtype" && value == "fp16") options.kv_cache_dtype = KvCacheDType::kF16;
    else if (name == "--kv-cache-dtype" && value == "bf16") options.kv_cache_dtype = KvCacheDType::kBF16;
    else if (name == "--kv-cache-dtype" && value == "q8_0") options.kv_cache_dtype = KvCacheDType::kQ8_0;
    else {
      std::cerr << "unknown option " << name << " " << value << "\n";
      std::exit(2);
    }
  }
  if (options.model.empty()) {
    std::cerr << "usage: bench_engine --serve MODEL [--threads N] [--kv-cache-dtype T] [--cpu-target T] ...\n";
    std::exit(2);
  }
  return options;
}

int serve(const EngineOptions& options) {
  Result<std::unique_ptr<Engine>> engine = Engine::create(options);
  if (!engine) {
    std::cerr << engine.error().message << "\n";
    return 1;
  }
  const boost::json::object settings{{"threads", options.threads},
                                     {"device", (*engine)->device().name},
                                     {"max_num_batched_tokens", options.max_num_batched_tokens},
                                     {"async_submit", options.async_submit}};
  const boost::json::object ready{
      {"ready", true}, {"engine", "spillway"}, {"version", "0.1.0"}, {"settings", settings}};
  std::cout << boost::json::serialize(ready) << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    Job job = parse_job(line);
    reset_rss_peak();
    const Clock::time_point origin = Clock::now();
    (*engine)->start(&run_job, &job).wait();
    if (!job.error.empty()) {
      std::cerr << "job failed: " << job.error << "\n";
      return 1;
    }
    std::cout << boost::json::serialize(report(job, origin)) << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace spillway::bench

int main(int argc, char** argv) { return spillway::bench::serve(spillway::bench::parse_options(argc, argv)); }
