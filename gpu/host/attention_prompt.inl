// SPDX-License-Identifier: Apache-2.0

// Attention of prompt tokens in bfloat16: scores and weighted values are products of tiles over panels made
// of a partition's keys and values. Queries and keys have kScoreParts halves, the second what rounding took
// off the first. Partitions and merge are those of attention_rows.inl, and a sum adds its blocks of 32 in
// order, so a row's result is the same in every batch here too. Included by the files that define
// kScoreParts, multiply_scores() and multiply_tiles().

#include "gpu/host/attention_rows.inl"
#include "gpu/host/kv_stored.inl"
#include "gpu/host/prompt_softmax.inl"

namespace spillway::gpu::host {
namespace {

/// 16 slots of keys in one block, or in two that hold 8 each.
template <KvDType T>
class KeySlots {
 public:
  KeySlots(const AttentionTask& task, std::uint32_t position, std::uint32_t end)
      : size_(task.layout->block_size), first_(chunk(task, position)), second_(first_) {
    if (size_ < 16 && position + size_ < end) second_ = chunk(task, position + size_);
    scales_offset_ = task.layout->k_scale_offset;
    lane_ = position % size_;
  }
  [[nodiscard]] SPW_INLINE V16 dimension(std::uint32_t d) const {
    const std::size_t offset = (std::size_t{d} * size_ + lane_) * Stored<T>::kBytes;
    return both(Stored<T>::read(first_ + offset), Stored<T>::read(second_ + offset));
  }
  [[nodiscard]] SPW_INLINE V16 scale(std::uint32_t d) const {
    const std::size_t offset = scales_offset_ + (std::size_t{d / 32} * size_ + lane_) * 2;
    return both(load16_f16(reinterpret_cast<const std::uint16_t*>(first_ + offset)),
                load16_f16(reinterpret_cast<const std::uint16_t*>(second_ + offset)));
  }

 private:
  static const std::byte* chunk(const AttentionTask& task, std::uint32_t position) {
    const auto block = static_cast<std::size_t>(task.blocks[position / task.layout->block_size]);
    return task.k_pool + block * task.layout->block_bytes;
  }
  [[nodiscard]] SPW_INLINE V16 both(V16 a, V16 b) const {
    return size_ < 16 ? V16{_mm512_insertf32x8(a.v, _mm512_castps512_ps256(b.v), 1)} : a;
  }
  std::uint32_t size_, lane_ = 0;
  std::size_t scales_offset_ = 0;
  const std::byte* first_;
  const std::byte* second_;
};

/// What rounding to bfloat16 takes off x.
SPW_INLINE __m512 rest_of(__m512 x) {
  const __m256bh rounded = _mm512_cvtneps_pbh(x);
  return _mm512_sub_ps(x,
                       _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)rounded), 16)));
}

/// 16 pairs (low, high), low first, their lower 16 bits dropped: with cut_off()'s in a second half nothing of
/// an fp16 is lost, and it takes a third of what rounding would.
SPW_INLINE __m512i pairs_cut(__m512 low, __m512 high) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  return _mm512_ternarylogic_epi32(_mm512_srli_epi32(_mm512_castps_si512(low), 16), _mm512_castps_si512(high),
                                   upper, 0xf8);  // a | (b & c)
}
SPW_INLINE __m512 cut_off(__m512 x) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  return _mm512_sub_ps(x, _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), upper)));
}

/// Bytes of a group of 16 keys in a panel: [kScoreParts][head_dim / 2][16 slots][2].
constexpr std::size_t key_group_bytes(std::uint32_t head_dim) {
  return kScoreParts * std::size_t{head_dim / 2} * kPanelLine;
}

/// Keys of slots [first, last): groups of 16 slots.
template <KvDType T>
void fill_keys(const AttentionTask& task, std::uint32_t index, std::uint32_t first, std::uint32_t last,
               std::byte* panel) {
  const std::uint32_t head_dim = task.layout->head_dim, base = index * kPartitionSlots;
  for (std::uint32_t slot = first / 16 * 16; slot < last; slot += 16) {
    const KeySlots<T> keys(task, base + slot, base + last);
    std::byte* out = panel + slot / 16 * key_group_bytes(head_dim);
    for (std::uint32_t d = 0; d < head_dim; d += 2, out += kPanelLine) {
      V16 even = keys.dimension(d), odd = keys.dimension(d + 1);
      if constexpr (T == KvDType::kQ8_0) {
        const V16 scale = keys.scale(d);
        even = mul16(even, scale), odd = mul16(odd, scale);
      }
      if constexpr (kScoreParts == 2) {
        _mm512_store_si512(out, pairs_cut(even.v, odd.v));
        _mm512_store_si512(out + key_group_bytes(head_dim) / 2, pairs_cut(cut_off(even.v), cut_off(odd.v)));
      } else {
        _mm512_store_si512(out, pairs_of(even.v, odd.v));
      }
    }
  }
}

