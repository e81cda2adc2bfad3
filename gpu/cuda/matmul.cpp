// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/matmul.hpp"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "gpu/cuda/batch_matmul.hpp"
#include "gpu/cuda/launch.hpp"
#include "gpu/cuda/quantized_matmul.hpp"
#include "gpu/cuda/skinny_matmul.hpp"

namespace spillway::gpu::cuda {
namespace {

constexpr std::size_t kWorkspaceBytes = std::size_t{64} << 20;
constexpr int kGuesses = 16;
constexpr int kSkinnyUnmeasured = 8;  // tokens up to which our own kernel is the first guess
constexpr int kQuantizedUnmeasured = 64;
constexpr int kShortTokens = 256;  // up to which a product takes so little time that it is measured over several

cudaDataType_t data_type(Element element) {
  switch (element) {
    case Element::kF32:
      return CUDA_R_32F;
    case Element::kF16:
      return CUDA_R_16F;
    case Element::kBF16:
      return CUDA_R_16BF;
  }
  return CUDA_R_32F;
}

int kind_of(const DeviceMatrix& w) {
  return w.packed ? 1 + 2 * static_cast<int>(w.panels.type) + (w.panels.gated ? 1 : 0) : 0;
}

}  // namespace

/// A way to multiply.
struct Matmul::Choice {
  enum class Kernel { kLibrary, kQuantized, kSkinny, kBatch };
  Kernel kernel = Kernel::kLibrary;
  cublasLtMatmulAlgo_t algorithm{};  // the library's
  BatchCut cut{};                    // of kBatch
};

// The library is column-major: our row-major y = x w^T is its y^T = w x^T, with w taken transposed.
struct Matmul::Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t weight = nullptr, input = nullptr, output = nullptr;
  std::vector<cublasLtMatmulHeuristicResult_t> guesses;
  Choice chosen;
  bool tuned = false;

  ~Plan() {
    cublasLtMatrixLayoutDestroy(weight);
    cublasLtMatrixLayoutDestroy(input);
    cublasLtMatrixLayoutDestroy(output);
    cublasLtMatmulDescDestroy(operation);
  }
};

Matmul::Matmul(Element element) : element_(element) {}

Result<std::unique_ptr<Matmul>> Matmul::create(Element element) {
  std::unique_ptr<Matmul> matmul(new Matmul(element));
  if (const cublasStatus_t status = cublasLtCreate(&matmul->handle_); status != CUBLAS_STATUS_SUCCESS)
    return Error{Errc::kDeviceFailed, std::string("cuBLASLt: ") + cublasLtGetStatusString(status)};
  Result<Memory> workspace = Memory::device(kWorkspaceBytes, "the workspace of matrix products");
  if (!workspace) return workspace.error();
  matmul->workspace_ = std::move(*workspace);
  return matmul;
}

Result<void> Matmul::reserve_quantized(std::size_t elements_max) {
  constexpr std::size_t kTilesMax = 1 << 16;
  const std::pair<Memory*, std::size_t> wanted[] = {{&unpacked_, elements_max * bytes_of(element_)},
                                                    {&partial_, quantized_workspace_bytes()},
                                                    {&arrived_, kTilesMax * sizeof(int)}};
  for (const auto& [memory, bytes] : wanted) {
    Result<Memory> allocated = Memory::device(bytes, "room for products with quantized weights");
    if (!allocated) return allocated.error();
    *memory = std::move(*allocated);
  }
  return check_cuda(cudaMemset(arrived_.data(), 0, arrived_.bytes()), "clearing the counters of products");
}

Matmul::~Matmul() {
  plans_.clear();
  if (handle_ != nullptr) cublasLtDestroy(handle_);
}

void Matmul::fail(cublasStatus_t status, const DeviceMatrix& w, int tokens) {
  if (!failure_.empty()) return;
  failure_ = "cuBLASLt, product of " + std::to_string(tokens) + " x " + std::to_string(w.cols) + " and " +
             std::to_string(w.rows) + " x " + std::to_string(w.cols) + ": " + cublasLtGetStatusString(status);
}

Result<void> Matmul::status() const {
  if (failure_.empty()) return {};
  return Error{Errc::kDeviceFailed, failure_};
}

