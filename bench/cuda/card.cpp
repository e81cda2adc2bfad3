// SPDX-License-Identifier: Apache-2.0
#include "bench/cuda/card.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

namespace spillway::bench {

using Clock = std::chrono::steady_clock;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

void check(cudaError_t code) {
  if (code == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(code));
  std::exit(1);
}

double copy_rate() {
  constexpr std::size_t kBytes = std::size_t{4} << 30;
  void *from = nullptr, *to = nullptr;
  cudaStream_t stream = nullptr;
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  check(cudaMalloc(&from, kBytes));
  check(cudaMalloc(&to, kBytes));
  check(cudaMemsetAsync(from, 0x5b, kBytes, stream));
  std::vector<double> rates;
  for (int i = 0; i < 10; ++i) {
    check(cudaEventRecord(begin, stream));
    check(cudaMemcpyAsync(to, from, kBytes, cudaMemcpyDeviceToDevice, stream));
    check(cudaEventRecord(end, stream));
    check(cudaEventSynchronize(end));
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end));
    rates.push_back(2.0 * kBytes / (ms * 1e-3));
  }
  check(cudaFree(from));
  check(cudaFree(to));
  check(cudaEventDestroy(begin));
  check(cudaEventDestroy(end));
  check(cudaStreamDestroy(stream));
  return median(rates);
}

LinkRate link_rate() {
  constexpr std::size_t kBytes = std::size_t{1} << 30;
  void *host[2] = {}, *device[2] = {};
  cudaStream_t streams[2] = {};
  for (int i = 0; i < 2; ++i) {
    check(cudaMallocHost(&host[i], kBytes));
    check(cudaMalloc(&device[i], kBytes));
    check(cudaStreamCreateWithFlags(&streams[i], cudaStreamNonBlocking));
  }
  const auto measure = [&](bool out, bool in) {
    std::vector<double> rates;
    for (int repeat = 0; repeat < 5; ++repeat) {
      const Clock::time_point begin = Clock::now();
      if (out) check(cudaMemcpyAsync(host[0], device[0], kBytes, cudaMemcpyDeviceToHost, streams[0]));
      if (in) check(cudaMemcpyAsync(device[1], host[1], kBytes, cudaMemcpyHostToDevice, streams[1]));
      for (const cudaStream_t stream : streams) check(cudaStreamSynchronize(stream));
      rates.push_back(kBytes / std::chrono::duration<double>(Clock::now() - begin).count());
    }
    return median(rates);
  };
  const LinkRate rate{measure(true, false), measure(false, true), measure(true, true)};
  for (int i = 0; i < 2; ++i) {
    check(cudaFreeHost(host[i]));
    check(cudaFree(device[i]));
    check(cudaStreamDestroy(streams[i]));
  }
  return rate;
}

}  // namespace spillway::bench
