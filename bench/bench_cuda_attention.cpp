// SPDX-License-Identifier: Apache-2.0
// Prefill attention alone, both kernels beside the card's matrix rate: one JSON line a shape and prompt, with
// how far the kernels' results are apart. Layers in turn, so that no keys are in the cache.
//
//   bench_cuda_attention [--matrix-tflops 790]

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string_view>
#include <vector>

#include "gpu/cuda/attention.hpp"

namespace spillway::bench {
namespace {

using namespace gpu::cuda;

constexpr int kBlockSize = 16, kLayers = 4, kRepeats = 12;

void check(cudaError_t code) {
  if (code == cudaSuccess) return;
  std::fprintf(stderr, "bench_cuda_attention: %s\n", cudaGetErrorString(code));
  std::exit(1);
}

template <class T>
T* upload(const std::vector<T>& values) {
  T* data = nullptr;
  check(cudaMalloc(reinterpret_cast<void**>(&data), values.size() * sizeof(T)));
  check(cudaMemcpy(data, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  return data;
}

/// Normal values, the same million again and again.
__nv_bfloat16* random_elements(std::size_t count) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<__nv_bfloat16> some(std::min<std::size_t>(count, 1000003));
  for (__nv_bfloat16& x : some) x = __float2bfloat16(normal(random));
  __nv_bfloat16* data = nullptr;
  check(cudaMalloc(reinterpret_cast<void**>(&data), count * 2));
  for (std::size_t at = 0; at < count; at += some.size())
    check(cudaMemcpy(data + at, some.data(), std::min(some.size(), count - at) * 2, cudaMemcpyHostToDevice));
  return data;
}

struct Shape {
  int heads, kv_heads, head_dim;
  int prompts, position, tokens, window;
};

class Prompts {
 public:
  explicit Prompts(const Shape& shape) : shape_(shape) {
    const int blocks = (shape.position + shape.tokens + kBlockSize - 1) / kBlockSize,
              rows = shape.prompts * shape.tokens;
    const std::int64_t layer = std::int64_t{2} * shape.kv_heads * kBlockSize * shape.head_dim;
    p_.element = Element::kBF16;
    p_.block_elements = layer * kLayers;
    p_.pool_blocks = std::int64_t{shape.prompts} * blocks;
    p_.block_size = kBlockSize;
    p_.heads = shape.heads;
    p_.kv_heads = shape.kv_heads;
    p_.head_dim = shape.head_dim;
    p_.window = shape.window;
    p_.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
    std::vector<std::int32_t> table(static_cast<std::size_t>(p_.pool_blocks));
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), std::mt19937(3));
    std::vector<PrefillTile> tiles;
    for (int at = 0; at < shape.tokens; at += kPrefillTile) {
      for (int i = 0; i < shape.prompts; ++i)
        tiles.push_back({i * shape.tokens + at, std::min(kPrefillTile, shape.tokens - at),
                         shape.position + at, i * blocks});
    }
    out_size_ = static_cast<std::size_t>(rows) * static_cast<std::size_t>(shape.heads * shape.head_dim);
    p_.qkv = random_elements(static_cast<std::size_t>(rows) *
                             static_cast<std::size_t>((shape.heads + 2 * shape.kv_heads) * shape.head_dim));
    p_.pool = random_elements(static_cast<std::size_t>(p_.pool_blocks * p_.block_elements));
    check(cudaMalloc(&p_.out, out_size_ * 2));
    p_.block_table = upload(table);
    p_.tiles = upload(tiles);
    p_.num_tiles = static_cast<int>(tiles.size());
  }
  Prompts(const Prompts&) = delete;
  Prompts& operator=(const Prompts&) = delete;
  ~Prompts() {
    for (const void* data : {p_.qkv, p_.pool, static_cast<const void*>(p_.out),
                             static_cast<const void*>(p_.block_table), static_cast<const void*>(p_.tiles)})
      (void)cudaFree(const_cast<void*>(data));
  }

