// SPDX-License-Identifier: Apache-2.0
#pragma once

// Forward: the launches of one step through the transformer, from the step's inputs on the device to drawn
// tokens. Owns the activations, allocated once for the largest step. The residual stream is fp32, everything
// else of a step has the model's element type, logits are fp32.

#include <memory>

#include "gpu/cuda/collective.hpp"
#include "gpu/cuda/cuda_model.hpp"
#include "gpu/cuda/matmul.hpp"
#include "gpu/cuda/sparse_memory.hpp"
#include "gpu/cuda/step_inputs.hpp"

namespace spillway::gpu::cuda {

struct PoolView {
  void* data = nullptr;
  std::int64_t block_elements = 0, layer_elements = 0, num_blocks = 0;
  const SparseMemory* sparse = nullptr;  // of a device that sequences may be sparsified on
};

class Forward {
 public:
  /// The model outlives this, and so does the collective, which is null for the only rank. Errors: kOutOfMemory,
  /// kDeviceFailed.
  [[nodiscard]] static Result<std::unique_ptr<Forward>> create(const CudaModel& model, const StepLimits& limits,
                                                               std::uint32_t max_rows, const StepGeometry& geometry,
                                                               Collective* collective);

  /// Enqueues a step over `in` (device memory). With `tune`, products of new shapes are measured first, which
  /// synchronizes.
  void enqueue(const StepShape& shape, const StepInputs& in, const PoolView& pool, bool tune, cudaStream_t stream);

  /// Measures the products of layers for steps of every number of tokens that is short, and of `tokens_max`, which
  /// synchronizes; activations are overwritten. Not in fp32, where that would take seconds.
  void tune(std::uint32_t tokens_max, cudaStream_t stream);

  /// The first error of any launch so far.
  [[nodiscard]] Result<void> status() const;

  /// Outside of the step, on the same stream: row `row`'s penalties start from these tokens. The lists must stay
  /// until the stream has passed.
  void reset_penalties(std::uint32_t row, const std::vector<TokenId>& prompt, const std::vector<TokenId>& output,
                       cudaStream_t stream);

  [[nodiscard]] const SampledRow* results() const noexcept { return results_.as<SampledRow>(); }
  [[nodiscard]] const std::int32_t* top_tokens() const noexcept { return top_tokens_.as<std::int32_t>(); }
  [[nodiscard]] const float* top_logprobs() const noexcept { return top_logprobs_.as<float>(); }
  [[nodiscard]] const float* logits() const noexcept { return logits_.as<float>(); }
  [[nodiscard]] std::size_t bytes() const noexcept;

 private:
  Forward(const CudaModel& model, const StepGeometry& geometry, Collective* collective)
      : model_(model), geometry_(geometry), collective_(collective) {}

  struct Step;
  /// The rows of a layer behind its attention.
  struct Rows {
    std::uint32_t count = 0;
    int padded = 0;                    // as products see them
    const Memory* x = nullptr;         // their residual stream
    const Memory* attended = nullptr;
  };
  void multiply(const Step& s, const DeviceMatrix& w, const Memory& x, int tokens, const Memory& y, bool wide = false);
  /// activated_ = act(gate) * up of normed_, or act(up).
  void widen(const Step& s, const DeviceLayer& layer, const Rows& rows);
  void embed(const Step& s);
  void attend(const Step& s, std::size_t layer);
  void attend_sparse(const Step& s, const AttentionParams& exact, std::size_t layer);
  /// The block's output y joins the residual stream, and the next product's input is made of it.
  void close(const Step& s, const Rows& rows, const DeviceNorm& own, const DeviceNorm* next, bool only_sampled);
  /// Of a step's rows those that are sampled, side by side: the last layer's other rows end with their keys and values.
  [[nodiscard]] Rows gather_sampled(const Step& s);
  /// y summed over the ranks.
  void add_ranks(const Step& s, int rows);
  void sample(const Step& s);

  const CudaModel& model_;
  StepGeometry geometry_;
  Collective* collective_;
  std::unique_ptr<Matmul> matmul_;
  std::uint32_t penalty_tokens_max_ = 0;

  Memory x_;         // [rows, hidden] fp32
  Memory y_;         // [rows, hidden]
  Memory normed_;    // [rows, hidden]
  Memory qkv_;       // [rows, q + 2 kv]
  Memory attended_;  // [rows, q]
  Memory up_;        // [rows, up rows]
  Memory activated_; // [rows, intermediate]
  Memory embedded_;  // [rows, embedding], only with project_in or project_out
  Memory sampled_x_, sampled_attended_;  // [samples, hidden] fp32, [samples, q]
  Memory logits_;    // [samples, vocab] fp32
  Memory own_logits_;       // [samples, vocabulary rows of this rank] fp32, only with several ranks
  Memory gathered_logits_;  // [ranks, samples, vocabulary rows]
  Memory partial_out_, partial_lse_, arrived_;
  Memory last_tokens_, seen_, penalty_tokens_;
  Memory results_, top_tokens_, top_logprobs_;
};

}  // namespace spillway::gpu::cuda
