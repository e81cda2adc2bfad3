// SPDX-License-Identifier: Apache-2.0
#pragma once

// Matrix products by cuBLASLt with a cached choice of algorithm for each shape. The choice is the library's own
// first guess, or with tune() the fastest of its guesses, measured; a shape keeps its algorithm for good.

#include <cublasLt.h>

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include "gpu/cuda/check_cuda.hpp"
#include "gpu/cuda/element.hpp"

namespace spillway::gpu::cuda {

/// A weight [rows, cols] with its bias [rows] (null: none), both in the element type.
struct DeviceMatrix {
  const void* weight = nullptr;
  const void* bias = nullptr;
  int rows = 0, cols = 0;
};

class Matmul {
 public:
  [[nodiscard]] static Result<std::unique_ptr<Matmul>> create(Element element);
  ~Matmul();
  Matmul(const Matmul&) = delete;
  Matmul& operator=(const Matmul&) = delete;

  /// y [tokens, w.rows] = x [tokens, w.cols] * w^T + bias, in the element type, or fp32 with `wide`. The first
  /// call of a shape chooses; the first error sticks and is taken by status().
  void multiply(const DeviceMatrix& w, const void* x, int tokens, void* y, bool wide, cudaStream_t stream);

  /// Measures the library's guesses for the shape and keeps the fastest. Overwrites y; synchronizes the stream:
  /// only before serving.
  void tune(const DeviceMatrix& w, const void* x, int tokens, void* y, bool wide, cudaStream_t stream);

  [[nodiscard]] Result<void> status() const;

 private:
  struct Plan;
  using Key = std::tuple<int, int, int, bool, bool>;

  explicit Matmul(Element element);
  Plan* plan_for(const DeviceMatrix& w, int tokens, bool wide);
  [[nodiscard]] cublasStatus_t run(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm, const DeviceMatrix& w,
                                   const void* x, void* y, cudaStream_t stream);
  void fail(cublasStatus_t status, const DeviceMatrix& w, int tokens);

  Element element_;
  cublasLtHandle_t handle_ = nullptr;
  Memory workspace_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
  std::string failure_;
};

}  // namespace spillway::gpu::cuda