/// A row of kScoreParts * head_dim.
void round_query(const float* q, std::uint32_t head_dim, std::byte* rounded) {
  round_row(q, head_dim, rounded);
  if constexpr (kScoreParts == 2) {
    for (std::uint32_t d = 0; d < head_dim; d += 32) {
      const __m512 low = rest_of(_mm512_loadu_ps(q + d)), high = rest_of(_mm512_loadu_ps(q + d + 16));
      _mm512_store_si512(rounded + 2 * (head_dim + d), (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
  }
}

constexpr std::size_t kValueGroupBytes = kPartitionSlots / 2 * kPanelLine;

/// Values of slots [first, last): groups of 16 dimensions, each [slots / 2][16 dimensions][2]. Whole blocks
/// of 32 slots are written; what lies outside the groups of 16 that hold an attended slot is zero, since zero
/// times a leftover could be NaN.
template <KvDType T>
void fill_values(const AttentionTask& task, std::uint32_t index, std::uint32_t first, std::uint32_t last,
                 std::byte* panel) {
  const KvLayout& layout = *task.layout;
  const std::uint32_t padded = layout.padded_dim, begin = first / 16 * 16;
  for (std::uint32_t slot = first / 32 * 32; slot < (last + 31) / 32 * 32; slot += 2) {
    std::byte* out = panel + std::size_t{slot / 2} * kPanelLine;
    if (slot < begin || slot >= last) {
      for (std::uint32_t d = 0; d < padded; d += 16, out += kValueGroupBytes)
        _mm512_store_si512(out, _mm512_setzero_si512());
      continue;
    }
    const std::uint32_t position = index * kPartitionSlots + slot, lane = position % layout.block_size;
    const std::byte* chunk =
        task.v_pool +
        static_cast<std::size_t>(task.blocks[position / layout.block_size]) * layout.block_bytes;
    const std::byte* v = chunk + std::size_t{lane} * padded * Stored<T>::kBytes;
    const auto* scales =
        reinterpret_cast<const std::uint16_t*>(chunk + layout.v_scale_offset) + lane * (padded / 32);
    for (std::uint32_t d = 0; d < padded; d += 16, out += kValueGroupBytes) {
      V16 even = Stored<T>::read(v + d * Stored<T>::kBytes);
      V16 odd =
          slot + 1 < last ? Stored<T>::read(v + (std::size_t{padded} + d) * Stored<T>::kBytes) : zero16();
      if constexpr (T == KvDType::kQ8_0) {
        even = mul16(even, set16(widen_scale(scales + d / 32)));
        odd = mul16(odd, set16(widen_scale(scales + padded / 32 + d / 32)));
      }
      _mm512_store_si512(out, pairs_of(even.v, odd.v));
    }
  }
}

/// Asks for the keys and values of a partition while another one is computed: they lie a block apart, where
/// no prefetcher of the processor's looks for them.
class PartitionAhead {
 public:
  /// The partition after `index`, or the first that the thread's next task attends to; spread over `rows`
  /// rows.
  PartitionAhead(const AttentionTask& task, std::uint32_t index, std::uint32_t rows) {
    if (index + 1 < task.partition_end) {
      start(task, index + 1, rows);
    } else if (task.next != nullptr) {
      start(*task.next, task.next->partition_begin, rows);
    }
  }
  /// One row's share.
  [[gnu::noinline]] void fetch() {
    for (std::uint32_t i = 0; i < lines_a_row_ && position_ < end_; ++i) {
      const auto block = static_cast<std::size_t>(task_->blocks[position_ / task_->layout->block_size]);
      const std::byte* pool = values_ ? task_->v_pool : task_->k_pool;
      __builtin_prefetch(pool + block * task_->layout->block_bytes + offset_, 0, 2);
      offset_ += 64;
      if (offset_ < (values_ ? task_->layout->v_chunk_bytes : task_->layout->k_chunk_bytes)) continue;
      offset_ = 0;
      if (values_) position_ += task_->layout->block_size;
      values_ = !values_;
    }
  }

 private:
  void start(const AttentionTask& task, std::uint32_t index, std::uint32_t rows) {
    const KvLayout& layout = *task.layout;
    task_ = &task;
    position_ = index * kPartitionSlots;
    end_ = task.first_position + task.tokens;
    if (end_ > position_ + kPartitionSlots) end_ = position_ + kPartitionSlots;
    if (end_ <= position_) return;
    const std::size_t lines = (layout.k_chunk_bytes + layout.v_chunk_bytes) / 64 *
                              ((end_ - position_ + layout.block_size - 1) / layout.block_size);
    lines_a_row_ = static_cast<std::uint32_t>((lines + rows - 1) / rows);
  }
  const AttentionTask* task_ = nullptr;
  std::uint32_t position_ = 0, end_ = 0, lines_a_row_ = 0;
  std::size_t offset_ = 0;
  bool values_ = false;
};

/// Up to kPromptBlockRows rows of a task on their way through a partition: scores, then probabilities in
/// their place, then the sums of weighted values in scratch.part.
struct RowBlock {
  std::uint32_t first_row, rows;
  std::uint32_t first, last;  // the slots that some row attends to; none: first >= last
  bool whole;                 // every row attends to the whole partition; if not, the ranges say
  SlotRange ranges[kPromptBlockRows];
  float* scores;                                // [rows] of kPromptScoreStride
  float* part;                                  // [rows][padded_dim]
  alignas(64) float maximum[kPromptBlockRows];  // -infinity: attends to nothing here
  alignas(64) float total[kPromptBlockRows];

  void start(const AttentionTask& task, std::uint32_t index, std::uint32_t row) {
    const std::uint32_t all = task.tokens * task.group;
    first_row = row;
    rows = all - row < kPromptBlockRows ? all - row : kPromptBlockRows;
    // The oldest row sees the least of what is new, the newest the least of what is old.
    const SlotRange oldest = attended(task, row, index), newest = attended(task, row + rows - 1, index);
    whole = oldest.end == kPartitionSlots && newest.begin == 0;
    first = whole ? 0 : kPartitionSlots;
    last = whole ? kPartitionSlots : 0;
    if (whole) return;
    for (std::uint32_t r = 0; r < rows; ++r) {
      ranges[r] = attended(task, first_row + r, index);
      maximum[r] = kMinusInfinity;
      if (ranges[r].begin == ranges[r].end) continue;
      if (ranges[r].begin < first) first = ranges[r].begin;
      if (ranges[r].end > last) last = ranges[r].end;
    }
  }
  [[nodiscard]] bool attends() const { return first < last; }
};

/// Softens a block's rows between the tile products of its neighbours.
class Softener {
 public:
  Softener(RowBlock* block, PartitionAhead& ahead) : block_(block), ahead_(ahead) {
    if (block == nullptr || !block->attends()) return;
    rows_ = block->rows;
    if (block->whole) in_halves_.begin(block->scores);
  }

  /// Half a row, if any is left; a whole one where rows do not attend to the whole partition.
  SPW_INLINE void operator()() {
    if (row_ == rows_) return;
    float* scores = block_->scores + row_ * kPromptScoreStride;
    float *maximum = &block_->maximum[row_], *total = &block_->total[row_];
    if (!block_->whole) {
      ahead_.fetch();
      return soften(scores);
    }
    const float* next = row_ + 1 < rows_ ? scores + kPromptScoreStride : block_->scores;
    if (!second_half_) {
      ahead_.fetch();
      in_halves_.soften<0>(scores, next, maximum, total);
    } else {
      in_halves_.soften<1>(scores, next, maximum, total);
      ++row_;
    }
    second_half_ = !second_half_;
  }
  void finish() {
    while (row_ < rows_) (*this)();
  }

 private:
  [[gnu::noinline]] void soften(float* scores) {
    soften_rounded(scores, block_->ranges[row_], block_->first / 32, (block_->last + 31) / 32,
                   &block_->maximum[row_], &block_->total[row_]);
    ++row_;
  }
  WholeRows in_halves_;
  RowBlock* block_;
  PartitionAhead& ahead_;
  std::uint32_t row_ = 0, rows_ = 0;
  bool second_half_ = false;
};

void score_block(const AttentionTask& task, const ScratchView& scratch, const RowBlock& block,
                 Softener& between) {
  const KvLayout& layout = *task.layout;
  const std::uint32_t g0 = block.first / 16, g1 = (block.last + 15) / 16;
  TileProduct scores;
  scores.a_row_bytes = kScoreParts * std::size_t{2} * layout.head_dim;
  scores.a = reinterpret_cast<const std::byte*>(scratch.packed_q) + block.first_row * scores.a_row_bytes;
  scores.rows = block.rows;
  scores.group_bytes = key_group_bytes(layout.head_dim);
  scores.panel = reinterpret_cast<const std::byte*>(scratch.keys) + g0 * scores.group_bytes;
  scores.groups = g1 - g0;
  scores.blocks = layout.head_dim / kBlockCols;
  scores.c = block.scores + g0 * 16;
  scores.c_stride = kPromptScoreStride;
  multiply_scores(scores, between);
}

void weigh_block(const AttentionTask& task, const ScratchView& scratch, const RowBlock& block,
                 Softener& between) {
  const KvLayout& layout = *task.layout;
  const std::uint32_t b0 = block.first / 32, b1 = (block.last + 31) / 32;
  TileProduct values;
  values.a_row_bytes = sizeof(float) * kPromptScoreStride;
  values.a = reinterpret_cast<const std::byte*>(block.scores) + b0 * kRowBlock;
  values.rows = block.rows;
  values.group_bytes = kValueGroupBytes;
  values.panel = reinterpret_cast<const std::byte*>(scratch.values) + b0 * kPanelBlock;
  values.groups = layout.padded_dim / 16;
  values.blocks = b1 - b0;
  values.c = block.part;
  values.c_stride = layout.padded_dim;
  multiply_tiles(values, between);
}

/// The running states of a task's rows, in scratch.sums: what merge_part keeps a row, in three arrays.
struct RowStates {
  float* sums;    // [rows][padded_dim]
  float* tops;    // [rows], whole vectors
  float* totals;  // likewise

  RowStates(float* memory, std::uint32_t rows, std::uint32_t padded_dim) {
    const std::size_t whole = (rows + std::size_t{15}) / 16 * 16;
    sums = memory;
    tops = memory + whole * padded_dim;
    totals = tops + whole;
    for (std::size_t i = 0; i < whole * padded_dim; i += 16) store16(sums + i, zero16());
    for (std::size_t i = 0; i < whole; i += 16) {
      store16(tops + i, set16(kMinusInfinity));
      store16(totals + i, zero16());
    }
  }
};

/// merge_part for 16 rows from `row` on, to the bit: only what is computed together differs. The results of
/// rows past the last are dropped.
void merge_rows(const RowStates& states, std::uint32_t row, std::uint32_t rows, const float* part,
                const float* maximum, const float* total, std::uint32_t padded) {
  const __m512 top = _mm512_loadu_ps(states.tops + row), sum = _mm512_loadu_ps(states.totals + row);
  const __m512 largest = _mm512_load_ps(maximum);
  const auto live = static_cast<__mmask16>(
      _mm512_cmp_ps_mask(largest, _mm512_set1_ps(kMinusInfinity), _CMP_NEQ_UQ) & ((1u << rows) - 1u));
  const __m512 new_top = _mm512_max_ps(largest, top);
  alignas(64) float old_weights[16], part_weights[16];
  const V16 old_weight = exp2_16({_mm512_sub_ps(top, new_top)});
  const V16 part_weight = exp2_16({_mm512_sub_ps(largest, new_top)});
  store16(old_weights, old_weight);
  store16(part_weights, part_weight);
  const V16 added = add16(mul16({sum}, old_weight), mul16({_mm512_load_ps(total)}, part_weight));
  _mm512_mask_storeu_ps(states.tops + row, live, new_top);
  _mm512_mask_storeu_ps(states.totals + row, live, added.v);
  for (std::uint32_t r = 0; r < rows; ++r, part += padded) {
    if ((live >> r & 1) == 0) continue;
    float* state = states.sums + std::size_t{row + r} * padded;
    const V16 a = set16(old_weights[r]), b = set16(part_weights[r]);
    for (std::uint32_t d = 0; d < padded; d += 16)
      store16(state + d, fma16(load16(part + d), b, mul16(load16(state + d), a)));
  }
}

void finish_rounded(const AttentionTask& task, const RowStates& states) {
  const std::uint32_t padded = task.layout->padded_dim, head_dim = task.layout->head_dim;
  for (std::uint32_t row = 0; row < task.tokens * task.group; ++row) {
    const float* state = states.sums + std::size_t{row} * padded;
    float* out = task.out + row / task.group * task.out_stride + row % task.group * head_dim;
    const V16 total = set16(states.totals[row]);
    for (std::uint32_t d = 0; d < head_dim; d += 16) store16(out + d, div16(load16(state + d), total));
  }
}

/// A block's results into the rows' states, or to whoever merges.
void merge_block(const AttentionTask& task, std::uint32_t index, const RowStates& states,
                 const RowBlock& block) {
  const std::uint32_t padded = task.layout->padded_dim;
  for (std::uint32_t r = 0; r < block.rows; r += 16) {
    const float* part = block.part + std::size_t{r} * padded;
    const std::uint32_t row = block.first_row + r, some = block.rows - r < 16 ? block.rows - r : 16;
    if (task.partial == nullptr) {
      merge_rows(states, row, some, part, block.maximum + r, block.total + r, padded);
      continue;
    }
    for (std::uint32_t j = 0; j < some; ++j)
      store_part(task, index, row + j, part + std::size_t{j} * padded, block.maximum[r + j],
                 block.total[r + j]);
  }
}

/// All rows through one partition, whose panels are filled: while a block's scores are computed the one
/// before it is softened, the one before that weighed, and the one before that merged.
void attend_partition(const AttentionTask& task, std::uint32_t index, const ScratchView& scratch,
                      const RowStates& states, PartitionAhead& ahead) {
  const std::uint32_t rows = task.tokens * task.group;
  const std::uint32_t count = (rows + kPromptBlockRows - 1) / kPromptBlockRows;
  constexpr std::uint32_t kBlocks = 4;
  RowBlock blocks[kBlocks];
  for (std::uint32_t b = 0; b < kBlocks; ++b) {
    blocks[b].part = scratch.part + b % 2 * std::size_t{kPromptBlockRows} * task.layout->padded_dim;
  }
  const auto block = [&](std::uint32_t i) { return i < count ? &blocks[i % kBlocks] : nullptr; };
  for (std::uint32_t i = 0; i < count + 3; ++i) {
    RowBlock *scored = block(i), *softened = block(i - 1), *weighed = block(i - 2), *merged = block(i - 3);
    Softener softener(softened, ahead);
    if (scored != nullptr) {
      scored->scores =
          scratch.scores + i % kPromptBlocks * std::size_t{kPromptBlockRows} * kPromptScoreStride;
      scored->start(task, index, i * kPromptBlockRows);
      if (scored->attends()) score_block(task, scratch, *scored, softener);
    }
    if (merged != nullptr) merge_block(task, index, states, *merged);
    if (weighed != nullptr && weighed->attends()) weigh_block(task, scratch, *weighed, softener);
    softener.finish();
    __asm__ volatile("" : : : "memory");  // tile loads and stores do not say what they read and write
  }
}

template <KvDType T>
void attend_rounded_as(const AttentionTask& task, const ScratchView& scratch) {
  const KvLayout& layout = *task.layout;
  const std::uint32_t rows = task.tokens * task.group;
  auto* q = reinterpret_cast<std::byte*>(scratch.packed_q);
  for (std::uint32_t row = 0; row < rows; ++row) {
    round_query(task.q + row / task.group * task.q_stride + row % task.group * layout.head_dim,
                layout.head_dim, q + row * kScoreParts * std::size_t{2} * layout.head_dim);
  }
  const RowStates states(scratch.sums, rows, layout.padded_dim);
  begin_tiles();
  for (std::uint32_t index = task.partition_begin; index < task.partition_end; ++index) {
    const SlotRange oldest = attended(task, 0, index), newest = attended(task, rows - 1, index);
    // The oldest row reaches back furthest; when it lies before this partition, a later row begins it.
    const std::uint32_t first = oldest.begin < oldest.end ? oldest.begin : 0, last = newest.end;
    fill_keys<T>(task, index, first, last, reinterpret_cast<std::byte*>(scratch.keys));
    fill_values<T>(task, index, first, last, reinterpret_cast<std::byte*>(scratch.values));
    PartitionAhead ahead(task, index, rows);
    attend_partition(task, index, scratch, states, ahead);
  }
  end_tiles();
  if (task.partial == nullptr) finish_rounded(task, states);
}

void attend_rounded(const AttentionTask& task, const ScratchView& scratch) {
  switch (task.layout->dtype) {
    case KvDType::kF32:
      return;  // see can_attend_rounded()
    case KvDType::kF16:
      return attend_rounded_as<KvDType::kF16>(task, scratch);
    case KvDType::kBF16:
      return attend_rounded_as<KvDType::kBF16>(task, scratch);
    case KvDType::kQ8_0:
      return attend_rounded_as<KvDType::kQ8_0>(task, scratch);
  }
}

}  // namespace
}  // namespace spillway::gpu::host
