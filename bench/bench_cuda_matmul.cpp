// SPDX-License-Identifier: Apache-2.0
// Products of a decode batch on the GPU, alone: our own kernel with each of its cuts, beside the fastest of
// cuBLASLt's algorithms, in bytes of the weight a second. Each is a graph of products with weights in turn,
// more than the L2 cache holds. One JSON line a figure.
//
//   bench_cuda_matmul [--tokens 32,64,128] [--shapes 12288x4096,...] [--gated] [--all]     rows x cols;
//   --all: every cut

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gpu/cuda/batch_matmul.hpp"

namespace spillway::bench {
namespace {

using namespace gpu::cuda;

constexpr int kRepeats = 24, kRounds = 5;
constexpr std::size_t kWeightBytes = std::size_t{400} << 20, kWorkspaceBytes = std::size_t{64} << 20;

void check(cudaError_t code) {
  if (code == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(code));
  std::exit(1);
}

struct Shape {
  int rows = 0, cols = 0, tokens = 0;
  [[nodiscard]] std::size_t bytes() const { return std::size_t(rows) * std::size_t(cols) * 2; }
};

/// Random bf16 of about one's size over `bytes`; the pattern repeats after 64 MiB.
void fill(void* to, std::size_t bytes) {
  std::vector<std::uint16_t> values(std::size_t{1} << 25);
  std::mt19937 random(7);
  for (std::uint16_t& v : values) {
    const auto bits = static_cast<std::uint32_t>(random());
    v = static_cast<std::uint16_t>((bits & 0x80ffu) | 0x3e00u | (bits >> 16 & 0x80u));
  }
  for (std::size_t at = 0; at < bytes; at += values.size() * 2)
    check(cudaMemcpy(static_cast<char*>(to) + at, values.data(), std::min(values.size() * 2, bytes - at),
                     cudaMemcpyHostToDevice));
}

class Bench {
 public:
  Bench() {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    check(cudaMalloc(&weights_, kWeightBytes));
    check(cudaMalloc(&x_, std::size_t{256} * 16384 * 2));
    check(cudaMalloc(&y_, std::size_t{256} * 262144 * 4));
    check(cudaMalloc(&workspace_, kWorkspaceBytes));
    fill(weights_, kWeightBytes);
    fill(x_, std::size_t{256} * 16384 * 2);
    check(cudaEventCreate(&begin_));
    check(cudaEventCreate(&end_));
    if (cublasLtCreate(&library_) != CUBLAS_STATUS_SUCCESS) std::exit(1);
  }

  /// Microseconds of one product; 0: it failed.
  double time(const Shape& shape, const std::function<bool(const void*)>& multiply) {
    const std::size_t weights = std::max<std::size_t>(1, kWeightBytes / shape.bytes());
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    bool ok = true;
    if (!multiply(weights_)) return 0;  // loads the kernel
    check(cudaStreamSynchronize(stream_));
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    for (std::size_t i = 0; i < kRepeats; ++i)
      ok = multiply(static_cast<const char*>(weights_) +
                    i % weights * (kWeightBytes / weights / 1024 * 1024)) &&
           ok;
    check(cudaStreamEndCapture(stream_, &graph));
    check(cudaGraphInstantiate(&executable, graph, 0));
    std::vector<float> times;
    for (int round = 0; ok && round < kRounds; ++round) {
      check(cudaEventRecord(begin_, stream_));
      check(cudaGraphLaunch(executable, stream_));
      check(cudaEventRecord(end_, stream_));
      check(cudaEventSynchronize(end_));
      float ms = 0;
      check(cudaEventElapsedTime(&ms, begin_, end_));
      times.push_back(ms);
    }
    check(cudaGraphExecDestroy(executable));
    check(cudaGraphDestroy(graph));
    std::sort(times.begin(), times.end());
    return times.empty() ? 0 : double{times[times.size() / 2]} * 1e3 / kRepeats;
  }

  double own(const Shape& shape, const BatchCut& cut, bool gated) {
    BatchParams p;
    p.element = Element::kBF16;
    p.x = x_;
    p.y = y_;
    p.rows = gated ? shape.rows / 2 : shape.rows;
    p.cols = shape.cols;
    p.tokens = shape.tokens;
    p.gated = gated;
    p.cut = cut;
    return time(shape, [&](const void* weight) {
      p.weight = weight;
      return launch_batch(p, stream_);
    });
  }

