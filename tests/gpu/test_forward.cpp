// SPDX-License-Identifier: Apache-2.0

// The whole host engine against Hugging Face transformers on the small random models.

#include <cmath>
#include <string>

#include "tests/gpu/host_runner.hpp"
#include "tests/gpu/reference_file.hpp"

namespace spillway::gpu::host {
namespace {

const std::string kModels = std::string(SPW_SOURCE_ROOT) + "/tests/data/models/";

/// |a - b| / |b| over whole rows: the relative error of a row of logits.
double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return std::sqrt(difference / norm);
}

void matches_transformers(const std::string& name, CpuTarget target, std::uint32_t threads) {
  INFO(name << ", target " << to_string(target) << ", " << threads << " threads");
  const model::Model model = load_or_fail(kModels + name);
  HostOptions host;
  host.threads = threads;
  host.cpu_target = target;
  HostRunner runner(model.spec(), model.weights(), small_device(), host);
  for (const ReferenceCase& reference : read_reference(kModels + name + "/reference.txt")) {
    INFO("prompt of " << reference.prompt.size() << ", smallest margin " << reference.margin);
    Request request;
    request.prompt = reference.prompt;
    request.max_tokens = static_cast<std::uint32_t>(reference.greedy.size());
    const Answer answer = runner.run_one(request);
    CHECK(answer.tokens == reference.greedy);
    for (const auto& [index, logits] : reference.logits) {
      INFO("logits before token " << index);
      CHECK(relative_error(answer.logits[index], logits) < 1e-5);
    }
  }
}

}  // namespace

TEST_CASE("forward: greedy tokens and logits equal transformers' for every small model") {
  const std::string name =
      GENERATE("llama-gqa", "llama-odd", "llama3-rope", "mistral-window", "opt", "opt-post-norm");
  matches_transformers(name, CpuTarget::kAmx, 2);
}

TEST_CASE("forward: every instruction set this machine has agrees with transformers") {
  for (const CpuTarget target : available_cpu_targets()) {
    matches_transformers("llama-odd", target, 1);
    matches_transformers("mistral-window", target, 1);
    matches_transformers("opt-post-norm", target, 1);
  }
}

/// Feeds `tokens` to a streaming sequence one by one; the logits after the last.
std::vector<float> streamed_logits(const model::ModelSpec& spec, const model::Weights& weights,
                                   const std::vector<TokenId>& tokens, const model::SparseKvParams& params) {
  std::vector<float> last;
  DeviceOptions options = small_device();
  options.sparse_kv = true;
  HostOptions host;
  host.threads = 2;
  host.on_logits = [&last](const StepPlan&, std::uint32_t, std::span<const float> row) {
    last.assign(row.begin(), row.end());
  };
  HostRunner runner(options,
                    [&](HostRunner::LogitsHook) { return HostDevice::create(spec, weights, options, host); });
  for (std::uint32_t done = 0, live = 0; done < tokens.size(); ++done) {
    StepPlan plan;
    SequenceStep s;
    s.first_position = done;
    s.token_count = 1;
    s.samples = true;
    s.prompt_count = done == 0 ? 1 : 0;
    s.sparse = 0;
    if (done == 0) plan.row_inits.push_back({s.row, Request::greedy_params(), 0, {}, {}});
    SparseStep sparse;
    sparse.params = params;
    sparse.prompt_length = 1;
    sparse.reuse = done >= params.budget;
    sparse.span = std::min(done + 1, params.budget);
    sparse.evict = live + 1 == params.budget ? 1 : 0;
    sparse.live = live = live + 1 - sparse.evict;
    plan.sparse.push_back(sparse);
    plan.tokens.push_back(tokens[done]);
    s.block_count = (sparse.span + options.block_size - 1) / options.block_size;
    for (std::uint32_t b = 0; b < s.block_count; ++b) plan.block_table.push_back(BlockId{b});
    plan.sequences.push_back(s);
    REQUIRE_FALSE(runner.step(std::move(plan)).failed);
  }
  return last;
}

TEST_CASE("forward: a stream whose positions count live tokens sees sinks and window as one short text") {
  const model::Model model = load_or_fail(kModels + "llama-gqa");
  // With one layer a key depends on its token alone, so what was evicted leaves no trace.
  model::ModelSpec spec = model.spec();
  model::Weights weights = model.weights();
  spec.num_layers = 1;
  weights.layers.resize(1);
  model::SparseKvParams params;
  params.method = model::SparseMethod::kStreaming;
  params.sinks = 3;
  params.budget = 40;
  params.rotate_to_cache = true;
  params = *model::resolve(params, 1);
  std::vector<TokenId> tokens;
  for (std::uint32_t i = 0; i < 90; ++i) tokens.push_back(static_cast<TokenId>(i * 37 % 101));
  const std::vector<float> streamed = streamed_logits(spec, weights, tokens, params);

  Request kept;
  kept.prompt.assign(tokens.begin(), tokens.begin() + params.sinks);
  kept.prompt.insert(kept.prompt.end(), tokens.end() - (params.budget - params.sinks), tokens.end());
  kept.max_tokens = 1;
  HostRunner runner(spec, weights, small_device(), {});
  CHECK(relative_error(streamed, runner.run_one(kept).logits[0]) < 1e-5);
  params.rotate_to_cache = false;
  CHECK(relative_error(streamed, streamed_logits(spec, weights, tokens, params)) > 1e-3);
}

