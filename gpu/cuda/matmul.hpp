// SPDX-License-Identifier: Apache-2.0
#pragma once

// Matrix products with a cached choice for each shape: a kernel of our own for few tokens (skinny_matmul.hpp, batch_matmul.hpp,
// quantized_matmul.hpp), or an algorithm of cuBLASLt, to which a quantized weight goes by way of a scratch. The choice is
// the first guess, or with tune() the fastest of all, measured; a shape keeps its algorithm for good.

#include <cublasLt.h>

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "gpu/cuda/check_cuda.hpp"
#include "gpu/cuda/element.hpp"
#include "gpu/cuda/quantized.hpp"
#include "model/spec.hpp"

namespace spillway::gpu::cuda {

/// A weight [rows, cols] with its bias [rows] (null: none), both in the element type; or a quantized weight in panels
/// (quantized.hpp).
struct DeviceMatrix {
  const void* weight = nullptr;
  const void* bias = nullptr;
  int rows = 0, cols = 0;
  bool packed = false;
  PackedMatrix panels;  // where packed

  [[nodiscard]] bool gated() const noexcept { return packed && panels.gated; }
};

class Matmul {
 public:
  [[nodiscard]] static Result<std::unique_ptr<Matmul>> create(Element element);
  ~Matmul();
  Matmul(const Matmul&) = delete;
  Matmul& operator=(const Matmul&) = delete;

  /// Room for quantized weights of up to so many elements; before the first of their products.
  [[nodiscard]] Result<void> reserve_quantized(std::size_t elements_max);

  /// y [tokens, w.rows] = x [tokens, w.cols] * w^T + bias, in the element type, or fp32 with `wide`. The first
  /// call of a shape chooses; the first error sticks and is taken by status().
  void multiply(const DeviceMatrix& w, const void* x, int tokens, void* y, bool wide, cudaStream_t stream);

  /// Measures what there is for the shape and keeps the fastest. `weights` are of one shape and taken in turn, so
  /// that none is found in a cache. Overwrites y; synchronizes the stream: only before serving.
  void tune(std::span<const DeviceMatrix> weights, const void* x, int tokens, void* y, bool wide, cudaStream_t stream);

  /// Whether the shape goes to a kernel of our own, so that what follows may be fused with it.
  [[nodiscard]] bool fuses(const DeviceMatrix& w, int tokens);
  /// Where fuses(): y [tokens, w.rows / 2] = act(gate) * up, w being gate rows, then up rows.
  void multiply_gated(const DeviceMatrix& w, const void* x, int tokens, model::Activation activation, void* y,
                      cudaStream_t stream);

  [[nodiscard]] Result<void> status() const;

 private:
  struct Choice;
  struct Plan;
  using Key = std::tuple<int, int, int, bool, bool, int>;

  explicit Matmul(Element element);
  Plan* plan_for(const DeviceMatrix& w, int tokens, bool wide);
  [[nodiscard]] std::vector<Choice> choices(const Plan& plan, const DeviceMatrix& w, int tokens) const;
  [[nodiscard]] static float worth_in_a_step(const Choice& choice, int tokens);
  [[nodiscard]] bool multiply_own(const Choice& choice, const DeviceMatrix& w, const void* x, int tokens, void* y, bool wide,
                                  bool gated, model::Activation activation, cudaStream_t stream);
  [[nodiscard]] cublasStatus_t run(const Plan& plan, const Choice& choice, const DeviceMatrix& w, const void* x, int tokens,
                                   void* y, bool wide, cudaStream_t stream);
  void fail(cublasStatus_t status, const DeviceMatrix& w, int tokens);

  Element element_;
  cublasLtHandle_t handle_ = nullptr;
  Memory workspace_;
  Memory unpacked_;            // one quantized weight in the element type
  Memory partial_, arrived_;   // of quantized products
  std::map<Key, std::unique_ptr<Plan>> plans_;
  std::string failure_;
};

}  // namespace spillway::gpu::cuda
