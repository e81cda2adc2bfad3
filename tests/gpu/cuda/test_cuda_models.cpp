// SPDX-License-Identifier: Apache-2.0

// The whole CUDA device on the small random models, against transformers' tokens and logits and the host device.

#include <cstdlib>
#include <filesystem>
#include <string>

#include "gpu/cuda/cuda_device.hpp"
#include "tests/gpu/cuda/gpu.hpp"
#include "tests/gpu/host_runner.hpp"
#include "tests/gpu/reference_file.hpp"

namespace spillway::gpu::cuda {
namespace {

using host::Answer;
using host::HostRunner;
using host::load_or_fail;
using host::ReferenceCase;
using host::Request;
using host::small_device;

const std::string kModels = std::string(SPW_SOURCE_ROOT) + "/tests/data/models/";

Result<std::unique_ptr<Device>> make_device(const model::Model& model, const DeviceOptions& options,
                                            CudaOptions cuda) {
  return create_cuda_device({&model.spec(), &model.weights(), &options, &cuda, nullptr});
}

std::unique_ptr<HostRunner> runner(const model::Model& model, const DeviceOptions& options, bool graphs = true) {
  return std::make_unique<HostRunner>(options, [&](HostRunner::LogitsHook hook) {
    CudaOptions cuda;
    cuda.graphs = graphs;
    cuda.on_logits = std::move(hook);
    return make_device(model, options, std::move(cuda));
  });
}

double logits_error(const std::vector<float>& a, const std::vector<float>& b) {
  return distance(a, std::vector<double>(b.begin(), b.end()));
}

}  // namespace

TEST_CASE("cuda device: fp32 greedy tokens and logits equal transformers' for every small model") {
  SPW_NEEDS_GPU();
  const std::string name = GENERATE("llama-gqa", "llama-odd", "llama3-rope", "mistral-window", "opt", "opt-post-norm");
  const model::Model model = load_or_fail(kModels + name);
  const auto device = runner(model, small_device(KvDType::kF32));
  for (const ReferenceCase& reference : host::read_reference(kModels + name + "/reference.txt")) {
    INFO(name << ", prompt of " << reference.prompt.size() << ", smallest margin " << reference.margin);
    Request request;
    request.prompt = reference.prompt;
    request.max_tokens = static_cast<std::uint32_t>(reference.greedy.size());
    const Answer answer = device->run_one(request);
    CHECK(answer.tokens == reference.greedy);
    for (const auto& [index, logits] : reference.logits) {
      INFO("logits before token " << index);
      CHECK(logits_error(answer.logits[index], logits) < 1e-4);
    }
  }
}

TEST_CASE("cuda device: 16-bit logits are close to transformers' fp32 on the same tokens") {
  SPW_NEEDS_GPU();
  const std::string name = GENERATE("llama-gqa", "llama-odd", "llama3-rope", "mistral-window", "opt", "opt-post-norm");
  const KvDType dtype = GENERATE(KvDType::kBF16, KvDType::kF16);
  const model::Model model = load_or_fail(kModels + name);
  const auto device = runner(model, small_device(dtype));
  for (const ReferenceCase& reference : host::read_reference(kModels + name + "/reference.txt")) {
    Request request;
    request.prompt = reference.prompt;
    request.forced = reference.greedy;
    request.max_tokens = static_cast<std::uint32_t>(reference.greedy.size());
    const Answer answer = device->run_one(request);
    for (const auto& [index, logits] : reference.logits) {
      INFO(name << ", type " << static_cast<int>(dtype) << ", prompt of " << reference.prompt.size() << ", logits before token "
                << index);
      // These models' weights are drawn so large that they magnify a rounding about ten times; fp16 rounds eight
      // times finer than bf16, which the pair of limits holds.
      CHECK(logits_error(answer.logits[index], logits) < (dtype == KvDType::kBF16 ? 0.1 : 0.1 / 7));
    }
  }
}

TEST_CASE("cuda device: models of real size made by transformers give its fp32 logits within 1e-2 in bf16") {
  SPW_NEEDS_GPU();
  const char* folder = std::getenv("SPW_ORACLE_MODELS");
  if (folder == nullptr) {
    WARN("skipped: SPW_ORACLE_MODELS names no folder of models by tests/oracle/make_sized_models.py");
    return;
  }
  int models = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    ++models;
    const model::Model model = load_or_fail(entry.path().string());
    for (const KvDType dtype : {KvDType::kF32, KvDType::kF16, KvDType::kBF16}) {
      const auto device = runner(model, small_device(dtype));
      for (const ReferenceCase& reference : host::read_reference(entry.path() / "reference.txt")) {
        Request request;
        request.prompt = reference.prompt;
        request.forced = reference.greedy;
        request.max_tokens = static_cast<std::uint32_t>(reference.greedy.size());
        const Answer answer = device->run_one(request);
        double worst = 0;
        for (const auto& [index, logits] : reference.logits)
          worst = std::max(worst, logits_error(answer.logits[index], logits));
        WARN(entry.path().filename().string() << ", type " << static_cast<int>(dtype) << ", prompt of "
                                              << reference.prompt.size() << ": worst relative error " << worst);
        CHECK(worst < (dtype == KvDType::kF32 ? 1e-4 : dtype == KvDType::kF16 ? 2e-3 : 1e-2));
        if (dtype == KvDType::kF32) CHECK(answer.tokens == reference.greedy);
      }
    }
  }
  CHECK(models > 0);
}

