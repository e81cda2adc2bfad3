// SPDX-License-Identifier: Apache-2.0
#pragma once

// SparseSlots: the sparsified sequences of one step, on the host (gpu/sparse_step.hpp says what they do).
// Each KV head of each layer is on its own: it finds its own slot for a new token, keeps its own scores and
// chooses its own victims, unless the granularity joins heads. All per-token state is in the blocks; between
// steps nothing is kept here.
//
// One thread calls clear(), add() and place_last_rows(); the members of the team call the rest.

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "gpu/host/attention_kernels.hpp"
#include "gpu/host/thread_team.hpp"
#include "gpu/step_plan.hpp"

namespace spillway::gpu::host {

/// A slot in memory.
struct SlotPlace {
  std::byte* block = nullptr;
  std::uint32_t lane = 0;  // within the block
};

class SparseSlots {
 public:
  SparseSlots() = default;
  /// `group`: query heads a KV head; `window`: as AttentionTask's. The layout and the kernels outlive this.
  SparseSlots(const KvLayout& layout, const AttentionKernels& kernels, std::uint32_t group,
              std::uint32_t window, std::uint32_t threads, std::uint32_t max_rows,
              std::uint32_t max_model_len);

  void clear() noexcept { sequences_.clear(); }
  /// Takes in plan.sequences[index]; returns its number here. The plan outlives the step.
  std::uint32_t add(const StepPlan& plan, std::uint32_t index);
  /// Where the last layer's outputs go: those that sample in their order, as everywhere; behind them the
  /// others. Called once all are added.
  void place_last_rows(const StepPlan& plan);
  [[nodiscard]] bool empty() const noexcept { return sequences_.empty(); }
  /// Attends by attend() here, not as a prompt's tokens do.
  [[nodiscard]] bool attends(std::uint32_t sequence) const noexcept {
    return sequence != SequenceStep::kExact && !sequences_[sequence].in_prompt;
  }

  /// The slot of a head that the token at `position` takes: entered there with a score of 0.
  [[nodiscard]] SlotPlace take_slot(std::byte* pool, std::uint32_t sequence, std::uint32_t position,
                                    std::uint32_t layer, std::uint32_t kv_head) const;

  /// The place that the token has among the live ones, which is its position for sinks when positions count
  /// those. Requires attends(sequence).
  [[nodiscard]] std::uint32_t cache_position(std::uint32_t sequence) const noexcept {
    return sequences_[sequence].step->live + sequences_[sequence].step->evict - 1;
  }
  /// Sinks see its query at cache_position().
  [[nodiscard]] bool rotates(std::uint32_t sequence) const noexcept {
    return attends(sequence) && sequences_[sequence].step->params.rotate_to_cache;
  }

  /// What attend() reads and writes: rows of the step's tokens.
  struct Rows {
    const float* q = nullptr;  // [rows][heads * head_dim], rotated and scaled
    std::size_t q_stride = 0;
    const float* sink_q = nullptr;  // [rows][heads * head_dim]: the same, rotated for sinks
    float* out = nullptr;           // [rows][heads * head_dim]
    std::size_t out_stride = 0;
  };
  /// One layer: generated tokens attend, and all tokens' attention enters the scores. Complete after the next
  /// barrier.
  void attend(TeamMember& member, std::byte* pool, std::uint32_t layer, const Rows& rows,
              const ScratchView& scratch);

  /// After the last layer's attention: chooses victims and packs.
  void evict(TeamMember& member, std::byte* pool);

  /// After evict(), one thread: see StepResult::emptied.
  void report_emptied(std::byte* pool, StepResult& result) const;

 private:
  struct Sequence {
    const SparseStep* step = nullptr;
    const BlockId* blocks = nullptr;
    const BlockId* copy_to = nullptr;
    std::uint32_t index = 0;  // into StepPlan::sequences
    std::uint32_t first_position = 0, tokens = 0;
    std::uint32_t row = 0;        // of its first token
    std::uint32_t last_row = 0;   // of its output in the last layer
    std::uint32_t table_row = 0;  // its RowId
    bool in_prompt = false;
  };
  /// One member's working memory.
  struct Scratch {
    std::vector<float> sink_q;             // as SlotTask wants it
    std::vector<float> weights;            // as SlotTask and PromptScoreTask want it
    std::vector<float> positions, scores;  // [span in whole groups of 16]
    std::vector<std::uint32_t> victims;
  };
  /// Some partitions of a head's span; all of them unless the head is split.
  struct Item {
    std::uint32_t sequence = 0, head = 0;
    std::uint32_t partition_begin = 0, partition_end = 0;
    std::uint32_t split = 0;  // 0: not split, else one more than its index
  };
  /// A head whose partitions are attended to by whoever is free.
  struct Split {
    Scratch scratch;
    std::vector<float> partials;               // as SlotTask wants them
    std::atomic<std::uint32_t> unfinished{0};  // items
  };

  /// Where few heads have to be shared out, those with long spans are split by partitions.
  void share_out();
  void size_scratch(Scratch& scratch, std::size_t rows, std::size_t partitions) const;
  void attend_item(const Item& item, const Item* next, std::byte* pool, std::uint32_t layer, const Rows& rows,
                   Scratch& scratch, const ScratchView& view);

  [[nodiscard]] float* fields(std::byte* pool, const Sequence& sequence, std::uint32_t slot,
                              std::uint32_t unit) const;
  [[nodiscard]] std::uint32_t units() const noexcept { return layout_->num_layers * layout_->num_kv_heads; }
  [[nodiscard]] SlotTask token_task(const Item& item, std::byte* pool, std::uint32_t layer, const Rows& rows,
                                    Scratch& scratch) const;
  /// The head chooses right after its attention; otherwise evict() does.
  [[nodiscard]] static bool evicts_at_once(const Sequence& sequence);
  void evict_at_once(const Sequence& sequence, std::byte* pool, std::uint32_t unit, Scratch& scratch);
  /// The slot that the head's only hole is in, if it has but one and that is remembered; UINT32_MAX: look for
  /// it.
  [[nodiscard]] std::uint32_t only_hole(const Sequence& sequence, std::uint32_t unit) const;
  void score_prompt(const Sequence& sequence, std::byte* pool, std::uint32_t layer, std::uint32_t head,
                    const float* q, std::size_t q_stride, Scratch& scratch, const ScratchView& view) const;
  /// Units [first, first + count), heads counted through all layers, decide together.
  void evict_together(const Sequence& sequence, std::byte* pool, std::uint32_t first, std::uint32_t count,
                      Scratch& scratch) const;
  void gather_keys(const Sequence& sequence, std::byte* pool, std::uint32_t first, std::uint32_t count,
                   Scratch& scratch) const;
  void choose(const Sequence& sequence, Scratch& scratch) const;

  const KvLayout* layout_ = nullptr;
  const AttentionKernels* kernels_ = nullptr;
  std::uint32_t group_ = 1;
  std::uint32_t window_ = 0;
  std::vector<Sequence> sequences_;
  std::vector<Item> items_;
  std::vector<Scratch> scratch_;  // [members]
  std::vector<std::unique_ptr<Split>> splits_;
  std::vector<std::uint32_t> last_victim_;  // [rows][units]: the slot of the last token evicted
};

}  // namespace spillway::gpu::host