TEST_CASE(
    "forward: a row's logits are the same bits alone, in company, in chunks and on any number of threads") {
  const std::string name = GENERATE("llama-gqa", "mistral-window", "opt");
  const KvDType dtype = GENERATE(KvDType::kF32, KvDType::kF16, KvDType::kBF16);
  INFO(name << ", KV type " << static_cast<int>(dtype));
  const model::Model model = load_or_fail(kModels + name);
  const std::vector<ReferenceCase> references = read_reference(kModels + name + "/reference.txt");
  Request request;
  request.prompt = references.back().prompt;  // 300 tokens: two partitions
  request.max_tokens = 6;
  Answer alone;
  {
    HostOptions host;
    host.threads = 1;
    HostRunner runner(model.spec(), model.weights(), small_device(dtype), host);
    alone = runner.run_one(request);
  }
  HostOptions host;
  host.threads = 3;
  HostRunner runner(model.spec(), model.weights(), small_device(dtype), host);
  SECTION("among 31 others that come and go") {
    std::vector<Request> batch;
    for (std::uint32_t i = 0; i < 32; ++i) {
      if (i == 17) {
        batch.push_back(request);
        continue;
      }
      Request other;
      other.prompt.assign(request.prompt.begin() + i, request.prompt.begin() + 2 * i + 1);
      other.max_tokens = 1 + i % 7;
      other.start_after = i % 5;
      batch.push_back(other);
    }
    const std::vector<Answer> answers = runner.run(batch);
    CHECK(answers[17].tokens == alone.tokens);
    CHECK(answers[17].logits == alone.logits);
  }
  SECTION("chunked") {
    for (const std::uint32_t chunk : {1u, 7u, 16u, 33u}) {
      INFO("chunks of " << chunk);
      request.chunk = chunk;
      const Answer chunked = runner.run_one(request);
      CHECK(chunked.tokens == alone.tokens);
      CHECK(chunked.logits == alone.logits);
    }
  }
  SECTION("restarted with its own output as prompt, as after a preemption") {
    Request resumed = request;
    resumed.prompt.insert(resumed.prompt.end(), alone.tokens.begin(), alone.tokens.begin() + 3);
    resumed.max_tokens = 3;
    const Answer answer = runner.run_one(resumed);
    CHECK(answer.logits[0] == alone.logits[3]);
    CHECK(answer.logits[2] == alone.logits[5]);
  }
}

TEST_CASE("forward: every block size gives the same bits") {
  const model::Model model = load_or_fail(kModels + "llama-gqa");
  Request request;
  request.prompt = read_reference(kModels + "llama-gqa/reference.txt").back().prompt;
  const KvDType dtype = GENERATE(KvDType::kF32, KvDType::kF16, KvDType::kBF16);
  std::vector<std::vector<float>> first;
  for (const std::uint32_t block_size : {8u, 16u, 32u, 64u}) {
    INFO("blocks of " << block_size);
    DeviceOptions options = small_device(dtype);
    options.block_size = block_size;
    HostOptions host;
    host.threads = 2;
    HostRunner runner(model.spec(), model.weights(), options, host);
    const Answer answer = runner.run_one(request);
    if (first.empty()) first = answer.logits;
    CHECK(answer.logits == first);
  }
}

TEST_CASE("forward: 16-bit and 8-bit KV caches stay close to fp32") {
  const model::Model model = load_or_fail(kModels + "mistral-window");  // head_dim 32
  Request request;
  request.prompt = read_reference(kModels + "mistral-window/reference.txt").back().prompt;
  request.max_tokens = 1;
  HostOptions host;
  host.threads = 2;
  const auto logits = [&](KvDType dtype) {
    HostRunner runner(model.spec(), model.weights(), small_device(dtype), host);
    return runner.run_one(request).logits[0];
  };
  const std::vector<float> exact = logits(KvDType::kF32);
  CHECK(relative_error(logits(KvDType::kF16), exact) < 2e-3);
  CHECK(relative_error(logits(KvDType::kBF16), exact) < 2e-2);
  CHECK(relative_error(logits(KvDType::kQ8_0), exact) < 6e-2);
}

TEST_CASE("forward: a q8_0 cache gives the same bits in any chunking") {
  const model::Model model = load_or_fail(kModels + "mistral-window");
  Request request;
  request.prompt = read_reference(kModels + "mistral-window/reference.txt").back().prompt;
  HostOptions host;
  host.threads = 2;
  HostRunner runner(model.spec(), model.weights(), small_device(KvDType::kQ8_0), host);
  const Answer whole = runner.run_one(request);
  request.chunk = 5;
  CHECK(runner.run_one(request).logits == whole.logits);
}

}  // namespace spillway::gpu::host
