// SPDX-License-Identifier: Apache-2.0
#pragma once

// Forward: one step through the transformer, executed by all members of a thread team together. Owns the
// activations, sized once from the largest step; the KV pool and the weights belong to the device.
//
// Phases follow each other with a barrier between them; within one, rows, matrix chunks and attention items
// are claimed by whoever is free. A row's values depend on its sequence alone, never on the rest of the
// batch.

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "gpu/host/aligned_floats.hpp"
#include "gpu/host/attention.hpp"
#include "gpu/host/execution_mode.hpp"
#include "gpu/host/host_model.hpp"
#include "gpu/host/kv_pool.hpp"
#include "gpu/host/phase_timer.hpp"
#include "gpu/host/product_rows.hpp"
#include "gpu/host/rows_kernels.hpp"
#include "gpu/host/sparse_slots.hpp"
#include "gpu/step_plan.hpp"

namespace spillway::gpu::host {

struct ForwardLimits {
  std::uint32_t max_tokens = 0;   // in one step
  std::uint32_t max_samples = 0;  // rows of logits in one step
  std::uint32_t max_model_len = 0;
  std::uint32_t threads = 1;
  ExecutionMode mode = ExecutionMode::kAccuracy;
};

class Forward {
 public:
  /// The model and the layout outlive this.
  Forward(const HostModel& model, const KvLayout& layout, CpuTarget target, const ForwardLimits& limits);

  /// Lays out the step. tokens[i] is the input at plan.tokens[i], with those that come from rows filled in.
  /// The plan must be valid (see validate_plan) and outlive run(). One thread calls it.
  void prepare(const StepPlan& plan, std::span<const TokenId> tokens);

  /// Called by every member. KV entries are written and logits are complete when the last member returns.
  void run(TeamMember& member, std::byte* pool, PhaseTimer& timer);

  /// Sequences that sample, in the plan's order.
  [[nodiscard]] std::uint32_t num_samples() const noexcept {
    return static_cast<std::uint32_t>(sampled_.size());
  }
  [[nodiscard]] std::uint32_t sampled_sequence(std::uint32_t sample) const noexcept {
    return sampled_[sample].sequence;
  }
  [[nodiscard]] std::span<float> logits(std::uint32_t sample) noexcept {
    return {logits_.data() + sample * vocab_, vocab_};
  }
  /// Blocks that the step left without live tokens, for sequences that give those back. After run().
  void report_emptied(std::byte* pool, StepResult& result) { slots_.report_emptied(pool, result); }
  [[nodiscard]] std::size_t activation_bytes() const noexcept;

 private:
  struct TokenPlace {
    TokenId token = 0;
    std::uint32_t position = 0;
    BlockId block{};
    std::uint32_t slot = 0;
    std::uint32_t sparse = SequenceStep::kExact;  // of slots_: whose head's slots this token enters
  };
  struct Sample {
    std::uint32_t sequence = 0;
    std::uint32_t token_row = 0;
  };
  /// A product's input: fp32 rows, and what the kernels make of them where the weights are quantized.
  struct Input {
    AlignedFloats rows;
    ProductRows quantized;
    std::size_t cols;
    Input(std::size_t max_rows, std::size_t columns, bool quantizes, const MatmulKernels& kernels);
    [[nodiscard]] float* row(std::size_t i) noexcept { return rows.data() + i * cols; }
  };

  template <class F>
  void for_rows(TeamMember& member, std::uint32_t rows, F&& f);
  void normalize(const HostNorm& norm, const float* x, float* out) const;
  void finish_input(Input& input, const PackedProduct& product, std::uint32_t row);
  void multiply(TeamMember& member, const PackedProduct& product, const Input& input, std::uint32_t rows,
                float* y, std::size_t y_stride, Finish finish = Finish::kStore);
  /// x_ += product: at once where the kernels can, else y_ is left for close_block().
  void multiply_into_x(TeamMember& member, const PackedProduct& product, const Input& input,
                       std::uint32_t rows);
  [[nodiscard]] bool adds_at_once(const PackedProduct& product) const noexcept {
    return matmul_kernels_.finishes && !product.needs_float();
  }
  template <class F>
  [[nodiscard]] bool all_layers(F&& f) const {
    return std::all_of(model_.layers.begin(), model_.layers.end(), f);
  }
  [[nodiscard]] bool gates_at_once(const HostLayer& layer) const noexcept {
    return model_.spec.mlp == model::MlpKind::kGated && model_.spec.activation == model::Activation::kSilu &&
           layer.up.can_gate(matmul_kernels_);
  }
  void embed(TeamMember& member, PhaseTimer& timer);
  void write_kv(TeamMember& member, std::uint32_t layer, std::byte* pool);
  void attention_block(TeamMember& member, std::uint32_t layer, std::byte* pool, PhaseTimer& timer);
  void mlp_block(TeamMember& member, std::uint32_t layer, std::uint32_t rows, PhaseTimer& timer);
  void head(TeamMember& member, PhaseTimer& timer);
  /// x[row] takes in y[row], unless `from` has done that; then the row becomes the input of `to`.
  void close_block(std::uint32_t row, const PackedProduct& from, const HostNorm& own, const HostNorm* next,
                   const PackedProduct& to);

  const HostModel& model_;
  const KvLayout& layout_;
  const MatmulKernels& matmul_kernels_;
  const PromptKernels* const prompt_attention_;  // null: none, or not for this cache
  const AttentionKernels& attention_kernels_;
  const RowKernels& row_kernels_;
  const std::size_t hidden_, q_size_, kv_size_, inner_, vocab_;
  const std::uint32_t threads_;

  std::vector<TokenPlace> tokens_;
  std::vector<Sample> sampled_;
  std::vector<AttentionSpan> spans_;
  AttentionPlan attention_plan_, last_attention_plan_;  // all rows; only those that sample
  std::vector<AttentionScratch> scratch_;               // [members]
  SparseSlots slots_;                                   // of the step's sparsified sequences
  AlignedRows panels_;                                  // working memory of products, [members]

  AlignedFloats x_;                        // [tokens, hidden] residual stream
  AlignedFloats y_;                        // [tokens, hidden] a block's output; empty where products add it
  AlignedFloats qkv_;                      // [tokens, q + 2 kv]
  AlignedFloats up_;                       // [tokens, up rows]; empty where products gate
  AlignedFloats logits_;                   // [samples, vocab]
  AlignedFloats cosine_, sine_;            // [tokens, rotary / 2]
  AlignedFloats sink_cosine_, sink_sine_;  // the same at their cache positions; empty unless sequences
                                           // may be sparsified
  AlignedFloats sink_q_;                   // [tokens, q]: queries as sinks see them
  Input normed_;                           // [tokens, hidden]
  Input attended_;                         // [tokens, q]
  Input activated_;                        // [tokens, intermediate]
  Input embedded_;                         // [tokens, embedding], only with project_in or project_out
};

}  // namespace spillway::gpu::host