Matmul::Plan* Matmul::plan_for(const DeviceMatrix& w, int tokens, bool wide) {
  const Key key{tokens, w.rows, w.cols, wide, w.bias != nullptr, kind_of(w)};
  if (const auto found = plans_.find(key); found != plans_.end()) return found->second.get();
  auto plan = std::make_unique<Plan>();
  const cudaDataType_t type = data_type(element_), out_type = wide ? CUDA_R_32F : type;
  const cublasOperation_t transposed = CUBLAS_OP_T;
  cublasLtMatmulDescCreate(&plan->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  cublasLtMatmulDescSetAttribute(plan->operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed);
  if (w.bias != nullptr) {
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    cublasLtMatmulDescSetAttribute(plan->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    cublasLtMatmulDescSetAttribute(plan->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &w.bias, sizeof w.bias);
  }
  const auto rows = static_cast<std::uint64_t>(w.rows), cols = static_cast<std::uint64_t>(w.cols);
  const auto count = static_cast<std::uint64_t>(tokens);
  cublasLtMatrixLayoutCreate(&plan->weight, type, cols, rows, w.cols);
  cublasLtMatrixLayoutCreate(&plan->input, type, cols, count, w.cols);
  cublasLtMatrixLayoutCreate(&plan->output, out_type, rows, count, w.rows);

  cublasLtMatmulPreference_t preference = nullptr;
  cublasLtMatmulPreferenceCreate(&preference);
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
                                       sizeof kWorkspaceBytes);
  // Rows of an odd number of columns start at odd addresses; the first row's alignment is the allocation's.
  std::array<cublasLtMatmulHeuristicResult_t, kGuesses> guesses{};
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle_, plan->operation, plan->weight, plan->input, plan->output, plan->output,
                                     preference, kGuesses, guesses.data(), &found);
  cublasLtMatmulPreferenceDestroy(preference);
  if (status != CUBLAS_STATUS_SUCCESS || found == 0) {
    fail(status != CUBLAS_STATUS_SUCCESS ? status : CUBLAS_STATUS_NOT_SUPPORTED, w, tokens);
    return nullptr;
  }
  plan->guesses.assign(guesses.begin(), guesses.begin() + found);
  plan->chosen.algorithm = plan->guesses.front().algo;
  if (w.packed && tokens <= kQuantizedUnmeasured) plan->chosen.kernel = Choice::Kernel::kQuantized;
  if (!w.packed && tokens <= kSkinnyUnmeasured && has_skinny(element_, w.rows, w.cols, tokens))
    plan->chosen.kernel = Choice::Kernel::kSkinny;
  return plans_.emplace(key, std::move(plan)).first->second.get();
}

std::vector<Matmul::Choice> Matmul::choices(const Plan& plan, const DeviceMatrix& w, int tokens) const {
  std::vector<Choice> all;
  if (w.packed) {
    if (tokens <= kQuantizedTokensMax) all.push_back({.kernel = Choice::Kernel::kQuantized});
  } else {
    if (has_skinny(element_, w.rows, w.cols, tokens)) all.push_back({.kernel = Choice::Kernel::kSkinny});
    const bool aligned = reinterpret_cast<std::uintptr_t>(w.weight) % 16 == 0;
    if (tokens >= kBatchTokensMin && tokens <= kBatchTokensMax && aligned)
      for (const BatchCut& cut : batch_cuts(element_, w.rows, w.cols, tokens))
        all.push_back({.kernel = Choice::Kernel::kBatch, .cut = cut});
  }
  for (const cublasLtMatmulHeuristicResult_t& guess : plan.guesses)
    if (guess.state == CUBLAS_STATUS_SUCCESS) all.push_back({.algorithm = guess.algo});
  return all;
}

/// By what its time alone is multiplied. Our own kernels of few tokens start under the kernel before them, and fuse. Above 64
/// tokens a step showed nothing of that, and what clusters gain alone is lost in it (decision 039).
float Matmul::worth_in_a_step(const Choice& choice, int tokens) {
  if (choice.kernel == Choice::Kernel::kLibrary) return 1;
  if (choice.kernel != Choice::Kernel::kBatch || tokens <= 64) return 0.95f;
  return choice.cut.splits > 1 ? 1.05f : 1;
}

