// SPDX-License-Identifier: Apache-2.0
#pragma once

// Attention of one step: cut into items of about equal size over (sequence, tile of tokens, KV head), claimed
// by the team's members. Each stream's own length counts, whatever the others' lengths are. Where there are
// fewer items than members can share, an item is further split by partitions; the member that finishes the
// last of them merges the partials in order, so that who computes what never shows in the result.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "gpu/host/attention_kernels.hpp"
#include "gpu/host/cpu.hpp"
#include "gpu/host/execution_mode.hpp"
#include "gpu/host/prompt_kernels.hpp"
#include "gpu/host/thread_team.hpp"

namespace spillway::gpu::host {

/// The kernels for a target; requires that the machine can run it.
[[nodiscard]] const AttentionKernels& attention_kernels(CpuTarget target) noexcept;

/// Attention of prompt tokens in bfloat16; null where the target has none, or none as exact as the mode asks.
[[nodiscard]] const PromptKernels* prompt_kernels(CpuTarget target, ExecutionMode mode) noexcept;

class AttentionScratch {
 public:
  AttentionScratch(const KvLayout& layout, std::uint32_t group);
  [[nodiscard]] const ScratchView& view() const noexcept { return view_; }

 private:
  struct Free {
    void operator()(float* p) const noexcept;
  };
  std::unique_ptr<float[], Free> memory_;
  ScratchView view_;
};

/// Some consecutive tokens of a sequence that attend in this step.
struct AttentionSpan {
  std::uint32_t first_position = 0;
  std::uint32_t tokens = 0;
  std::uint32_t q_row = 0;  // of its first token
  std::uint32_t out_row = 0;
  const BlockId* blocks = nullptr;        // from position 0 on; outlives the plan's use
  const PromptKernels* prompt = nullptr;  // not null: attends by these
};

struct AttentionGeometry {
  std::uint32_t num_heads = 0;
  std::uint32_t window = 0;  // 0: none
  std::uint32_t threads = 1;
};

class AttentionPlan {
 public:
  /// Replaces the plan; memory is reused. One thread calls it, before a barrier.
  void build(const std::vector<AttentionSpan>& spans, const KvLayout& layout,
             const AttentionGeometry& geometry);

  /// One layer. q [rows][heads * head_dim], rotated and scaled by attention_scale * kLog2E; out likewise.
  /// Called by every member; outputs are complete after the next barrier.
  void run(TeamMember& member, const AttentionKernels& kernels, const std::byte* pool, std::uint32_t layer,
           const float* q, std::size_t q_stride, float* out, std::size_t out_stride,
           const ScratchView& scratch);

 private:
  struct Item {
    std::uint32_t span = 0;
    std::uint32_t kv_head = 0;
    std::uint32_t first_token = 0, tokens = 0;
    std::uint32_t partition_begin = 0, partition_end = 0;
    std::uint32_t split = 0;  // 1 + index into splits_, 0: whole
    std::uint64_t cost = 0;
  };
  struct Split {
    std::uint32_t partition_begin = 0, partition_end = 0;
    std::size_t partials = 0;  // offset into partials_
  };

  [[nodiscard]] AttentionTask task(const Item& item, const std::byte* pool, std::uint32_t layer,
                                   const float* q, std::size_t q_stride, float* out,
                                   std::size_t out_stride) const;
  void deal(std::uint32_t threads);

  const KvLayout* layout_ = nullptr;
  AttentionGeometry geometry_;
  std::uint32_t group_ = 1;
  std::vector<AttentionSpan> spans_;
  std::vector<Item> items_, dealt_;
  std::vector<Split> splits_;
  std::vector<float> partials_;
  std::unique_ptr<std::atomic<std::uint32_t>[]> unfinished_;  // [splits_]
  std::size_t unfinished_size_ = 0;
};

}  // namespace spillway::gpu::host
