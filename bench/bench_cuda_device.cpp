// SPDX-License-Identifier: Apache-2.0
// Steps of a CUDA device on a model of a named shape with random weights, each beside the time that its bytes or its
// products take at the card's own measured rates. One JSON line a figure.
//
//   bench_cuda_device [--shape llama-7b|mistral-7b|llama-3-8b|smollm2|opt-1.3b] [--only decode|prefill] [--seqs 1,8] [--no-graphs]
//                     [--weights bf16|q8_0|q4_0|q4_1|q5_0|q5_1] [--tensor-parallel-size N]
//   bench_cuda_device --upload MODEL        how fast a model's weights reach the GPU, beside what the link takes

#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bench/cuda/card.hpp"
#include "bench/shapes.hpp"
#include "bench/cuda/step_runner.hpp"
#include "gpu/cuda/open_device.hpp"
#include "model/loader.hpp"

namespace spillway::bench {
namespace {

using Clock = std::chrono::steady_clock;
using namespace gpu;

constexpr int kRepeats = 40;

/// From the first tensor that has arrived to the last.
int upload(const std::string& path) {
  const LinkRate link = link_rate();
  Result<model::Model> model = model::Model::load(path);
  if (!model) return std::fprintf(stderr, "%s\n", model.error().message.c_str()), 1;
  DeviceOptions options;
  options.kv_dtype = KvDType::kBF16;
  options.kv_cache_memory_bytes = std::size_t{1} << 30;
  options.max_model_len = 1024;
  for (const char* pages : {"cold", "warm"}) {
    std::size_t bytes = 0;
    Clock::time_point first{}, last{};
    Result<std::unique_ptr<Device>> device = cuda::open_cuda_device(
        model->spec(), model->weights(), options, {}, [&](const model::TensorView& tensor) {
          last = Clock::now();
          if (first == Clock::time_point{}) first = last;
          else bytes += tensor.data.size();
        });
    if (!device) return std::fprintf(stderr, "%s\n", device.error().message.c_str()), 1;
    const double seconds = std::chrono::duration<double>(last - first).count(), rate = static_cast<double>(bytes) / seconds;
    std::printf("{\"figure\":\"upload\",\"file\":\"%s\",\"gb\":%.2f,\"seconds\":%.3f,\"gb_s\":%.1f,\"link_gb_s\":%.1f,"
                "\"of_link\":%.3f}\n",
                pages, static_cast<double>(bytes) * 1e-9, seconds, rate * 1e-9, link.to_device * 1e-9, rate / link.to_device);
  }
  return 0;
}

std::vector<std::uint32_t> parse_list(const char* text) {
  std::vector<std::uint32_t> values;
  for (char* end = nullptr; *text != 0; text = *end == ',' ? end + 1 : end)
    values.push_back(static_cast<std::uint32_t>(std::strtoul(text, &end, 10)));
  return values;
}

int run(int argc, char** argv) {
  std::string shape = "llama-7b", only;
  std::vector<std::uint32_t> batches{1, 8, 32, 64, 128, 256}, contexts{128, 1024}, prompts{512, 2048, 8192};
  double matrix_tflops = 790;
  cuda::CudaOptions cuda;
  cuda.dummy_weights = true;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    const auto value = [&] { return i + 1 < argc ? argv[++i] : ""; };
    if (name == "--shape") shape = value();
    else if (name == "--only") only = value();
    else if (name == "--seqs") batches = parse_list(value());
    else if (name == "--contexts") contexts = parse_list(value());
    else if (name == "--prompts") prompts = parse_list(value());
    else if (name == "--matrix-tflops") matrix_tflops = std::atof(value());
    else if (name == "--tensor-parallel-size") cuda.tensor_parallel_size = parse_list(value()).front();
    else if (name == "--upload") return upload(value());
    else if (name == "--weights") cuda.dummy_dtype = weights_of(value());
    else if (name == "--no-graphs") cuda.graphs = false;
    else return std::fprintf(stderr, "unknown option %s\n", argv[i]), 2;
  }
  const model::ModelSpec spec = shape_of(shape);
  int gpus = 0;
  if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus == 0)
    return std::fprintf(stderr, "bench_cuda_device: no GPU here, nothing measured\n"), 0;
  const double rate = copy_rate();
  cudaDeviceProp card{};
  check(cudaGetDeviceProperties(&card, 0));
  std::printf("{\"figure\":\"card\",\"name\":\"%s\",\"sm\":%d,\"copy_gb_s\":%.0f}\n", card.name, card.multiProcessorCount,
              rate * 1e-9);
  DeviceOptions options;
  options.kv_dtype = cuda.dummy_dtype == model::DType::kBF16 ? KvDType::kBF16 : KvDType::kF16;
  options.block_size = kBlock;
  options.max_num_seqs = std::max(256u, *std::max_element(batches.begin(), batches.end()));
  options.max_num_batched_tokens = 8192;
  options.max_model_len = 16384;
  const Clock::time_point begin = Clock::now();
  Result<std::unique_ptr<Device>> opened = cuda::open_cuda_device(spec, {}, options, cuda);
  if (!opened) return std::fprintf(stderr, "%s\n", opened.error().message.c_str()), 1;
  Device& device = **opened;
  std::printf("{\"figure\":\"start\",\"shape\":\"%s\",\"seconds\":%.2f,\"blocks\":%u}\n", shape.c_str(),
              std::chrono::duration<double>(Clock::now() - begin).count(), device.info().num_blocks);
  StepRunner runner(device, static_cast<std::uint32_t>(spec.vocab_size));

