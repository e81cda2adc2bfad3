// SPDX-License-Identifier: Apache-2.0

// The real model, where its file is present: dequantized to fp32 it must answer as transformers does, and the
// quantized path must stay close to that. Reference: tests/oracle/make_smollm2_reference.py.

#include <cmath>
#include <filesystem>
#include <memory>
#include <string>

#include "gpu/host/matmul.hpp"
#include "tests/gpu/host_runner.hpp"
#include "tests/gpu/reference_file.hpp"

namespace spillway::gpu::host {
namespace {

const std::string kModel = std::string(SPW_SOURCE_ROOT) + "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
const std::string kReference = std::string(SPW_SOURCE_ROOT) + "/tests/data/models/smollm2-reference.txt";

/// The smallest distance between best and second-best logit at which int8 activations may not change the
/// token.
constexpr float kClearMargin = 0.5f;

/// A model's weights widened to fp32 in memory.
struct Dequantized {
  model::Weights weights;
  std::vector<std::unique_ptr<float[]>> memory;

  explicit Dequantized(const model::Weights& from) : weights(from) {
    ThreadTeam team(1);
    const auto widen = [&](model::TensorView& view) {
      if (view.empty() || view.dtype == model::DType::kF32) return;
      WeightArena arena;
      const ProductPart part{&view, nullptr, {}};
      Result<PackedProduct> packed = PackedProduct::pack({&part, 1}, arena, team);
      REQUIRE(packed.ok());
      const std::size_t rows = packed->rows(), cols = packed->cols();
      memory.push_back(std::make_unique<float[]>(rows * cols));
      for (std::size_t r = 0; r < rows; ++r) packed->embed_row(r, memory.back().get() + r * cols);
      view.dtype = model::DType::kF32;
      view.data = {reinterpret_cast<const std::byte*>(memory.back().get()), rows * cols * sizeof(float)};
    };
    widen(weights.token_embedding);
    widen(weights.lm_head);
    for (model::LayerWeights& layer : weights.layers) {
      for (model::TensorView* view :
           {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
        widen(*view);
      }
    }
  }
};

/// One way to compute with quantized weights.
struct Path {
  CpuTarget target = CpuTarget::kAmx;
  ExecutionMode mode = ExecutionMode::kAccuracy;
};

/// All that this machine has, but for plain C++, whose integers are those of AVX2 (and take minutes).
std::vector<Path> all_paths() {
  std::vector<Path> paths;
#ifdef __SANITIZE_THREAD__
  return {{}};  // what threads share is the same in all, and each takes minutes
#endif
  for (const CpuTarget target : available_cpu_targets()) {
    if (target == CpuTarget::kScalar) continue;
#ifdef __SANITIZE_ADDRESS__
    if (target == CpuTarget::kAvx512Bf16) continue;  // its products are those of the one before; a minute each
#endif
    paths.push_back({target});
    if (target == CpuTarget::kAvx512Vnni || target == CpuTarget::kAvx512Bf16)
      paths.push_back({target, ExecutionMode::kPerformance});
  }
  return paths;
}

std::vector<Answer> answer_all(const model::ModelSpec& spec, const model::Weights& weights, KvDType dtype,
                               const std::vector<ReferenceCase>& references, bool forced, const Path& path) {
  DeviceOptions options = small_device(dtype);
  options.kv_cache_memory_bytes = std::size_t{256} << 20;
  options.max_model_len = 1024;
  HostOptions host;
  host.threads = 2;
  host.cpu_target = path.target;
  host.mode = path.mode;
  HostRunner runner(spec, weights, options, host);
  std::vector<Request> requests;
  for (const ReferenceCase& reference : references) {
    Request request;
    request.prompt = reference.prompt;
    request.max_tokens = static_cast<std::uint32_t>(reference.greedy.size());
    if (forced) request.forced = reference.greedy;
    requests.push_back(std::move(request));
  }
  return runner.run(requests);
}

double cosine(const std::vector<float>& a, const std::vector<float>& b) {
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += double{a[i]} * b[i];
    aa += double{a[i]} * a[i];
    bb += double{b[i]} * b[i];
  }
  return ab / std::sqrt(aa * bb);
}

struct Closeness {
  double lowest = 1, sum = 0;
  std::size_t close = 0, equal = 0, clear = 0, clear_equal = 0, all = 0;
  [[nodiscard]] double mean() const { return sum / static_cast<double>(all); }
};

Closeness closeness(const std::vector<ReferenceCase>& references, const std::vector<Answer>& exact,
                    const std::vector<Answer>& quantized) {
  Closeness found;
  for (std::size_t c = 0; c < references.size(); ++c) {
    const ReferenceCase& reference = references[c];
    for (std::size_t i = 0; i < reference.greedy.size(); ++i) {
      const double similarity = cosine(quantized[c].logits[i], exact[c].logits[i]);
      found.lowest = std::min(found.lowest, similarity);
      found.close += similarity > 0.999 ? 1 : 0;
      found.sum += similarity;
      ++found.all;
      const bool same = quantized[c].tokens[i] == reference.greedy[i];
      found.equal += same ? 1 : 0;
      if (reference.margins[i] < kClearMargin) continue;
      ++found.clear;
      found.clear_equal += same ? 1 : 0;
    }
  }
  return found;
}

}  // namespace

TEST_CASE(
    "SmolLM2: fp32 greedy tokens equal transformers', quantized logits have a cosine above 0.999 with them "
    "for "
    "every token on every CPU target, in performance mode for all but one token in 200") {
  if (!std::filesystem::exists(kModel)) {
    WARN("skipped: no " << kModel << ": fetch the model to run this test");
    return;
  }
  const model::Model model = load_or_fail(kModel);
  const std::vector<ReferenceCase> references = read_reference(kReference);
  std::vector<Answer> exact;
  {
    const Dequantized dequantized(model.weights());
    exact = answer_all(model.spec(), dequantized.weights, KvDType::kF32, references, false, {});
  }
  for (std::size_t c = 0; c < references.size(); ++c) {
    const ReferenceCase& reference = references[c];
    INFO("case " << c << ", prompt of " << reference.prompt.size());
    CHECK(exact[c].tokens == reference.greedy);
    for (const auto& [index, top] : reference.top) {
      INFO("logits before token " << index);
      const std::vector<float>& row = exact[c].logits[index];
      double norm = 0;
      for (const float x : row) norm += double{x} * x;
      CHECK(std::sqrt(norm) == Approx(reference.norms.at(index)).epsilon(1e-4));
      for (const auto& [token, logit] : top) {
        CHECK(row[static_cast<std::size_t>(token)] == Approx(logit).epsilon(1e-3));
      }
    }
  }
  for (const Path& path : all_paths()) {
    const bool accurate = path.mode == ExecutionMode::kAccuracy;
    const Closeness found = closeness(
        references, exact, answer_all(model.spec(), model.weights(), KvDType::kF16, references, true, path));
    INFO(to_string(path.target) << (accurate ? "" : ", performance") << ": " << found.equal << " of "
                                << found.all << " quantized tokens equal, " << found.clear
                                << " have a clear margin; 1 - cosine " << 1 - found.mean()
                                << " in the mean, at most " << 1 - found.lowest);
    CHECK(found.clear_equal == found.clear);
    // With 8 bits single tokens fall below, another one on each target: docs/decisions/014, 042.
    CHECK(found.close * 200 >= (accurate ? found.all * 200 : found.all * 199));
    CHECK(found.lowest > (accurate ? 0.9995 : 0.99));
    CHECK(found.mean() > (accurate ? 0.99999 : 0.9999));
    CHECK(found.equal * 100 >= found.all * (accurate ? 99 : 98));
  }
}

}  // namespace spillway::gpu::host