TEST_CASE("cuda device: SmolLM2's greedy tokens equal transformers' in fp32, and in 16 bits where the margin is clear") {
  SPW_NEEDS_GPU();
  const char* path = std::getenv("SPW_SMOLLM2");
  const std::string file =
      path != nullptr ? path : std::string(SPW_SOURCE_ROOT) + "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(file)) {
    WARN("skipped: no " << file << ": fetch the model to run this test");
    return;
  }
  const model::Model model = load_or_fail(file);
  const std::vector<ReferenceCase> references = host::read_reference(kModels + "smollm2-reference.txt");
  const auto answer_all = [&](KvDType dtype, bool forced) {
    DeviceOptions options = small_device(dtype);
    options.kv_cache_memory_bytes = std::size_t{256} << 20;
    options.max_model_len = 1024;
    std::vector<Request> requests;
    for (const ReferenceCase& reference : references) {
      Request request;
      request.prompt = reference.prompt;
      request.max_tokens = static_cast<std::uint32_t>(reference.greedy.size());
      if (forced) request.forced = reference.greedy;
      requests.push_back(std::move(request));
    }
    return runner(model, options)->run(requests);
  };
  const std::vector<Answer> exact = answer_all(KvDType::kF32, false);
  for (std::size_t c = 0; c < references.size(); ++c) {
    INFO("case " << c << ", prompt of " << references[c].prompt.size());
    CHECK(exact[c].tokens == references[c].greedy);
    for (const auto& [index, top] : references[c].top) {
      for (const auto& [token, logit] : top)
        CHECK(exact[c].logits[index][static_cast<std::size_t>(token)] == Approx(logit).epsilon(1e-3));
    }
  }
  for (const KvDType dtype : {KvDType::kF16, KvDType::kBF16}) {
    constexpr float kClearMargin = 0.5f;  // of the two best logits
    const std::vector<Answer> rounded = answer_all(dtype, true);
    std::size_t equal = 0, all = 0;
    double worst = 0, sum = 0;
    for (std::size_t c = 0; c < references.size(); ++c) {
      for (std::size_t i = 0; i < references[c].greedy.size(); ++i) {
        INFO("type " << static_cast<int>(dtype) << ", case " << c << ", token " << i << ", margin "
                     << references[c].margins[i]);
        const double error = logits_error(rounded[c].logits[i], exact[c].logits[i]);
        worst = std::max(worst, error);
        sum += error;
        const bool same = rounded[c].tokens[i] == references[c].greedy[i];
        ++all;
        equal += same ? 1 : 0;
        if (references[c].margins[i] >= kClearMargin) CHECK(same);
      }
    }
    WARN("SmolLM2, type " << static_cast<int>(dtype) << ": " << equal << " of " << all
                          << " tokens equal, relative error of logits " << sum / static_cast<double>(all)
                          << " in the mean, " << worst << " at worst");
    // The weights are 4-bit ones, which bf16 rounds once more.
    CHECK(sum / static_cast<double>(all) < (dtype == KvDType::kBF16 ? 2e-2 : 3e-3));
    CHECK(worst < (dtype == KvDType::kBF16 ? 0.15 : 0.02));
  }
}

