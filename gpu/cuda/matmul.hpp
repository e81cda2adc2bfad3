// SPDX-License-Identifier: Apache-2.0
#pragma once

// Matrix products with a cached choice for each shape: our own kernel for few tokens (skinny_matmul.hpp), or an
// algorithm of cuBLASLt. The choice is the first guess, or with tune() the fastest of all, measured; a shape
// keeps its algorithm for good.

#include <cublasLt.h>

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
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

  /// Measures what there is for the shape and keeps the fastest. `weights` are of one shape and taken in turn, so
  /// that none is found in a cache. Overwrites y; synchronizes the stream: only before serving.
  void tune(std::span<const DeviceMatrix> weights, const void* x, int tokens, void* y, bool wide, cudaStream_t stream);

  /// Whether the shape goes to our own kernel, so that what follows may be fused with it.
  [[nodiscard]] bool is_skinny(const DeviceMatrix& w, int tokens, bool wide);

  [[nodiscard]] Result<void> status() const;

 private:
  struct Plan;
  using Key = std::tuple<int, int, int, bool, bool>;

  explicit Matmul(Element element);
  Plan* plan_for(const DeviceMatrix& w, int tokens, bool wide);
  /// algorithm null: our own kernel.
  [[nodiscard]] cublasStatus_t run(const Plan& plan, const cublasLtMatmulAlgo_t* algorithm, const DeviceMatrix& w,
                                   const void* x, int tokens, void* y, bool wide, cudaStream_t stream);
  void fail(cublasStatus_t status, const DeviceMatrix& w, int tokens);

  Element element_;
  cublasLtHandle_t handle_ = nullptr;
  Memory workspace_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
  std::string failure_;
};

}  // namespace spillway::gpu::cuda