  [[nodiscard]] std::vector<float> results(bool warpgroups, cudaStream_t stream) {
    check(cudaMemset(p_.out, 0xff, out_size_ * 2));
    check(cudaDeviceSynchronize());
    launch(warpgroups, 1, stream);
    check(cudaStreamSynchronize(stream));
    std::vector<__nv_bfloat16> out(out_size_);
    check(cudaMemcpy(out.data(), p_.out, out_size_ * 2, cudaMemcpyDeviceToHost));
    std::vector<float> values(out_size_);
    std::transform(out.begin(), out.end(), values.begin(),
                   [](__nv_bfloat16 x) { return __bfloat162float(x); });
    return values;
  }
  /// The median of several, in us.
  [[nodiscard]] double time(bool warpgroups, cudaStream_t stream) {
    cudaEvent_t begin{}, end{};
    check(cudaEventCreate(&begin));
    check(cudaEventCreate(&end));
    std::vector<double> times;
    for (int i = 0; i < kRepeats; ++i) {
      check(cudaEventRecord(begin, stream));
      for (int layer = 0; layer < kLayers; ++layer) launch(warpgroups, layer, stream);
      check(cudaEventRecord(end, stream));
      check(cudaEventSynchronize(end));
      float ms = 0;
      check(cudaEventElapsedTime(&ms, begin, end));
      times.push_back(double{ms} * 1e3 / kLayers);
    }
    check(cudaEventDestroy(begin));
    check(cudaEventDestroy(end));
    std::nth_element(times.begin(), times.begin() + kRepeats / 2, times.end());
    return times[kRepeats / 2];
  }
  /// Of the products that the mask leaves.
  [[nodiscard]] double flop() const {
    double keys = 0;
    for (int i = 0; i < shape_.tokens; ++i)
      keys += shape_.window > 0 ? std::min(shape_.window, shape_.position + i + 1) : shape_.position + i + 1;
    return 4.0 * keys * shape_.prompts * shape_.heads * shape_.head_dim;
  }

 private:
  void launch(bool warpgroups, int layer, cudaStream_t stream) {
    p_.warpgroups = warpgroups;
    p_.layer_offset = p_.block_elements / kLayers * layer;
    launch_prefill_attention(p_, stream);
    check(cudaGetLastError());
  }

  Shape shape_;
  AttentionParams p_;
  std::size_t out_size_ = 0;
};

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return std::sqrt(difference / norm);
}

int run(int argc, char** argv) {
  double matrix_tflops = 790;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::string_view(argv[i]) != "--matrix-tflops")
      return std::fprintf(stderr, "unknown option %s\n", argv[i]), 2;
    matrix_tflops = std::atof(argv[i + 1]);
  }
  int gpus = 0;
  if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus == 0)
    return std::fprintf(stderr, "bench_cuda_attention: no GPU here, nothing measured\n"), 0;
  cudaStream_t stream{};
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  for (const Shape& shape :
       {Shape{32, 32, 128, 1, 0, 512, 0}, Shape{32, 32, 128, 8, 0, 256, 0}, Shape{32, 32, 128, 1, 0, 2048, 0},
        Shape{32, 32, 128, 1, 0, 8192, 0}, Shape{32, 32, 128, 1, 6144, 2048, 0},
        Shape{32, 8, 128, 1, 0, 8192, 0}, Shape{32, 8, 128, 1, 0, 8192, 1024},
        Shape{32, 32, 64, 1, 0, 2048, 0}, Shape{32, 32, 64, 1, 0, 8192, 0}}) {
    Prompts prompts(shape);
    const double apart = distance(prompts.results(true, stream), prompts.results(false, stream));
    const double fast = prompts.time(true, stream), slow = prompts.time(false, stream);
    const double rate = prompts.flop() / fast * 1e-6;
    std::printf(
        "{\"figure\":\"prefill_attention\",\"heads\":%d,\"kv_heads\":%d,\"head_dim\":%d,\"prompts\":%d,"
        "\"position\":%d,"
        "\"tokens\":%d,\"window\":%d,\"us\":%.1f,\"tflop_s\":%.0f,\"of_matrix_rate\":%.3f,\"us_mma\":%.1f,"
        "\"apart\":%.1e}\n",
        shape.heads, shape.kv_heads, shape.head_dim, shape.prompts, shape.position, shape.tokens,
        shape.window, fast, rate, rate / matrix_tflops, slow, apart);
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace spillway::bench

int main(int argc, char** argv) { return spillway::bench::run(argc, argv); }