TEST_CASE("cuda device: quantized weights give the logits of the same weights dequantized, alone and in a crowd") {
  SPW_NEEDS_GPU();
  const char* path = std::getenv("SPW_SMOLLM2");
  const std::string file =
      path != nullptr ? path : std::string(SPW_SOURCE_ROOT) + "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(file)) {
    WARN("skipped: no " << file << ": fetch the model to run this test");
    return;
  }
  const model::Model model = load_or_fail(file);
  const std::vector<ReferenceCase> references = host::read_reference(kModels + "smollm2-reference.txt");
  DeviceOptions options = small_device(KvDType::kF16);
  options.kv_cache_memory_bytes = std::size_t{256} << 20;
  options.max_model_len = 1024;
  const auto answers = [&](bool dequantize, bool alone) {
    HostRunner device(options, [&](HostRunner::LogitsHook hook) {
      CudaOptions cuda;
      cuda.dequantize = dequantize;
      cuda.on_logits = std::move(hook);
      return make_device(model, options, std::move(cuda));
    });
    std::vector<Request> requests;
    for (const ReferenceCase& reference : references) {
      Request request;
      request.prompt = reference.prompt;
      request.max_tokens = static_cast<std::uint32_t>(reference.greedy.size());
      request.forced = reference.greedy;
      requests.push_back(std::move(request));
    }
    if (!alone) return device.run(requests);
    std::vector<Answer> all;
    for (const Request& request : requests) all.push_back(device.run_one(request));
    return all;
  };
  const std::vector<Answer> expected = answers(true, false);
  for (const bool alone : {false, true}) {
    const std::vector<Answer> got = answers(false, alone);
    double worst = 0, sum = 0, all = 0;
    for (std::size_t c = 0; c < references.size(); ++c) {
      for (std::size_t i = 0; i < references[c].greedy.size(); ++i) {
        const double error = logits_error(got[c].logits[i], expected[c].logits[i]);
        worst = std::max(worst, error);
        sum += error;
        ++all;
      }
    }
    WARN("SmolLM2 quantized against dequantized, alone " << alone << ": relative error of logits " << sum / all
                                                         << " in the mean, " << worst << " at worst");
    CHECK(sum / all < 3e-3);
    CHECK(worst < 0.03);
  }
}

TEST_CASE("cuda device: sequences that come and go, in chunks, with and without graphs, give the tokens they give alone") {
  SPW_NEEDS_GPU();
  const model::Model model = load_or_fail(kModels + "llama-gqa");
  const ReferenceCase reference = host::read_reference(kModels + "llama-gqa/reference.txt").back();
  const bool graphs = GENERATE(true, false);
  const auto device = runner(model, small_device(KvDType::kF32), graphs);
  std::vector<Request> batch;
  for (std::uint32_t i = 0; i < 32; ++i) {
    Request request;
    request.prompt.assign(reference.prompt.begin() + i, reference.prompt.begin() + 2 * i + 1);
    request.max_tokens = 1 + i % 7;
    request.start_after = i % 5;
    request.chunk = 1 + i % 11;
    if (i % 3 == 1) {
      request.params.temperature = 0.9f;
      request.params.seed = i;
      request.params.top_k = i % 2 == 0 ? 20 : 0;
      request.params.top_p = i % 4 == 1 ? 0.9f : 1.0f;
    }
    if (i % 5 == 2) request.params.repetition_penalty = 1.3f;
    batch.push_back(request);
  }
  const std::vector<Answer> answers = device->run(batch);
  for (std::size_t i = 0; i < batch.size(); ++i) {
    INFO("request " << i);
    batch[i].start_after = 0;
    CHECK(device->run_one(batch[i]).tokens == answers[i].tokens);
  }
}

