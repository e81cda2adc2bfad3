// SPDX-License-Identifier: Apache-2.0

// Attention of sparsified sequences: over slots under a mask, with the probabilities kept until the row's maximum and
// total are final, then added to the slots' scores. Part of attention_kernels.inl, see there.

#pragma once

namespace spillway::gpu::host {
namespace {

/// One head's positions and scores, block by block.
class SlotFields {
 public:
  SlotFields(const KvLayout& layout, std::byte* pool, const BlockId* blocks)
      : layout_(layout), pool_(pool), blocks_(blocks) {}

  /// Positions of slots [first, first + 256), holes from `end` on.
  SPW_INLINE void read_positions(std::uint32_t first, std::uint32_t end, float* out) const {
    const std::uint32_t size = layout_.block_size;
    std::uint32_t i = 0;
    if (size % 16 == 0) {
      for (; i < kPartitionSlots && first + i + 16 <= end; i += 16)
        store16(out + i, load16(fields(first + i) + (first + i) % size));
    }
    for (; i < kPartitionSlots; ++i) out[i] = first + i < end ? fields(first + i)[(first + i) % size] : kHole;
  }
  /// Asks for the positions and scores of slots [first, first + 256), as far as there are.
  SPW_INLINE void prefetch(std::uint32_t first, std::uint32_t end) const {
    const std::uint32_t size = layout_.block_size;
    if (end > first + kPartitionSlots) end = first + kPartitionSlots;
    for (std::uint32_t slot = first / size * size; slot < end; slot += size) {
      const float* at = fields(slot);
      for (std::uint32_t i = 0; i < 2 * size; i += 16) __builtin_prefetch(at + i);
    }
  }
  /// Adds to the scores of slots [first, first + n), or replaces them by, the sum of `rows` weights times the rows'
  /// factors; weights: [rows][kPartitionSlots]. `out` receives the scores.
  SPW_INLINE void pay(std::uint32_t first, std::uint32_t n, const float* weights, const float* factors,
                      std::uint32_t rows, ScoreUpdate update, float* out) const {
    const std::uint32_t size = layout_.block_size, whole = size % 16 == 0 ? n / 16 * 16 : 0;
    const auto sum_at = [&](std::uint32_t i) {
      V16 sum = zero16();
      for (std::uint32_t row = 0; row < rows; ++row)
        sum = fma16(load16(weights + row * kPartitionSlots + i), set16(factors[row]), sum);
      return sum;
    };
    for (std::uint32_t i = 0; i < whole; i += 16) {
      float* scores = fields(first + i) + size + (first + i) % size;
      V16 sum = sum_at(i);
      if (update == ScoreUpdate::kAdd) sum = add16(sum, load16(scores));
      store16(scores, sum);
      store16(out + i, sum);
    }
    if (whole == n) return;
    for (std::uint32_t i = whole; i < n; i += 16) store16(out + i, sum_at(i));
    for (std::uint32_t i = whole; i < n; ++i) {
      float* score = fields(first + i) + size + (first + i) % size;
      if (update == ScoreUpdate::kAdd) out[i] += *score;
      *score = out[i];
    }
  }
  /// scores += added (or = added) for slots [first, first + n); `added` then holds the scores.
  SPW_INLINE void update_scores(std::uint32_t first, std::uint32_t n, float* added, ScoreUpdate update) const {
    const std::uint32_t size = layout_.block_size;
    for (std::uint32_t i = 0; i < n; i += size) {
      float* scores = fields(first + i) + size;
      const std::uint32_t count = n - i < size ? n - i : size;
      if (update == ScoreUpdate::kAdd) {
        for (std::uint32_t j = 0; j < count; ++j) added[i + j] += scores[j];
      }
      __builtin_memcpy(scores, added + i, count * sizeof(float));
    }
  }
  SPW_INLINE void read_scores(std::uint32_t first, std::uint32_t n, float* out) const {
    const std::uint32_t size = layout_.block_size;
    for (std::uint32_t i = 0; i < n; i += size)
      __builtin_memcpy(out + i, fields(first + i) + size, (n - i < size ? n - i : size) * sizeof(float));
  }

