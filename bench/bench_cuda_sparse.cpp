// SPDX-License-Identifier: Apache-2.0
// What KV sparsification adds to a step of a CUDA device: random weights, steps over as many live tokens with
// and without it, in turns on one device, and a device that was not opened for it. One JSON line a figure.
//
//   bench_cuda_sparse [--shape llama-7b|mistral-7b|llama-3-8b] [--seqs 64] [--context 1024] [--layers N]
//                     [--variants N, the first ones] [--beside 1]
//
// --beside 1: instead, what the chunk of a prompt adds to such a step, by its length.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bench/cuda/card.hpp"
#include "bench/cuda/step_runner.hpp"
#include "bench/shapes.hpp"
#include "gpu/cuda/open_device.hpp"

namespace spillway::bench {
namespace {

using namespace gpu;

constexpr int kRounds = 6, kStepsARound = 24, kWarm = 4;

struct Variant {
  const char* name;
  model::SparseMethod method = model::SparseMethod::kNone;
  model::SparseGranularity granularity = model::SparseGranularity::kHead;
  std::uint32_t count = 1;  // tokens an eviction
};

/// Sequences of one length over blocks of their own, and the steps that go over them.
class Load {
 public:
  Load(Device& device, std::uint32_t sequences, std::uint32_t context)
      : runner_(device, 32000, context), sequences_(sequences), context_(context) {}

  /// One step of every sequence, at `position`, and beside them the first `chunk` tokens of a prompt of
  /// `context`; device time in ms.
  double decode(const Variant& variant, std::uint32_t position, std::uint32_t chunk = 0) {
    StepPlan plan;
    for (std::uint32_t i = 0; i < sequences_; ++i) {
      add(plan, i, position, 1, true);
      if (variant.method == model::SparseMethod::kNone) continue;
      const std::uint32_t since = position - context_ + 1;  // steps, this one included
      SparseStep step = sparse(variant);
      step.span = context_;
      step.reuse = true;
      step.evict = since % variant.count == 0 ? variant.count : 0;
      step.live = context_ - 1 - (since % variant.count == 0 ? variant.count - 1 : 0);
      plan.sequences.back().sparse = static_cast<std::uint32_t>(plan.sparse.size());
      plan.sparse.push_back(step);
    }
    if (chunk > 0) add_prompt(plan, variant, sequences_, chunk, 0);
    return runner_.run(std::move(plan));
  }
  /// Prompts that fill the context, in fours; the time of the last four.
  double fill(const Variant& variant) {
    double ms = 0;
    for (std::uint32_t first = 0; first < sequences_; first += 4) {
      StepPlan plan;
      for (std::uint32_t i = first; i < std::min(sequences_, first + 4); ++i) {
        add_prompt(plan, variant, i, context_, variant.count);
      }
      ms = runner_.run(std::move(plan));
    }
    return ms;
  }

 private:
  [[nodiscard]] SparseStep sparse(const Variant& variant) const {
    SparseStep step;
    step.params.method = variant.method;
    step.params.granularity = variant.granularity;
    step.params.budget = context_;
    step.params.num_per_evict = variant.count;
    step.params.recent = context_ / 2;
    step.prompt_length = context_;
    return step;
  }
  /// The first tokens of a prompt, of which `evict` go.
  void add_prompt(StepPlan& plan, const Variant& variant, std::uint32_t index, std::uint32_t tokens,
                  std::uint32_t evict) {
    add(plan, index, 0, tokens, false);
    if (variant.method == model::SparseMethod::kNone) return;
    SparseStep step = sparse(variant);
    step.span = tokens;
    step.evict = evict;
    step.live = tokens - evict;
    plan.sequences.back().sparse = static_cast<std::uint32_t>(plan.sparse.size());
    plan.sparse.push_back(step);
  }
  /// A sparsified sequence stays in the blocks of its context, whatever its position.
  void add(StepPlan& plan, std::uint32_t index, std::uint32_t first, std::uint32_t tokens, bool from_row) {
    runner_.add(plan, index, first, tokens, true, from_row);
    SequenceStep& s = plan.sequences.back();
    s.block_count = context_ / kBlock;
    plan.block_table.resize(s.block_offset + s.block_count);
  }

