// SPDX-License-Identifier: Apache-2.0

// The kernels of attention_kernels.hpp, compiled once per instruction set by the file that includes this.
// Built with -ffp-contract=off: where a product is fused into a sum it says so, or two tile shapes could
// round differently.

#include "gpu/host/attention_kernels.hpp"
#include "gpu/host/attention_rows.inl"
#include "gpu/host/attention_tiles.inl"
#include "gpu/host/kv_stored.inl"
#include "gpu/host/kv_write.inl"
#include "gpu/host/vec16.hpp"

namespace spillway::gpu::host {
namespace {

// ---- One partition for a block of up to kBlockRows rows.
// -------------------------------------------------------

/// A partition's keys and values, in the pool or widened in the scratch.
struct Partition {
  KeyGroup keys[kGroups];
  ValueGroup values[kGroups];
  std::uint32_t key_stride;  // elements from one dimension to the next
};

/// Attention of `rows` rows (first_row is the task's) within one partition: part, maximum and total per row.
/// A row that attends to nothing here gets maximum = -inf.
template <KvDType T, int RB>
void attend_rows(const AttentionTask& task, const Partition& partition, std::uint32_t index,
                 std::uint32_t first_row, const float* q, const ScratchView& scratch, float* maximum,
                 float* total, Stream* stream) {
  const KvLayout& layout = *task.layout;
  SlotRange ranges[RB];
  std::uint32_t first = kPartitionSlots, last = 0;
  for (std::uint32_t r = 0; r < RB; ++r) {
    ranges[r] = attended(task, first_row + r, index);
    if (ranges[r].begin == ranges[r].end) continue;
    if (ranges[r].begin < first) first = ranges[r].begin;
    if (ranges[r].end > last) last = ranges[r].end;
  }
  if (first >= last) {
    for (int r = 0; r < RB; ++r) maximum[r] = kMinusInfinity;
    return;
  }
  score_rows<T, RB>(q, layout.head_dim, partition.keys, partition.key_stride, first / 16, (last + 15) / 16,
                    scratch.scores, stream);
  for (std::uint32_t r = 0; r < RB; ++r) {
    soften(scratch.scores + r * kPartitionSlots, ranges[r], first, last, &maximum[r], &total[r]);
    if (ranges[r].begin == ranges[r].end) maximum[r] = kMinusInfinity;
  }
  constexpr int kHalf = RB > 6 ? RB / 2 : RB;
  for (int r = 0; r < RB; r += kHalf) {
    weigh_rows<T, kHalf>(scratch.scores + r * static_cast<int>(kPartitionSlots), partition.values, first,
                         last, layout.padded_dim,
                         scratch.part + static_cast<std::uint32_t>(r) * layout.padded_dim, stream);
  }
}

// ---- Reading a partition.
// ---------------------------------------------------------------------------------------

template <KvDType T>
void locate(const AttentionTask& task, std::uint32_t index, std::uint32_t group_begin,
            std::uint32_t group_end, Partition* partition) {
  const KvLayout& layout = *task.layout;
  partition->key_stride = layout.block_size;
  for (std::uint32_t g = group_begin; g < group_end; ++g) {
    const std::uint32_t position = index * kPartitionSlots + g * 16;
    const std::size_t block =
        static_cast<std::size_t>(task.blocks[position / layout.block_size]) * layout.block_bytes;
    const std::uint32_t lane = position % layout.block_size;
    const std::byte* k = task.k_pool + block;
    const std::byte* v = task.v_pool + block;
    partition->keys[g].data = k + lane * Stored<T>::kBytes;
    partition->keys[g].scales = reinterpret_cast<const std::uint16_t*>(k + layout.k_scale_offset) + lane;
    partition->values[g].data = v + std::size_t{lane} * layout.padded_dim * Stored<T>::kBytes;
    partition->values[g].scales =
        reinterpret_cast<const std::uint16_t*>(v + layout.v_scale_offset) + lane * (layout.padded_dim / 32);
  }
}

/// Widens slots [first, last) of the partition into the scratch. `half` of a group of 16 comes from each of
/// two blocks when a block holds 8 slots.
template <KvDType T>
void widen(const AttentionTask& task, std::uint32_t index, std::uint32_t first, std::uint32_t last,
           const ScratchView& scratch, Partition* partition, Stream& stream) {
  const KvLayout& layout = *task.layout;
  const std::uint32_t head_dim = layout.head_dim, padded = layout.padded_dim, size = layout.block_size;
  const std::uint32_t lanes = size < 16 ? size : 16;
  for (std::uint32_t slot = first / 16 * 16; slot < last; slot += lanes) {
    for (std::size_t b = 0; b < std::size_t{2} * lanes * padded * Stored<T>::kBytes; b += kBurstBytes)
      stream.burst();
    const std::uint32_t position = index * kPartitionSlots + slot;
    const std::size_t block = static_cast<std::size_t>(task.blocks[position / size]) * layout.block_bytes;
    const std::uint32_t lane = position % size;
    const std::byte* k = task.k_pool + block;
    const auto* k_scales = reinterpret_cast<const std::uint16_t*>(k + layout.k_scale_offset) + lane;
    float* key_out = scratch.keys + slot / 16 * 16 * head_dim + slot % 16;
    V16 scale = zero16();
    for (std::uint32_t d = 0; d < head_dim; ++d) {
      V16 key = Stored<T>::read(k + (std::size_t{d} * size + lane) * Stored<T>::kBytes);
      if constexpr (T == KvDType::kQ8_0) {
        if (d % 32 == 0) scale = load16_f16(k_scales + d / 32 * size);
        key = mul16(key, scale);
      }
      if (lanes == 16) {
        store16(key_out + d * 16, key);
      } else {
        float both[16];
        store16(both, key);
        for (std::uint32_t i = 0; i < lanes; ++i) key_out[d * 16 + i] = both[i];
      }
    }
    const std::byte* v = task.v_pool + block + std::size_t{lane} * padded * Stored<T>::kBytes;
    const auto* v_scales =
        reinterpret_cast<const std::uint16_t*>(task.v_pool + block + layout.v_scale_offset) +
        lane * (padded / 32);
    const std::uint32_t stop = last - slot < lanes ? last - slot : lanes;
    for (std::uint32_t i = 0; i < stop; ++i) {
      for (std::uint32_t d = 0; d < padded; d += 16) {
        V16 value = Stored<T>::read(v + (std::size_t{i} * padded + d) * Stored<T>::kBytes);
        if constexpr (T == KvDType::kQ8_0)
          value = mul16(value, set16(widen_scale(v_scales + i * (padded / 32) + d / 32)));
        store16(scratch.values + std::size_t{slot + i} * padded + d, value);
      }
    }
  }
  partition->key_stride = 16;
  for (std::uint32_t g = first / 16; g < (last + 15) / 16; ++g) {
    partition->keys[g] = {reinterpret_cast<const std::byte*>(scratch.keys + std::size_t{g} * 16 * head_dim),
                          nullptr};
    partition->values[g] = {reinterpret_cast<const std::byte*>(scratch.values + std::size_t{g} * 16 * padded),
                            nullptr};
  }
}

// ---- A task.
// ----------------------------------------------------------------------------------------------------

/// Row blocks: kBlockRows each, the rest in the largest sizes that fit.
SPW_INLINE std::uint32_t block_rows(std::uint32_t rows_left) {
  if (SPW_VEC_TARGET == 0) return rows_left >= 4 ? 4 : rows_left;
  if (rows_left >= 12) return 12;
  if (rows_left >= 8) return 8;
  if (rows_left >= 6) return 6;
  return rows_left >= 4 ? 4 : rows_left;
}

SPW_INLINE void pack_queries(const AttentionTask& task, float* packed) {
  const std::uint32_t rows = task.tokens * task.group, head_dim = task.layout->head_dim;
  for (std::uint32_t row = 0; row < rows;) {
    const std::uint32_t count = block_rows(rows - row);
    for (std::uint32_t r = 0; r < count; ++r) {
      const std::uint32_t index = row + r;
      const float* q = task.q + index / task.group * task.q_stride + index % task.group * head_dim;
      for (std::uint32_t d = 0; d < head_dim; ++d) packed[d * count + r] = q[d];
    }
    packed += count * head_dim;
    row += count;
  }
}

template <KvDType T>
void attend_block(const AttentionTask& task, const Partition& partition, std::uint32_t index,
                  std::uint32_t row, std::uint32_t count, const float* q, const ScratchView& scratch,
                  float* maximum, float* total, Stream* stream) {
  if constexpr (SPW_VEC_TARGET > 0) {
    if (count == 12)
      return attend_rows<T, 12>(task, partition, index, row, q, scratch, maximum, total, stream);
    if (count == 8) return attend_rows<T, 8>(task, partition, index, row, q, scratch, maximum, total, stream);
    if (count == 6) return attend_rows<T, 6>(task, partition, index, row, q, scratch, maximum, total, stream);
  }
  switch (count) {
    case 4:
      return attend_rows<T, 4>(task, partition, index, row, q, scratch, maximum, total, stream);
    case 3:
      return attend_rows<T, 3>(task, partition, index, row, q, scratch, maximum, total, stream);
    case 2:
      return attend_rows<T, 2>(task, partition, index, row, q, scratch, maximum, total, stream);
    default:
      return attend_rows<T, 1>(task, partition, index, row, q, scratch, maximum, total, stream);
  }
}

/// Rows from which widening a partition once pays for its stores.
constexpr std::uint32_t kWidenRows = 7;

/// Asks for the keys (or values) that a task reads in one partition.
SPW_INLINE void push_chunks(const AttentionTask& task, std::uint32_t index, const std::byte* pool,
                            std::size_t chunk_bytes, Stream& stream) {
  const std::uint32_t rows = task.tokens * task.group, size = task.layout->block_size;
  const std::uint32_t first = index * kPartitionSlots + attended(task, 0, index).begin;
  const std::uint32_t last = index * kPartitionSlots + attended(task, rows - 1, index).end;
  for (std::uint32_t position = first / size * size; position < last; position += size) {
    stream.push(pool + static_cast<std::size_t>(task.blocks[position / size]) * task.layout->block_bytes,
                chunk_bytes);
  }
}

template <KvDType T>
void attend(const AttentionTask& task, const ScratchView& scratch) {
  const KvLayout& layout = *task.layout;
  const std::uint32_t rows = task.tokens * task.group, padded = layout.padded_dim;
  const bool widened = T != KvDType::kF32 && rows >= kWidenRows;
  pack_queries(task, scratch.packed_q);
  if (task.partial == nullptr) {
    for (std::uint32_t row = 0; row < rows; ++row) clear_state(scratch.sums + row * (padded + 2), padded);
  }
  Stream stream;
  push_chunks(task, task.partition_begin, task.k_pool, layout.k_chunk_bytes, stream);
  for (std::size_t i = 0; i < kAheadBursts; ++i) stream.burst();
  for (std::uint32_t index = task.partition_begin; index < task.partition_end; ++index) {
    stream.compact();
    push_chunks(task, index, task.v_pool, layout.v_chunk_bytes, stream);
    if (index + 1 < task.partition_end) {
      push_chunks(task, index + 1, task.k_pool, layout.k_chunk_bytes, stream);
    } else if (task.next != nullptr) {
      push_chunks(*task.next, task.next->partition_begin, task.next->k_pool, layout.k_chunk_bytes, stream);
    }
    const SlotRange oldest = attended(task, 0, index), newest = attended(task, rows - 1, index);
    // The oldest row reaches back furthest; when it lies before this partition, a later row begins it.
    const std::uint32_t first = oldest.begin < oldest.end ? oldest.begin : 0, last = newest.end;
    Partition partition;
    if (widened || layout.block_size < 16) {
      widen<T>(task, index, first, last, scratch, &partition, stream);
    } else {
      locate<T>(task, index, first / 16, (last + 15) / 16, &partition);
    }
    const float* q = scratch.packed_q;
    for (std::uint32_t row = 0; row < rows;) {
      const std::uint32_t count = block_rows(rows - row);
      float maximum[kBlockRows], total[kBlockRows];
      if (widened || layout.block_size < 16) {
        attend_block<KvDType::kF32>(task, partition, index, row, count, q, scratch, maximum, total, nullptr);
      } else {
        attend_block<T>(task, partition, index, row, count, q, scratch, maximum, total,
                        row == 0 ? &stream : nullptr);
      }
      for (std::uint32_t r = 0; r < count; ++r) {
        const float* part = scratch.part + r * padded;
        if (task.partial == nullptr) {
          merge_part(scratch.sums + (row + r) * (padded + 2), part, maximum[r], total[r], padded);
          continue;
        }
        store_part(task, index, row + r, part, maximum[r], total[r]);
      }
      q += count * layout.head_dim;
      row += count;
    }
  }
  if (task.partial == nullptr) finish_rows(task, scratch.sums);
}

void attend_any(const AttentionTask& task, const ScratchView& scratch) {
  switch (task.layout->dtype) {
    case KvDType::kF32:
      return attend<KvDType::kF32>(task, scratch);
    case KvDType::kF16:
      return attend<KvDType::kF16>(task, scratch);
    case KvDType::kBF16:
      return attend<KvDType::kBF16>(task, scratch);
    case KvDType::kQ8_0:
      return attend<KvDType::kQ8_0>(task, scratch);
  }
}

void merge(const AttentionTask& task, const float* partials, const ScratchView& scratch) {
  const std::uint32_t rows = task.tokens * task.group, padded = task.layout->padded_dim;
  for (std::uint32_t row = 0; row < rows; ++row) {
    float* state = scratch.sums + row * (padded + 2);
    clear_state(state, padded);
    for (std::uint32_t i = 0; i < task.partition_end - task.partition_begin; ++i) {
      const float* part = partials + (std::size_t{i} * rows + row) * (padded + 2);
      merge_part(state, part, part[padded], part[padded + 1], padded);
    }
  }
  finish_rows(task, scratch.sums);
}

}  // namespace
}  // namespace spillway::gpu::host

#include "gpu/host/attention_slots.inl"

namespace spillway::gpu::host {
namespace {

void exp2_array(const float* x, float* out, std::size_t n) {
  for (std::size_t i = 0; i < n; i += 16) store16(out + i, exp2_16(load16(x + i)));
}
void exp_array(const float* x, float* out, std::size_t n) {
  for (std::size_t i = 0; i < n; i += 16) store16(out + i, exp_16(load16(x + i)));
}

constexpr AttentionKernels kKernels = {
    attend_any, attend_slots_any, finish_slots, score_prompt_any, lowest, merge, write_kv, exp2_array, exp_array};

}  // namespace
}  // namespace spillway::gpu::host