 private:
  [[nodiscard]] SPW_INLINE float* fields(std::uint32_t slot) const {
    const auto block = static_cast<std::size_t>(blocks_[slot / layout_.block_size]);
    return reinterpret_cast<float*>(pool_ + block * layout_.block_bytes);
  }
  const KvLayout& layout_;
  std::byte* pool_;
  const BlockId* blocks_;
};

/// As soften(), over the slots whose position is at least `first_position`.
SPW_INLINE void soften_slots(float* scores, const float* positions, float first_position, std::uint32_t groups,
                             float* maximum, float* total) {
  const V16 limit = set16(first_position), minus_infinity = set16(kMinusInfinity);
  V16 top = minus_infinity;
  for (std::uint32_t g = 0; g < groups; ++g)
    top = max16(top, select_ge16(load16(positions + g * 16), limit, load16(scores + g * 16), minus_infinity));
  const float m = max_lanes(top);
  const V16 reference = set16(m == kMinusInfinity ? 0.0f : m);
  V16 sum = zero16();
  for (std::uint32_t g = 0; g < groups; ++g) {
    const V16 p = exp2_nonpositive16(min16(sub16(load16(scores + g * 16), reference), zero16()));
    const V16 kept = select_ge16(load16(positions + g * 16), limit, p, zero16());
    store16(scores + g * 16, kept);
    sum = add16(sum, kept);
  }
  *maximum = m;
  *total = sum_lanes(sum);
}

/// A block of rows within one partition: probabilities relative to the partition's maximum.
struct SlotRows {
  float* weights;  // [rows][weights_stride], at this partition; null: not kept
  std::size_t weights_stride;
  float* maximum;  // [rows]
  float* total;
};

SPW_INLINE void keep_weights(const SlotRows& rows, std::uint32_t row, const float* p, std::uint32_t groups) {
  if (rows.weights == nullptr) return;
  for (std::uint32_t g = 0; g < groups; ++g)
    store16(rows.weights + row * rows.weights_stride + g * 16, load16(p + g * 16));
}

/// Scores of the sinks, which see another query, in place of those in `scores`.
template <KvDType T, int RB>
void score_sinks(const SlotTask& task, const Partition& partition, const float* positions, const float* sink_q,
                 float* scores) {
  const V16 limit = set16(task.sinks);
  float own[RB * kPartitionSlots];
  const auto groups = (static_cast<std::uint32_t>(task.sinks) + 15) / 16;
  score_rows<T, RB>(sink_q, task.layout->head_dim, partition.keys, partition.key_stride, 0, groups, own, nullptr);
  for (std::uint32_t r = 0; r < RB; ++r) {
    for (std::uint32_t at = r * kPartitionSlots, g = 0; g < groups; ++g)
      store16(scores + at + g * 16, select_ge16(load16(positions + g * 16), limit, load16(scores + at + g * 16),
                                                load16(own + at + g * 16)));
  }
}

/// sink_q: the rows' queries for sinks, packed as q; null where the partition has none. `weights` [RB][kPartitionSlots]
/// receives the probabilities relative to the partition's maximum, `part` [RB][padded_dim] their sums with the values.
template <KvDType T, int RB>
void attend_slot_rows(const SlotTask& task, const Partition& partition, const float* positions, std::uint32_t slots,
                      const float* q, const float* sink_q, float* weights, float* part, float* maximum, float* total,
                      Stream* stream) {
  const KvLayout& layout = *task.layout;
  const std::uint32_t groups = (slots + 15) / 16;
  score_rows<T, RB>(q, layout.head_dim, partition.keys, partition.key_stride, 0, groups, weights, stream);
  if (sink_q != nullptr) score_sinks<T, RB>(task, partition, positions, sink_q, weights);
  for (std::uint32_t r = 0; r < RB; ++r)
    soften_slots(weights + r * kPartitionSlots, positions, task.first_position, groups, &maximum[r], &total[r]);
  constexpr int kHalf = RB > 6 ? RB / 2 : RB;
  for (int r = 0; r < RB; r += kHalf) {
    weigh_rows<T, kHalf>(weights + r * static_cast<int>(kPartitionSlots), partition.values, 0, slots,
                         layout.padded_dim, part + static_cast<std::uint32_t>(r) * layout.padded_dim, stream);
  }
}

template <KvDType T, int RB>
void score_prompt_rows(const PromptScoreTask& task, const Partition& partition, std::uint32_t index,
                       std::uint32_t first_row, const float* q, const ScratchView& scratch, const SlotRows& rows) {
  SlotRange ranges[RB];
  std::uint32_t last = 0;
  for (std::uint32_t r = 0; r < RB; ++r) {
    ranges[r] = attended(task.rows, first_row + r, index);
    if (ranges[r].end > last) last = ranges[r].end;
  }
  const std::uint32_t groups = (last + 15) / 16;
  if (groups > 0) {
    score_rows<T, RB>(q, task.rows.layout->head_dim, partition.keys, partition.key_stride, 0, groups, scratch.scores,
                      nullptr);
  }
  for (std::uint32_t r = 0; r < RB; ++r) {
    float* p = scratch.scores + r * kPartitionSlots;
    rows.maximum[r] = kMinusInfinity;
    rows.total[r] = 0;
    if (groups > 0) soften(p, ranges[r], 0, last, &rows.maximum[r], &rows.total[r]);
    if (ranges[r].begin == ranges[r].end) rows.maximum[r] = kMinusInfinity;
    keep_weights(rows, r, p, groups);
    for (std::uint32_t g = groups; g < kGroups; ++g)
      store16(rows.weights + r * rows.weights_stride + g * 16, zero16());
  }
}

/// Calls f with the number of rows as a constant: those that block_rows() gives.
template <class F>
SPW_INLINE void with_rows(std::uint32_t count, F&& f) {
  if constexpr (SPW_VEC_TARGET > 0) {
    if (count == 12) return f(std::integral_constant<int, 12>{});
    if (count == 8) return f(std::integral_constant<int, 8>{});
    if (count == 6) return f(std::integral_constant<int, 6>{});
  }
  if (count == 4) return f(std::integral_constant<int, 4>{});
  if (count == 3) return f(std::integral_constant<int, 3>{});
  if (count == 2) return f(std::integral_constant<int, 2>{});
  return f(std::integral_constant<int, 1>{});
}


/// 2^(partition's maximum - the row's) / the row's total: what makes a kept weight a probability.
SPW_INLINE float weight_factor(float partition_maximum, float maximum, float total) {
  if (partition_maximum == kMinusInfinity) return 0;
  float powers[16];
  store16(powers, exp2_16(set16(partition_maximum - maximum)));
  return powers[0] / total;
}

/// The whole span as if it were a prefix: what the functions that read keys and values want.
SPW_INLINE AttentionTask span_of(const SlotTask& task) {
  AttentionTask reads;
  reads.layout = task.layout;
  reads.k_pool = task.k_pool;
  reads.v_pool = task.v_pool;
  reads.blocks = task.blocks;
  reads.q = task.q;
  reads.out = task.out;
  reads.group = task.group;
  reads.tokens = 1;
  reads.first_position = task.span - 1;
  reads.partition_begin = task.partition_begin;
  reads.partition_end = task.partition_end;
  return reads;
}

SPW_INLINE std::uint32_t slots_in(const SlotTask& task, std::uint32_t partition) {
  const std::uint32_t left = task.span - partition * kPartitionSlots;
  return left < kPartitionSlots ? left : kPartitionSlots;
}

/// Where a partition's probabilities are kept, [group][kPartitionSlots], and the maxima they are relative to, [group].
SPW_INLINE float* weights_of(const SlotTask& task, std::uint32_t partition) {
  return task.weights + std::size_t{partition} * task.group * kPartitionSlots;
}
SPW_INLINE float* maxima_of(const SlotTask& task, std::uint32_t partition) {
  const std::uint32_t partitions = (task.span + kPartitionSlots - 1) / kPartitionSlots;
  return weights_of(task, partitions) + std::size_t{partition} * task.group;
}

/// Writes `out` from the rows' final states, and adds what they paid to the scores.
SPW_INLINE void finish_states(const SlotTask& task, const float* states) {
  const std::uint32_t padded = task.layout->padded_dim;
  finish_rows(span_of(task), states);
  if (task.update == ScoreUpdate::kNone) return;
  const SlotFields fields(*task.layout, task.positions_pool, task.blocks);
  for (std::uint32_t index = 0; index * kPartitionSlots < task.span; ++index) {
    float* factors = maxima_of(task, index);
    for (std::uint32_t row = 0; row < task.group; ++row) {
      const float* state = states + row * (padded + 2);
      factors[row] = weight_factor(factors[row], state[padded], state[padded + 1]);
    }
    const std::uint32_t base = index * kPartitionSlots;
    fields.pay(base, slots_in(task, index), weights_of(task, index), factors, task.group, task.update,
               task.scores + base);
  }
}

void finish_slots(const SlotTask& task, const ScratchView& scratch) {
  const std::uint32_t padded = task.layout->padded_dim;
  for (std::uint32_t row = 0; row < task.group; ++row) {
    float* state = scratch.sums + row * (padded + 2);
    clear_state(state, padded);
    for (std::uint32_t index = 0; index * kPartitionSlots < task.span; ++index) {
      const float* part = task.partial + (std::size_t{index} * task.group + row) * (padded + 2);
      merge_part(state, part, part[padded], part[padded + 1], padded);
    }
  }
  finish_states(task, scratch.sums);
}

template <KvDType T>
void attend_slots(const SlotTask& task, const ScratchView& scratch) {
  const KvLayout& layout = *task.layout;
  const std::uint32_t rows = task.group, padded = layout.padded_dim, begin = task.partition_begin;
  AttentionTask reads = span_of(task);
  const bool widened = (T != KvDType::kF32 && rows >= kWidenRows) || layout.block_size < 16;
  pack_queries(reads, scratch.packed_q);
  const bool sinks = task.sink_q != nullptr && begin == 0;
  if (sinks) {
    AttentionTask turned = reads;
    turned.q = task.sink_q;
    pack_queries(turned, task.packed_sink_q);
  }
  reads.partial = task.partial;
  reads.partition_begin = 0;  // `partial` holds all partitions
  for (std::uint32_t row = 0; row < rows; ++row) clear_state(scratch.sums + row * (padded + 2), padded);
  const bool keeps = task.update != ScoreUpdate::kNone;
  const SlotFields fields(layout, task.positions_pool, task.blocks);
  fields.prefetch(begin * kPartitionSlots, task.span);
  Stream stream;
  push_chunks(reads, begin, task.k_pool, layout.k_chunk_bytes, stream);
  for (std::size_t i = 0; i < kAheadBursts; ++i) stream.burst();
  for (std::uint32_t index = begin; index < task.partition_end; ++index) {
    stream.compact();
    push_chunks(reads, index, task.v_pool, layout.v_chunk_bytes, stream);
    if (index + 1 < task.partition_end) {
      push_chunks(reads, index + 1, task.k_pool, layout.k_chunk_bytes, stream);
      fields.prefetch((index + 1) * kPartitionSlots, task.span);
    } else if (task.next != nullptr) {
      const SlotTask& next = *task.next;
      push_chunks(span_of(next), next.partition_begin, next.k_pool, layout.k_chunk_bytes, stream);
      SlotFields(layout, next.positions_pool, next.blocks).prefetch(next.partition_begin * kPartitionSlots, next.span);
    }
    const std::uint32_t slots = slots_in(task, index);
    float* positions = task.positions + index * kPartitionSlots;
    fields.read_positions(index * kPartitionSlots, task.span, positions);
    Partition partition;
    if (widened) {
      widen<T>(reads, index, 0, slots, scratch, &partition, stream);
    } else {
      locate<T>(reads, index, 0, (slots + 15) / 16, &partition);
    }
    const float* q = scratch.packed_q;
    const float* sink_q = index == 0 && sinks ? task.packed_sink_q : nullptr;
    for (std::uint32_t row = 0; row < rows;) {
      const std::uint32_t count = block_rows(rows - row);
      float maximum[kBlockRows], total[kBlockRows];
      float* weights = keeps ? weights_of(task, index) + row * kPartitionSlots : scratch.scores;
      with_rows(count, [&](auto n) {
        if (widened) {
          attend_slot_rows<KvDType::kF32, n>(task, partition, positions, slots, q, sink_q, weights, scratch.part,
                                             maximum, total, nullptr);
        } else {
          attend_slot_rows<T, n>(task, partition, positions, slots, q, sink_q, weights, scratch.part, maximum, total,
                                 row == 0 ? &stream : nullptr);
        }
      });
      for (std::uint32_t r = 0; r < count; ++r) {
        const float* part = scratch.part + r * padded;
        if (keeps) maxima_of(task, index)[row + r] = maximum[r];
        if (task.partial == nullptr) {
          merge_part(scratch.sums + (row + r) * (padded + 2), part, maximum[r], total[r], padded);
          continue;
        }
        store_part(reads, index, row + r, part, maximum[r], total[r]);
      }
      q += count * layout.head_dim;
      if (sink_q != nullptr) sink_q += count * layout.head_dim;
      row += count;
    }
  }
  if (task.partial == nullptr) finish_states(task, scratch.sums);
}

/// Rows [row, row + count) of the task: their probabilities, then their sums into the scores.
template <KvDType T>
void score_prompt_block(const PromptScoreTask& task, std::uint32_t row, std::uint32_t count, const float* q,
                        const ScratchView& scratch) {
  const AttentionTask& reads = task.rows;
  const KvLayout& layout = *reads.layout;
  const std::uint32_t end = reads.first_position + (row + count - 1) / reads.group + 1;  // slots
  const std::uint32_t partitions = (end + kPartitionSlots - 1) / kPartitionSlots;
  const std::size_t stride = std::size_t{partitions} * kPartitionSlots;
  float* maxima = task.weights + kBlockRows * stride;      // [partition][kBlockRows]
  float* totals = maxima + std::size_t{partitions} * kBlockRows;
  Stream idle;
  for (std::uint32_t index = 0; index < partitions; ++index) {
    const std::uint32_t base = index * kPartitionSlots;
    const std::uint32_t slots = end - base < kPartitionSlots ? end - base : kPartitionSlots;
    Partition partition;
    if (layout.block_size < 16) {
      widen<T>(reads, index, 0, slots, scratch, &partition, idle);
    } else {
      locate<T>(reads, index, 0, (slots + 15) / 16, &partition);
    }
    const SlotRows kept = {task.weights + base, stride, maxima + index * kBlockRows, totals + index * kBlockRows};
    with_rows(count, [&](auto n) {
      if (layout.block_size < 16) {
        score_prompt_rows<KvDType::kF32, n>(task, partition, index, row, q, scratch, kept);
      } else {
        score_prompt_rows<T, n>(task, partition, index, row, q, scratch, kept);
      }
    });
  }
  float maximum[kBlockRows], total[kBlockRows];
  for (std::uint32_t r = 0; r < count; ++r) {
    maximum[r] = kMinusInfinity;
    for (std::uint32_t i = 0; i < partitions; ++i)
      maximum[r] = maxima[i * kBlockRows + r] > maximum[r] ? maxima[i * kBlockRows + r] : maximum[r];
    total[r] = 0;
    for (std::uint32_t i = 0; i < partitions; ++i)
      total[r] += totals[i * kBlockRows + r] * weight_factor(maxima[i * kBlockRows + r], maximum[r], 1);
  }
  const SlotFields fields(layout, task.positions_pool, reads.blocks);
  for (std::uint32_t index = 0; index < partitions; ++index) {
    const std::uint32_t base = index * kPartitionSlots;
    const std::uint32_t slots = end - base < kPartitionSlots ? end - base : kPartitionSlots;
    float sums[kPartitionSlots] = {};
    if (task.update == ScoreUpdate::kAdd) fields.read_scores(base, slots, sums);
    for (std::uint32_t r = 0; r < count; ++r) {
      const V16 factor = set16(weight_factor(maxima[index * kBlockRows + r], maximum[r], total[r]));
      const float* p = task.weights + r * stride + base;
      for (std::uint32_t g = 0; g < (slots + 15) / 16; ++g)
        store16(sums + g * 16, add16(load16(sums + g * 16), mul16(load16(p + g * 16), factor)));
    }
    fields.update_scores(base, slots, sums, ScoreUpdate::kReplace);
  }
}

template <KvDType T>
void score_prompt(const PromptScoreTask& task, const ScratchView& scratch) {
  const std::uint32_t rows = task.rows.tokens * task.rows.group;
  pack_queries(task.rows, scratch.packed_q);
  const float* q = scratch.packed_q;
  for (std::uint32_t row = 0; row < rows;) {
    const std::uint32_t count = block_rows(rows - row);
    score_prompt_block<T>(task, row, count, q, scratch);
    q += count * task.rows.layout->head_dim;
    row += count;
  }
}

template <class F>
SPW_INLINE void with_dtype(KvDType dtype, F&& f) {
  switch (dtype) {
    case KvDType::kF32:
      return f(std::integral_constant<KvDType, KvDType::kF32>{});
    case KvDType::kF16:
      return f(std::integral_constant<KvDType, KvDType::kF16>{});
    case KvDType::kBF16:
      return f(std::integral_constant<KvDType, KvDType::kBF16>{});
    case KvDType::kQ8_0:
      return f(std::integral_constant<KvDType, KvDType::kQ8_0>{});
  }
}

void attend_slots_any(const SlotTask& task, const ScratchView& scratch) {
  with_dtype(task.layout->dtype, [&](auto dtype) { attend_slots<dtype>(task, scratch); });
}

void score_prompt_any(const PromptScoreTask& task, const ScratchView& scratch) {
  with_dtype(task.rows.layout->dtype, [&](auto dtype) { score_prompt<dtype>(task, scratch); });
}

std::uint32_t lowest(const float* positions, const float* keys, std::uint32_t n, float first, float end) {
  const V16 low = set16(first), high = set16(end), infinity = set16(__builtin_inff());
  const auto key_of = [&](std::uint32_t i) {
    const V16 position = load16(positions + i);
    return select_ge16(position, high, infinity, select_ge16(position, low, load16(keys + i), infinity));
  };
  // Of each lane, the lowest key and its lowest position.
  V16 least = infinity, oldest = infinity;
  for (std::uint32_t i = 0; i < n; i += 16) {
    const V16 key = key_of(i), position = load16(positions + i);
    const V16 of_equals = select_ge16(least, key, min16(oldest, position), oldest);
    oldest = select_ge16(key, least, of_equals, position);
    least = min16(least, key);
  }
  const V16 minus_one = set16(-1.0f);
  const float key = -max_lanes(mul16(least, minus_one));
  if (key == __builtin_inff()) return n;
  oldest = select_ge16(set16(key), least, oldest, infinity);
  const float position = -max_lanes(mul16(oldest, minus_one));
  for (std::uint32_t i = 0; i < n; i += 16) {
    const V16 at = load16(positions + i);
    const unsigned same = mask_gt16(at, set16(position - 0.5f)) & ~mask_gt16(at, set16(position + 0.5f)) & 0xffff;
    if (same != 0) return i + static_cast<std::uint32_t>(__builtin_ctz(same));
  }
  return n;
}

}  // namespace
}  // namespace spillway::gpu::host