TEST_CASE("cuda device: ranks that share a model give the tokens of one device") {
  SPW_NEEDS_GPU();
  int gpus = 0;
  REQUIRE(cudaGetDeviceCount(&gpus) == cudaSuccess);
  if (gpus < 2) {
    WARN("skipped: one GPU only");
    return;
  }
  const std::string name = GENERATE("llama-gqa", "llama3-rope", "mistral-window", "opt", "opt-post-norm");
  const std::uint32_t ranks = GENERATE(2u, 4u);
  if (static_cast<std::uint32_t>(gpus) < ranks) return;
  const model::Model model = load_or_fail(kModels + name);
  if (!check_shards(model.spec(), static_cast<int>(ranks)).ok()) return;
  const bool graphs = GENERATE(true, false);
  const auto device = std::make_unique<HostRunner>(small_device(KvDType::kF32), [&](HostRunner::LogitsHook hook) {
    CudaOptions cuda;
    cuda.tensor_parallel_size = ranks;
    cuda.graphs = graphs;
    cuda.on_logits = std::move(hook);
    return make_device(model, small_device(KvDType::kF32), std::move(cuda));
  });
  for (const ReferenceCase& reference : host::read_reference(kModels + name + "/reference.txt")) {
    INFO(name << ", ranks " << ranks << ", graphs " << graphs << ", prompt of " << reference.prompt.size());
    Request request;
    request.prompt = reference.prompt;
    request.max_tokens = static_cast<std::uint32_t>(reference.greedy.size());
    const Answer answer = device->run_one(request);
    CHECK(answer.tokens == reference.greedy);
    for (const auto& [index, logits] : reference.logits) CHECK(logits_error(answer.logits[index], logits) < 1e-4);
  }
}

TEST_CASE("cuda device: what ranks cannot share is refused by name") {
  const model::Model model = load_or_fail(kModels + "llama-gqa");
  const Result<void> refused = check_shards(model.spec(), 3);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == Errc::kInvalidArgument);
  CHECK(refused.error().message == "--tensor-parallel-size 3 must divide the model's 4 heads");
  CHECK(check_shards(model.spec(), 4).ok());  // two ranks to a head of keys and values
  const Shard third{2, 4};
  CHECK(third.kv_heads(model.spec()) == 1);
  CHECK(third.first_kv_head(model.spec()) == 1);
  CHECK(shard_of(model.spec(), third).num_heads == 1);
  CHECK(shard_of(model.spec(), third).intermediate_size == 24);
}

TEST_CASE("cuda device: draws, penalties and log probabilities equal the host device's") {
  SPW_NEEDS_GPU();
  const model::Model model = load_or_fail(kModels + "opt");
  const ReferenceCase reference = host::read_reference(kModels + "opt/reference.txt").back();
  host::HostOptions host;
  host.threads = 2;
  HostRunner on_host(model.spec(), model.weights(), small_device(KvDType::kF32), host);
  const auto on_gpu = runner(model, small_device(KvDType::kF32));
  std::vector<Request> batch;
  for (std::uint32_t i = 0; i < 24; ++i) {
    Request request;
    request.prompt.assign(reference.prompt.begin(), reference.prompt.begin() + 5 + i);
    request.max_tokens = 12;
    request.params.temperature = i % 6 == 0 ? 0.0f : 0.5f + 0.1f * static_cast<float>(i % 8);
    request.params.seed = 100 + i;
    if (i % 4 == 1) request.params.top_k = 7;
    if (i % 4 == 2) request.params.top_p = 0.8f;
    if (i % 4 == 3) request.params.min_p = 0.05f;
    if (i % 3 == 1) request.params.presence_penalty = 0.7f;
    if (i % 3 == 2) request.params.repetition_penalty = 1.2f, request.params.frequency_penalty = 0.3f;
    request.params.logprobs = i % 2 == 0 ? 5 : -1;
    batch.push_back(request);
  }
  const std::vector<Answer> expected = on_host.run(batch), answers = on_gpu->run(batch);
  for (std::size_t i = 0; i < batch.size(); ++i) {
    INFO("request " << i);
    REQUIRE(answers[i].tokens == expected[i].tokens);
    for (std::size_t t = 0; t < expected[i].sampled.size(); ++t) {
      const SampledToken &a = answers[i].sampled[t], &b = expected[i].sampled[t];
      CHECK(std::abs(a.logprob - b.logprob) < 1e-3f);
      REQUIRE(a.top.size() == b.top.size());
      for (std::size_t k = 0; k < b.top.size(); ++k) CHECK(std::abs(a.top[k].logprob - b.top[k].logprob) < 1e-3f);
    }
  }
}