  StepRunner runner_;
  std::uint32_t sequences_, context_;
};

std::unique_ptr<Device> open(const model::ModelSpec& spec, std::uint32_t sequences, std::uint32_t context,
                             bool sparse) {
  DeviceOptions options;
  options.kv_dtype = KvDType::kBF16;
  options.block_size = kBlock;
  options.max_num_seqs = sequences;
  options.max_num_batched_tokens = std::max(4 * context, 64u);
  options.max_model_len = 8192;
  options.sparse_kv = sparse;
  cuda::CudaOptions cuda;
  cuda.dummy_weights = true;
  Result<std::unique_ptr<Device>> opened = cuda::open_cuda_device(spec, {}, options, cuda);
  if (!opened) return std::fprintf(stderr, "%s\n", opened.error().message.c_str()), nullptr;
  if ((*opened)->info().num_blocks * kBlock < sequences * context)
    return std::fprintf(stderr, "the KV cache holds fewer than %u sequences of %u tokens\n", sequences,
                        context),
           nullptr;
  return std::move(*opened);
}

/// What a chunk of a prompt adds to a step of sequences that decode, exact and sparsified ones in turns.
int run_beside(const model::ModelSpec& spec, std::uint32_t sequences, std::uint32_t context) {
  const std::unique_ptr<Device> device = open(spec, sequences + 1, context, true);
  if (device == nullptr) return 1;
  const Variant variants[] = {{"none"}, {"h2o", model::SparseMethod::kH2o}};
  Load load(*device, sequences, context);
  std::uint32_t position = context;
  (void)load.fill(variants[1]);
  for (const std::uint32_t chunk : {0u, 8u, 16u, 32u, 48u, 64u, 80u, 96u, 128u, 192u, 256u}) {
    if (chunk > context) break;
    std::vector<double> times[2];
    for (int round = 0; round < kRounds; ++round) {
      for (int i = 0; i < kStepsARound; ++i) {
        const double ms = load.decode(variants[0], context - 1, chunk);
        if (i >= kWarm) times[0].push_back(ms);
      }
      for (int i = 0; i < kStepsARound; ++i) {
        const double ms = load.decode(variants[1], position++, chunk);
        if (i >= kWarm) times[1].push_back(ms);
      }
    }
    std::printf(
        "{\"figure\":\"beside a "
        "chunk\",\"chunk\":%u,\"seqs\":%u,\"live\":%u,\"exact_ms\":%.4f,\"h2o_ms\":%.4f}\n",
        chunk, sequences, context, median(times[0]), median(times[1]));
    std::fflush(stdout);
  }
  return 0;
}

int run(int argc, char** argv) {
  std::uint32_t sequences = 64, context = 1024;
  int layers = 0, variants = 0, beside = 0;
  std::string_view shape = "llama-7b";
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--shape") {
      shape = i + 1 < argc ? argv[++i] : "";
      continue;
    }
    const int value = i + 1 < argc ? std::atoi(argv[++i]) : 0;
    if (value <= 0) return std::fprintf(stderr, "%s takes a number\n", argv[i]), 2;
    if (name == "--seqs")
      sequences = static_cast<std::uint32_t>(value);
    else if (name == "--context")
      context = static_cast<std::uint32_t>(value) / kBlock * kBlock;
    else if (name == "--variants")
      variants = value;
    else if (name == "--layers")
      layers = value;
    else if (name == "--beside")
      beside = value;
    else
      return std::fprintf(stderr, "unknown option %s\n", argv[i - 1]), 2;
  }
  model::ModelSpec spec = shape_of(shape);
  if (layers > 0) spec.num_layers = layers;
  int gpus = 0;
  if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus == 0)
    return std::fprintf(stderr, "bench_cuda_sparse: no GPU here, nothing measured\n"), 0;
  if (beside > 0) return run_beside(spec, sequences, context);
  // Before and after, so that a card that becomes slower shows.
  const Variant exact{"none"};
  const auto closed = [&] {
    const std::unique_ptr<Device> device = open(spec, sequences, context, false);
    if (device == nullptr) return 0.0;
    Load load(*device, sequences, context);
    const double prompt_ms = load.fill(exact);
    std::vector<double> times;
    for (int i = 0; i < kRounds * kStepsARound; ++i) times.push_back(load.decode(exact, context - 1));
    std::printf(
        "{\"figure\":\"exact device\",\"seqs\":%u,\"context\":%u,\"decode_ms\":%.4f,\"prompts_ms\":%.2f}\n",
        sequences, context, median(times), prompt_ms);
    return median(times);
  };
  const double closed_ms = closed();
  if (closed_ms == 0) return 1;
  std::unique_ptr<Device> device = open(spec, sequences, context, true);
  if (device == nullptr) return 1;
  using model::SparseGranularity;
  using model::SparseMethod;
  for (const Variant& variant :
       {Variant{"h2o", SparseMethod::kH2o}, Variant{"h2o", SparseMethod::kH2o, SparseGranularity::kHead, 16},
        Variant{"h2o", SparseMethod::kH2o, SparseGranularity::kLayer},
        Variant{"h2o", SparseMethod::kH2o, SparseGranularity::kToken},
        Variant{"snapkv", SparseMethod::kSnapKv}, Variant{"tova", SparseMethod::kTova},
        Variant{"streaming", SparseMethod::kStreaming}}) {
    Load load(*device, sequences, context);
    const double exact_prompts_ms = load.fill(exact), prompts_ms = load.fill(variant);
    std::vector<double> without, with;
    std::uint32_t position = context;
    for (int round = 0; round < kRounds; ++round) {
      for (int i = 0; i < kStepsARound; ++i) {
        const double ms = load.decode(exact, context - 1);
        if (i >= kWarm) without.push_back(ms);
      }
      for (int i = 0; i < kStepsARound; ++i) {
        const double ms = load.decode(variant, position++);
        if (i >= kWarm) with.push_back(ms);
      }
    }
    double mean = 0, exact_mean = 0;
    for (const double ms : with) mean += ms / static_cast<double>(with.size());
    for (const double ms : without) exact_mean += ms / static_cast<double>(without.size());
    std::printf(
        "{\"figure\":\"sparsified\",\"method\":\"%s\",\"granularity\":\"%s\",\"n\":%u,\"seqs\":%u,\"live\":%"
        "u,"
        "\"exact_ms\":%.4f,\"decode_ms\":%.4f,\"over\":%.4f,\"over_of_means\":%.4f,\"exact_beside_closed\":%."
        "4f,"
        "\"exact_prompts_ms\":%.2f,\"prompts_ms\":%.2f}\n",
        variant.name, std::string(model::name_of(variant.granularity)).c_str(), variant.count, sequences,
        context, median(without), median(with), median(with) / median(without) - 1, mean / exact_mean - 1,
        median(without) / closed_ms - 1, exact_prompts_ms, prompts_ms);
    std::fflush(stdout);
    if (--variants == 0) break;
  }
  device.reset();
  return closed() > 0 ? 0 : 1;
}

}  // namespace
}  // namespace spillway::bench

int main(int argc, char** argv) { return spillway::bench::run(argc, argv); }