  double library(const Shape& shape) {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t weight = nullptr, input = nullptr, output = nullptr;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const auto rows = static_cast<std::uint64_t>(shape.rows), cols = static_cast<std::uint64_t>(shape.cols);
    const auto tokens = static_cast<std::uint64_t>(shape.tokens);
    cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed);
    cublasLtMatrixLayoutCreate(&weight, CUDA_R_16BF, cols, rows, shape.cols);
    cublasLtMatrixLayoutCreate(&input, CUDA_R_16BF, cols, tokens, shape.cols);
    cublasLtMatrixLayoutCreate(&output, CUDA_R_16BF, rows, tokens, shape.rows);
    cublasLtMatmulPreference_t preference = nullptr;
    cublasLtMatmulPreferenceCreate(&preference);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &kWorkspaceBytes, sizeof kWorkspaceBytes);
    cublasLtMatmulHeuristicResult_t guesses[16];
    int found = 0;
    (void)cublasLtMatmulAlgoGetHeuristic(library_, operation, weight, input, output, output, preference, 16,
                                         guesses, &found);
    double fastest = 0;
    const float one = 1, zero = 0;
    for (int i = 0; i < found; ++i) {
      const double us = time(shape, [&](const void* w) {
        return cublasLtMatmul(library_, operation, &one, w, weight, x_, input, &zero, y_, output, y_, output,
                              &guesses[i].algo, workspace_, kWorkspaceBytes,
                              stream_) == CUBLAS_STATUS_SUCCESS;
      });
      if (us > 0 && (fastest == 0 || us < fastest)) fastest = us;
    }
    cublasLtMatmulPreferenceDestroy(preference);
    cublasLtMatrixLayoutDestroy(weight);
    cublasLtMatrixLayoutDestroy(input);
    cublasLtMatrixLayoutDestroy(output);
    cublasLtMatmulDescDestroy(operation);
    return fastest;
  }

 private:
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  cublasLtHandle_t library_ = nullptr;
  void *weights_ = nullptr, *x_ = nullptr, *y_ = nullptr, *workspace_ = nullptr;
};

std::vector<int> parse_list(const char* text) {
  std::vector<int> values;
  for (char* end = nullptr; *text != 0; text = *end == 0 ? end : end + 1)
    values.push_back(static_cast<int>(std::strtol(text, &end, 10)));
  return values;
}

int run(int argc, char** argv) {
  std::vector<int> tokens{32, 64, 128},
      shapes{12288, 4096, 4096, 4096, 22016, 4096, 4096, 11008, 32000, 4096};
  bool all = false, gated = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--all")
      all = true;
    else if (name == "--gated")
      gated = true;
    else if (name == "--tokens" && i + 1 < argc)
      tokens = parse_list(argv[++i]);
    else if (name == "--shapes" && i + 1 < argc)
      shapes = parse_list(argv[++i]);
    else
      return std::fprintf(stderr, "unknown option %s\n", argv[i]), 2;
  }
  int gpus = 0;
  if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus == 0)
    return std::fprintf(stderr, "bench_cuda_matmul: no GPU here, nothing measured\n"), 0;
  cudaDeviceProp card{};
  check(cudaGetDeviceProperties(&card, 0));
  std::printf("{\"figure\":\"card\",\"name\":\"%s\",\"sm\":%d}\n", card.name, card.multiProcessorCount);
  Bench bench;
  for (const int count : tokens) {
    for (std::size_t s = 0; s + 1 < shapes.size(); s += 2) {
      const Shape shape{shapes[s], shapes[s + 1], count};
      const auto rate = [&](double us) {
        return us > 0 ? static_cast<double>(shape.bytes()) / us * 1e-6 : 0;
      };
      const int rows = gated ? shape.rows / 2 : shape.rows;
      std::vector<std::pair<double, BatchCut>> times;
      for (const BatchCut& cut : all ? all_batch_cuts(Element::kBF16, rows, shape.cols, count)
                                     : batch_cuts(Element::kBF16, rows, shape.cols, count)) {
        times.emplace_back(bench.own(shape, cut, gated), cut);
        if (cudaGetLastError() != cudaSuccess) times.back().first = 1e9;
      }
      std::sort(times.begin(), times.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
      const double theirs = bench.library(shape);
      std::printf(
          "{\"figure\":\"product\",\"rows\":%d,\"cols\":%d,\"tokens\":%d,\"gated\":%s,\"library_us\":%.2f,"
          "\"library_tb_s\":%.3f,"
          "\"own\":[",
          shape.rows, shape.cols, count, gated ? "true" : "false", theirs, rate(theirs));
      for (std::size_t i = 0; i < std::min<std::size_t>(times.size(), all ? 99 : 4); ++i) {
        const auto& [us, cut] = times[i];
        std::printf("%s{\"tile_rows\":%d,\"splits\":%d,\"us\":%.2f,\"tb_s\":%.3f}", i > 0 ? "," : "",
                    cut.tile_rows, cut.splits, us, rate(us));
      }
      std::printf("]}\n");
      std::fflush(stdout);
    }
  }
  return 0;
}

}  // namespace
}  // namespace spillway::bench

int main(int argc, char** argv) { return spillway::bench::run(argc, argv); }
