// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/attention.hpp"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "runtime/check.hpp"

namespace spillway::gpu::host {
namespace {

/// Prompt kernels take large tiles, but four for each thread (over the KV heads) if the span has them.
std::uint32_t tokens_per_task(const AttentionSpan& span, std::uint32_t group, std::uint32_t kv_heads,
                              std::uint32_t threads) {
  const std::uint32_t small = std::max<std::uint32_t>(1, kTaskRows / group);
  if (span.prompt == nullptr) return small;
  const std::uint32_t shared = (span.tokens * kv_heads + 4 * threads - 1) / (4 * threads);
  return std::clamp(shared, small, std::max(small, span.prompt->task_rows / group));
}

}  // namespace

const AttentionKernels& attention_kernels(CpuTarget target) noexcept {
  switch (target) {
    case CpuTarget::kScalar:
      return *attention_kernels_generic();
    case CpuTarget::kAvx2:
      return *attention_kernels_avx2();
    default:
      return *attention_kernels_avx512();
  }
}

const PromptKernels* prompt_kernels(CpuTarget target, ExecutionMode mode) noexcept {
  SPW_CHECK(target <= detect_cpu_target());
  if (target == CpuTarget::kAmx) return &kAmxPromptKernels;
  const bool rounds = target == CpuTarget::kAvx512Bf16 && mode == ExecutionMode::kPerformance;
  return rounds ? &kAvx512Bf16PromptKernels : nullptr;
}

AttentionScratch::AttentionScratch(const KvLayout& layout, std::uint32_t group) {
  const std::size_t rows = std::max<std::size_t>({kTaskRows, kPromptTaskRows, (group + 15) / 16 * 16});
  const auto whole_lines = [](std::size_t floats) { return (floats + 15) / 16 * 16; };
  const std::size_t keys = std::size_t{kPartitionSlots} * layout.head_dim;
  const std::size_t values = std::size_t{kPartitionSlots} * layout.padded_dim;
  const std::size_t packed = whole_lines(rows * layout.head_dim);
  const std::size_t scores = std::size_t{kPromptBlocks} * kPromptBlockRows * kPromptScoreStride;
  const std::size_t part = std::size_t{2} * kPromptBlockRows * layout.padded_dim;
  const std::size_t sums = whole_lines(rows * (layout.padded_dim + 2));
  // 16 more: a widened group of 8 slots, and vector loads at an end, stay inside.
  const std::size_t floats = keys + values + packed + scores + part + sums + 16;
  memory_.reset(static_cast<float*>(std::aligned_alloc(64, floats * sizeof(float))));
  if (memory_ == nullptr) throw std::bad_alloc();
  std::fill_n(memory_.get(), floats, 0.0f);
  view_.keys = memory_.get();
  view_.values = view_.keys + keys;
  view_.packed_q = view_.values + values;
  view_.scores = view_.packed_q + packed;
  view_.part = view_.scores + scores;
  view_.sums = view_.part + part;
}

void AttentionScratch::Free::operator()(float* p) const noexcept { std::free(p); }

void AttentionPlan::build(const std::vector<AttentionSpan>& spans, const KvLayout& layout,
                          const AttentionGeometry& geometry) {
  layout_ = &layout;
  geometry_ = geometry;
  group_ = geometry.num_heads / layout.num_kv_heads;
  spans_.assign(spans.begin(), spans.end());
  items_.clear();
  splits_.clear();
  for (std::uint32_t s = 0; s < spans_.size(); ++s) {
    const std::uint32_t tile = tokens_per_task(spans_[s], group_, layout.num_kv_heads, geometry.threads);
    for (std::uint32_t first = 0; first < spans_[s].tokens; first += tile) {
      Item item;
      item.span = s;
      item.first_token = first;
      item.tokens = std::min(tile, spans_[s].tokens - first);
      const std::uint32_t begin = spans_[s].first_position + first, end = begin + item.tokens;
      const std::uint32_t oldest =
          geometry.window != 0 && begin + 1 > geometry.window ? begin + 1 - geometry.window : 0;
      item.partition_begin = oldest / kPartitionSlots;
      item.partition_end = (end + kPartitionSlots - 1) / kPartitionSlots;
      // A slot costs its reads and, for each row, its products; a read is worth about two rows' products.
      item.cost = std::uint64_t{end - oldest} * (item.tokens * group_ + 2);
      for (item.kv_head = 0; item.kv_head < layout.num_kv_heads; ++item.kv_head) items_.push_back(item);
    }
  }
  const std::size_t whole = items_.size();
  if (geometry.threads > 1 && whole < std::size_t{4} * geometry.threads) {
    std::size_t partials = 0;
    for (std::size_t i = 0; i < whole; ++i) {
      Item item = items_[i];
      const std::uint32_t count = item.partition_end - item.partition_begin;
      if (count < 2) continue;
      splits_.push_back({item.partition_begin, item.partition_end, partials});
      partials += std::size_t{count} * item.tokens * group_ * (layout.padded_dim + 2);
      item.split = static_cast<std::uint32_t>(splits_.size());
      item.cost /= count;
      for (std::uint32_t p = splits_.back().partition_begin; p < splits_.back().partition_end; ++p) {
        item.partition_begin = p;
        item.partition_end = p + 1;
        if (p == splits_.back().partition_begin) {
          items_[i] = item;
        } else {
          items_.push_back(item);
        }
      }
    }
    if (partials_.size() < partials) partials_.resize(partials);
    if (unfinished_size_ < splits_.size()) {
      unfinished_size_ = splits_.size();
      unfinished_ = std::make_unique<std::atomic<std::uint32_t>[]>(unfinished_size_);
    }
    for (std::size_t i = 0; i < splits_.size(); ++i) {
      unfinished_[i].store(splits_[i].partition_end - splits_[i].partition_begin, std::memory_order_relaxed);
    }
  }
  std::stable_sort(items_.begin(), items_.end(),
                   [](const Item& a, const Item& b) { return a.cost > b.cost; });
  deal(geometry.threads);
}

// for_chunks gives each member a contiguous share: deal the items out, largest first, so that shares are
// alike and begin with their largest. Where there are enough, the KV heads of a tile stay together: their
// chunks lie side by side in every block, on the same memory pages.
void AttentionPlan::deal(std::uint32_t threads) {
  const std::size_t n = items_.size();
  if (threads < 2 || n < 2) return;
  const std::size_t heads = layout_->num_kv_heads;
  const std::size_t unit = splits_.empty() && n >= heads * threads * 4 ? heads : 1;
  dealt_.clear();
  for (std::uint32_t m = 0; m < threads; ++m) {
    for (std::size_t first = m * unit; first < n; first += threads * unit) {
      for (std::size_t i = first; i < std::min(n, first + unit); ++i) dealt_.push_back(items_[i]);
    }
  }
  items_.swap(dealt_);
}

AttentionTask AttentionPlan::task(const Item& item, const std::byte* pool, std::uint32_t layer,
                                  const float* q, std::size_t q_stride, float* out,
                                  std::size_t out_stride) const {
  const AttentionSpan& span = spans_[item.span];
  const std::size_t column = std::size_t{item.kv_head} * group_ * layout_->head_dim;
  AttentionTask t;
  t.layout = layout_;
  t.k_pool = pool + layout_->k_offset(layer, item.kv_head);
  t.v_pool = pool + layout_->v_offset(layer, item.kv_head);
  t.blocks = span.blocks;
  t.q = q + (span.q_row + item.first_token) * q_stride + column;
  t.q_stride = q_stride;
  t.out = out + (span.out_row + item.first_token) * out_stride + column;
  t.out_stride = out_stride;
  t.group = group_;
  t.first_position = span.first_position + item.first_token;
  t.tokens = item.tokens;
  t.window = geometry_.window;
  t.partition_begin = item.partition_begin;
  t.partition_end = item.partition_end;
  return t;
}

void AttentionPlan::run(TeamMember& member, const AttentionKernels& kernels, const std::byte* pool,
                        std::uint32_t layer, const float* q, std::size_t q_stride, float* out,
                        std::size_t out_stride, const ScratchView& scratch) {
  member.for_chunks(static_cast<std::uint32_t>(items_.size()), [&](std::uint32_t i) {
    const Item& item = items_[i];
    AttentionTask t = task(item, pool, layer, q, q_stride, out, out_stride);
    AttentionTask following;
    if (i + 1 < items_.size()) {
      following = task(items_[i + 1], pool, layer, q, q_stride, out, out_stride);
      t.next = &following;
    }
    const auto attend =
        spans_[item.span].prompt != nullptr ? spans_[item.span].prompt->attend : kernels.attend;
    if (item.split == 0) {
      attend(t, scratch);
      return;
    }
    const Split& split = splits_[item.split - 1];
    const std::size_t one = std::size_t{item.tokens} * group_ * (layout_->padded_dim + 2);
    float* partials = partials_.data() + split.partials;
    t.partial = partials + (item.partition_begin - split.partition_begin) * one;
    attend(t, scratch);
    const std::uint32_t count = split.partition_end - split.partition_begin;
    // acq_rel: the last one sees what the others wrote.
    std::atomic<std::uint32_t>& unfinished = unfinished_[item.split - 1];
    if (unfinished.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    unfinished.store(count, std::memory_order_relaxed);  // for the next layer
    t.partial = nullptr;
    t.partition_begin = split.partition_begin;
    t.partition_end = split.partition_end;
    kernels.merge(t, partials, scratch);
  });
}

}  // namespace spillway::gpu::host