TEST_CASE("cuda device: blocks copied to the host and back, and within the device, hold the same sequence") {
  SPW_NEEDS_GPU();
  const model::Model model = load_or_fail(kModels + "llama-gqa");
  const ReferenceCase reference = host::read_reference(kModels + "llama-gqa/reference.txt").back();
  DeviceOptions options = small_device(KvDType::kF32);
  options.kv_cache_memory_bytes = 100 * 16384;
  options.host_pool_bytes = options.kv_cache_memory_bytes;
  const auto device = runner(model, options);
  StepPlan prefill;
  prefill.row_inits.push_back({RowId{0}, Request::greedy_params(), 0, {}, {}});
  prefill.tokens.assign(reference.prompt.begin(), reference.prompt.begin() + 30);
  prefill.block_table = {BlockId{5}, BlockId{9}};
  prefill.sequences.push_back({RowId{0}, 0, 30, 0, 0, 2, 30, false, true, 0});
  const StepResult first = device->step(prefill);
  REQUIRE_FALSE(first.failed);
  const auto next = [&](BlockId a, BlockId b, Ticket after) {
    StepPlan decode;
    decode.tokens = {first.tokens[0].token};
    decode.block_table = {a, b};
    decode.sequences.push_back({RowId{0}, 30, 1, 0, 0, 2, 0, false, true, 1});
    decode.wait_for_copy = after;
    const StepResult result = device->step(decode);
    REQUIRE_FALSE(result.failed);
    return result.tokens[0].token;
  };
  const TokenId expected = next(BlockId{5}, BlockId{9}, 0);
  CopyPlan out{CopyPlan::Direction::kDeviceToHost, {{BlockId{5}, BlockId{1}}, {BlockId{9}, BlockId{0}}}, 1};
  REQUIRE(device->device().copy(out).ok());
  const Result<Ticket> back = device->device().copy(
      {CopyPlan::Direction::kHostToDevice, {{BlockId{1}, BlockId{20}}, {BlockId{0}, BlockId{21}}}, 0});
  REQUIRE(back.ok());
  CHECK(next(BlockId{20}, BlockId{21}, *back) == expected);
  const Result<Ticket> within = device->device().copy(
      {CopyPlan::Direction::kWithinDevice, {{BlockId{20}, BlockId{30}}, {BlockId{21}, BlockId{31}}}, 0});
  REQUIRE(within.ok());
  device->wait_for_copy(*within);
  CHECK(next(BlockId{30}, BlockId{31}, 0) == expected);
}

TEST_CASE("cuda device: what does not fit is refused with the numbers") {
  SPW_NEEDS_GPU();
  const model::Model model = load_or_fail(kModels + "llama-gqa");
  DeviceOptions options = small_device(KvDType::kF32);
  options.kv_cache_memory_bytes = std::size_t{1} << 50;
  const auto device = make_device(model, options, {});
  REQUIRE_FALSE(device.ok());
  CHECK(device.error().code == Errc::kOutOfMemory);
  CHECK(device.error().message.find("--kv-cache-memory-bytes") != std::string::npos);
  options = small_device(KvDType::kQ8_0);
  CHECK(make_device(model, options, {}).error().code == Errc::kUnsupported);
}

}  // namespace spillway::gpu::cuda
