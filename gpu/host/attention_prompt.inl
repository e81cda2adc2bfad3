// SPDX-License-Identifier: Apache-2.0

// Attention of prompt tokens in bfloat16: scores and weighted values are products of tiles over panels made of
// a partition's keys and values. Partitions, softmax and merge are those of attention_rows.inl, and a sum adds
// its blocks of 32 in order, so a row's result is the same in every batch here too. Included by the files that
// define multiply_tiles().

#include "gpu/host/attention_rows.inl"
#include "gpu/host/kv_stored.inl"

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

/// Keys of slots [first, last): groups of 16 slots, each [head_dim / 2][16 slots][2].
template <KvDType T>
void fill_keys(const AttentionTask& task, std::uint32_t index, std::uint32_t first, std::uint32_t last,
               std::byte* panel) {
  const std::uint32_t head_dim = task.layout->head_dim, base = index * kPartitionSlots;
  for (std::uint32_t slot = first / 16 * 16; slot < last; slot += 16) {
    const KeySlots<T> keys(task, base + slot, base + last);
    std::byte* out = panel + std::size_t{slot / 16} * (head_dim / 2) * kPanelLine;
    for (std::uint32_t d = 0; d < head_dim; d += 2, out += kPanelLine) {
      V16 even = keys.dimension(d), odd = keys.dimension(d + 1);
      if constexpr (T == KvDType::kQ8_0) {
        const V16 scale = keys.scale(d);
        even = mul16(even, scale), odd = mul16(odd, scale);
      }
      _mm512_store_si512(out, pairs_of(even.v, odd.v));
    }
  }
}

constexpr std::size_t kValueGroupBytes = kPartitionSlots / 2 * kPanelLine;

/// Values of slots [first, last): groups of 16 dimensions, each [slots / 2][16 dimensions][2]. Whole blocks of
/// 32 slots are written; what lies outside the groups of 16 that hold an attended slot is zero, since zero
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
        task.v_pool + static_cast<std::size_t>(task.blocks[position / layout.block_size]) * layout.block_bytes;
    const std::byte* v = chunk + std::size_t{lane} * padded * Stored<T>::kBytes;
    const auto* scales =
        reinterpret_cast<const std::uint16_t*>(chunk + layout.v_scale_offset) + lane * (padded / 32);
    for (std::uint32_t d = 0; d < padded; d += 16, out += kValueGroupBytes) {
      V16 even = Stored<T>::read(v + d * Stored<T>::kBytes);
      V16 odd = slot + 1 < last ? Stored<T>::read(v + (std::size_t{padded} + d) * Stored<T>::kBytes) : zero16();
      if constexpr (T == KvDType::kQ8_0) {
        even = mul16(even, set16(widen_scale(scales + d / 32)));
        odd = mul16(odd, set16(widen_scale(scales + padded / 32 + d / 32)));
      }
      _mm512_store_si512(out, pairs_of(even.v, odd.v));
    }
  }
}

/// The rows' results of one partition, up to kPromptBlockRows of them from `first_row` of the task.
struct BlockResult {
  float maximum[kPromptBlockRows];
  float total[kPromptBlockRows];
};