/// False: it could not be launched.
bool Matmul::multiply_own(const Choice& choice, const DeviceMatrix& w, const void* x, int tokens, void* y, bool wide,
                          bool gated, model::Activation activation, cudaStream_t stream) {
  if (choice.kernel == Choice::Kernel::kQuantized) {
    launch_quantized({.element = element_,
                      .weight = w.panels,
                      .bias = w.bias,
                      .x = x,
                      .y = y,
                      .tokens = tokens,
                      .wide = wide,
                      .activation = activation,
                      .partial = partial_.as<float>(),
                      .arrived = arrived_.as<int>()},
                     stream);
    return true;
  }
  const Product product{.element = element_,
                        .weight = w.weight,
                        .bias = w.bias,
                        .x = x,
                        .y = y,
                        .rows = gated ? w.rows / 2 : w.rows,
                        .cols = w.cols,
                        .tokens = tokens,
                        .wide = wide,
                        .gated = gated,
                        .activation = activation};
  if (choice.kernel == Choice::Kernel::kBatch) return launch_batch({product, choice.cut}, stream);
  launch_skinny(product, stream);
  return true;
}

cublasStatus_t Matmul::run(const Plan& plan, const Choice& choice, const DeviceMatrix& w, const void* x, int tokens,
                           void* y, bool wide, cudaStream_t stream) {
  if (choice.kernel != Choice::Kernel::kLibrary) {
    const bool ran = multiply_own(choice, w, x, tokens, y, wide, w.gated(), model::Activation::kSilu, stream);
    return ran ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
  }
  const void* weight = w.weight;
  if (w.packed) {
    launch_unpack(w.panels, unpacked_.data(), element_, stream);
    weight = unpacked_.data();
  }
  const float one = 1, zero = 0;
  if (w.bias != nullptr)
    cublasLtMatmulDescSetAttribute(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &w.bias, sizeof w.bias);
  return cublasLtMatmul(handle_, plan.operation, &one, weight, plan.weight, x, plan.input, &zero, y, plan.output, y,
                        plan.output, &choice.algorithm, workspace_.data(), kWorkspaceBytes, stream);
}

void Matmul::multiply(const DeviceMatrix& w, const void* x, int tokens, void* y, bool wide, cudaStream_t stream) {
  const Plan* plan = plan_for(w, tokens, wide);
  if (plan == nullptr) return;
  const cublasStatus_t status = run(*plan, plan->chosen, w, x, tokens, y, wide, stream);
  if (status != CUBLAS_STATUS_SUCCESS) fail(status, w, tokens);
}

bool Matmul::fuses(const DeviceMatrix& w, int tokens) {
  const Plan* plan = plan_for(w, tokens, false);
  return plan != nullptr && plan->chosen.kernel != Choice::Kernel::kLibrary;
}

void Matmul::multiply_gated(const DeviceMatrix& w, const void* x, int tokens, model::Activation activation, void* y,
                            cudaStream_t stream) {
  const Plan* plan = plan_for(w, tokens, false);
  if (plan != nullptr && !multiply_own(plan->chosen, w, x, tokens, y, false, true, activation, stream))
    fail(CUBLAS_STATUS_NOT_SUPPORTED, w, tokens);
}

void Matmul::tune(std::span<const DeviceMatrix> weights, const void* x, int tokens, void* y, bool wide,
                  cudaStream_t stream) {
  const DeviceMatrix& first = weights.front();
  Plan* plan = plan_for(first, tokens, wide);
  if (plan == nullptr || plan->tuned) return;
  plan->tuned = true;
  cudaEvent_t begin = nullptr, end = nullptr;
  (void)cudaEventCreate(&begin);
  (void)cudaEventCreate(&end);
  const int repeats = tokens <= kShortTokens ? 6 : 2;
  float fastest = 0;
  std::size_t turn = 0;
  for (const Choice& choice : choices(*plan, first, tokens)) {
    const auto once = [&] {
      return run(*plan, choice, weights[turn++ % weights.size()], x, tokens, y, wide, stream);
    };
    if (once() != CUBLAS_STATUS_SUCCESS) continue;
    (void)cudaEventRecord(begin, stream);
    for (int i = 0; i < repeats; ++i) (void)once();
    (void)cudaEventRecord(end, stream);
    (void)cudaEventSynchronize(end);
    float ms = 0;
    (void)cudaEventElapsedTime(&ms, begin, end);
    ms *= worth_in_a_step(choice, tokens);
    if (fastest != 0 && ms >= fastest) continue;
    fastest = ms;
    plan->chosen = choice;
  }
  (void)cudaEventDestroy(begin);
  (void)cudaEventDestroy(end);
}

}  // namespace spillway::gpu::cuda