  const double element_bytes = static_cast<double>(model::block_bytes(cuda.dummy_dtype)) /
                               static_cast<double>(model::block_elements(cuda.dummy_dtype));
  const double weight_bytes = element_bytes * (layer_elements(spec) + vocabulary_elements(spec));
  const double kv_token_bytes = static_cast<double>(device.info().kv_block_bytes) / kBlock;
  const std::uint32_t capacity = device.info().num_blocks / (kFilled / kBlock);
  if (only.empty() || only == "prefill") {
    for (const std::uint32_t tokens : prompts) {
      StepPlan plan;
      runner.add(plan, 0, 0, tokens, true, false);
      const StepRunner::Times times = runner.run(plan, 8);
      const double attention = 2.0 * spec.num_layers * static_cast<double>(spec.q_size()) * tokens * tokens;  // causal
      const double tflop = (2 * layer_elements(spec) * tokens + attention + 2 * vocabulary_elements(spec)) * 1e-12;
      const double achieved = tflop / (times.device_ms * 1e-3);
      std::printf("{\"figure\":\"prefill\",\"tokens\":%u,\"device_ms\":%.2f,\"tflop_s\":%.0f,\"of_matrix_rate\":%.3f}\n", tokens,
                  times.device_ms, achieved, achieved / matrix_tflops);
      std::fflush(stdout);
    }
  }
  if (!only.empty() && only != "decode") return 0;

  // Contexts with real keys and values: four sequences a step.
  const std::uint32_t most = *std::max_element(batches.begin(), batches.end());
  const std::uint32_t longest = *std::max_element(contexts.begin(), contexts.end());
  const std::uint32_t filled = std::min(capacity, longest > 128 ? std::min(most, 160u) : most / 8 + 1);
  for (std::uint32_t first = 0; first < filled; first += 4) {
    StepPlan plan;
    for (std::uint32_t i = first; i < std::min(filled, first + 4); ++i) runner.add(plan, i, 0, kFilled, true, false);
    (void)runner.run(plan, 1);
  }
  for (const std::uint32_t context : contexts) {
    for (const std::uint32_t batch : batches) {
      if (std::uint64_t{batch} * context > std::uint64_t{filled} * kFilled) continue;
      StepPlan plan;
      for (std::uint32_t i = 0; i < batch; ++i) {
        runner.add(plan, i, context - 1, 1, true, true);
        if (context >= kFilled) continue;
        SequenceStep& s = plan.sequences.back();  // the filled blocks, cut into short sequences
        for (std::uint32_t b = 0; b < s.block_count; ++b)
          plan.block_table[s.block_offset + b] =
              BlockId{static_cast<std::uint32_t>((std::uint64_t{i} * s.block_count + b) * 7919 % device.info().num_blocks)};
      }
      const StepRunner::Times times = runner.run(plan, kRepeats);
      const double floor_ms = (weight_bytes + kv_token_bytes * batch * context) / (rate * cuda.tensor_parallel_size) * 1e3;
      std::printf("{\"figure\":\"decode\",\"batch\":%u,\"context\":%u,\"device_ms\":%.3f,\"wall_ms\":%.3f,\"floor_ms\":%.3f,"
                  "\"of_floor\":%.3f,\"idle\":%.4f}\n",
                  batch, context, times.device_ms, times.wall_ms, floor_ms, floor_ms / times.wall_ms,
                  1 - times.device_ms / times.wall_ms);
      std::fflush(stdout);
    }
  }
  return 0;
}

}  // namespace
}  // namespace spillway::bench

int main(int argc, char** argv) { return spillway::bench::run(argc, argv); }