void attend_rounded_rows(const AttentionTask& task, std::uint32_t index, std::uint32_t first_row,
                         std::uint32_t rows, const ScratchView& scratch, BlockResult* result) {
  const KvLayout& layout = *task.layout;
  SlotRange ranges[kPromptBlockRows];
  std::uint32_t first = kPartitionSlots, last = 0;
  for (std::uint32_t r = 0; r < rows; ++r) {
    ranges[r] = attended(task, first_row + r, index);
    result->maximum[r] = kMinusInfinity;
    if (ranges[r].begin == ranges[r].end) continue;
    if (ranges[r].begin < first) first = ranges[r].begin;
    if (ranges[r].end > last) last = ranges[r].end;
  }
  if (first >= last) return;
  const std::uint32_t g0 = first / 16, g1 = (last + 15) / 16;
  TileProduct scores;
  scores.a_row_bytes = std::size_t{2} * layout.head_dim;
  scores.a = reinterpret_cast<const std::byte*>(scratch.packed_q) + first_row * scores.a_row_bytes;
  scores.rows = rows;
  scores.group_bytes = std::size_t{layout.head_dim / 2} * kPanelLine;
  scores.panel = reinterpret_cast<const std::byte*>(scratch.keys) + g0 * scores.group_bytes;
  scores.groups = g1 - g0;
  scores.blocks = layout.head_dim / kBlockCols;
  scores.c = scratch.scores + g0 * 16;
  scores.c_stride = kPartitionSlots;
  multiply_tiles(scores);

  constexpr std::size_t kRowBytes = 2 * kPartitionSlots;
  const std::uint32_t b0 = first / 32, b1 = (last + 31) / 32;
  for (std::uint32_t r = 0; r < rows; ++r) {
    float* row = scratch.scores + r * kPartitionSlots;
    float maximum;
    soften(row, ranges[r], first, last, &maximum, &result->total[r]);
    if (ranges[r].begin != ranges[r].end) result->maximum[r] = maximum;
    if (g0 % 2 != 0) store16(row + (g0 - 1) * 16, zero16());
    if (g1 % 2 != 0) store16(row + g1 * 16, zero16());
    std::byte* out = scratch.probabilities + r * kRowBytes;
    for (std::uint32_t b = b0; b < b1; ++b) _mm512_store_si512(out + b * kRowBlock, rounded32(row + b * 32));
  }

  TileProduct values;
  values.a_row_bytes = kRowBytes;
  values.a = scratch.probabilities + b0 * kRowBlock;
  values.rows = rows;
  values.group_bytes = kValueGroupBytes;
  values.panel = reinterpret_cast<const std::byte*>(scratch.values) + b0 * kPanelBlock;
  values.groups = layout.padded_dim / 16;
  values.blocks = b1 - b0;
  values.c = scratch.part;
  values.c_stride = layout.padded_dim;
  multiply_tiles(values);
}

template <KvDType T>
void attend_rounded_as(const AttentionTask& task, const ScratchView& scratch) {
  const KvLayout& layout = *task.layout;
  const std::uint32_t rows = task.tokens * task.group, padded = layout.padded_dim;
  auto* q = reinterpret_cast<std::byte*>(scratch.packed_q);
  for (std::uint32_t row = 0; row < rows; ++row) {
    round_row(task.q + row / task.group * task.q_stride + row % task.group * layout.head_dim, layout.head_dim,
              q + row * std::size_t{2} * layout.head_dim);
    if (task.partial == nullptr) clear_state(scratch.sums + row * (padded + 2), padded);
  }
  begin_tiles();
  for (std::uint32_t index = task.partition_begin; index < task.partition_end; ++index) {
    const SlotRange oldest = attended(task, 0, index), newest = attended(task, rows - 1, index);
    // The oldest row reaches back furthest; when it lies before this partition, a later row begins it.
    const std::uint32_t first = oldest.begin < oldest.end ? oldest.begin : 0, last = newest.end;
    fill_keys<T>(task, index, first, last, reinterpret_cast<std::byte*>(scratch.keys));
    fill_values<T>(task, index, first, last, reinterpret_cast<std::byte*>(scratch.values));
    for (std::uint32_t row = 0; row < rows; row += kPromptBlockRows) {
      const std::uint32_t count = rows - row < kPromptBlockRows ? rows - row : kPromptBlockRows;
      BlockResult result;
      attend_rounded_rows(task, index, row, count, scratch, &result);
      for (std::uint32_t r = 0; r < count; ++r) {
        const float* part = scratch.part + r * padded;
        if (task.partial == nullptr) {
          merge_part(scratch.sums + (row + r) * (padded + 2), part, result.maximum[r], result.total[r], padded);
          continue;
        }
        store_part(task, index, row + r, part, result.maximum[r], result.total[r]);
      }
    }
  }
  end_tiles();
  if (task.partial == nullptr) finish_rows(task, scratch.sums);
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
