// SPDX-License-Identifier: Apache-2.0

// What attention does row by row, whatever computes its products: which slots a row attends to, the softmax
// within a partition, the merge of partitions. Compiled once per instruction set; see attention_kernels.inl.

#pragma once

#include "gpu/host/attention_kernels.hpp"
#include "gpu/host/vec16.hpp"

namespace spillway::gpu::host {
namespace {

constexpr std::uint32_t kGroups = kPartitionSlots / 16;
constexpr float kMinusInfinity = -__builtin_inff();

/// Which slots of a partition a row attends to.
struct SlotRange {
  std::uint32_t begin, end;
};

SPW_INLINE SlotRange attended(const AttentionTask& task, std::uint32_t row, std::uint32_t partition) {
  const std::uint32_t position = task.first_position + row / task.group;
  const std::uint32_t base = partition * kPartitionSlots;
  std::uint32_t end = position + 1 > base ? position + 1 - base : 0;
  if (end > kPartitionSlots) end = kPartitionSlots;
  std::uint32_t begin = 0;
  if (task.window != 0 && position + 1 > base + task.window) begin = position + 1 - base - task.window;
  if (begin > end) begin = end;
  return {begin, end};
}

/// Turns a row's scores into probabilities 2^(s - max); slots of [first, last) outside its range become 0.
SPW_INLINE void soften(float* scores, SlotRange range, std::uint32_t first, std::uint32_t last,
                       float* maximum, float* total) {
  const V16 minus_infinity = set16(kMinusInfinity);
  V16 top = minus_infinity;
  // Groups [g0, g1) hold attended slots, all of those in [whole_begin, whole_end) are.
  const std::uint32_t g0 = range.begin / 16, g1 = (range.end + 15) / 16;
  const std::uint32_t whole_begin = (range.begin + 15) / 16, whole_end = range.end / 16;
  const auto edges = [&](std::uint32_t g, V16 inside, V16 outside) {
    return select_range16(static_cast<int>(range.begin) - static_cast<int>(g * 16),
                          static_cast<int>(range.end) - static_cast<int>(g * 16), inside, outside);
  };
  for (std::uint32_t g = g0; g < g1; ++g) {
    V16 s = load16(scores + g * 16);
    if (g < whole_begin || g >= whole_end) s = edges(g, s, minus_infinity);
    top = max16(top, s);
  }
  const float m = max_lanes(top);
  const V16 reference = set16(m);
  V16 sum = zero16();
  for (std::uint32_t g = first / 16; g < g0; ++g) store16(scores + g * 16, zero16());
  for (std::uint32_t g = g0; g < g1; ++g) {
    V16 p = exp2_nonpositive16(sub16(load16(scores + g * 16), reference));
    if (g < whole_begin || g >= whole_end) p = edges(g, p, zero16());
    store16(scores + g * 16, p);
    sum = add16(sum, p);
  }
  for (std::uint32_t g = g1; g < (last + 15) / 16; ++g) store16(scores + g * 16, zero16());
  *maximum = m;
  *total = sum_lanes(sum);
}

/// state = {sum[padded_dim], maximum, total} takes in one partition's part.
SPW_INLINE void merge_part(float* state, const float* part, float maximum, float total,
                           std::uint32_t padded_dim) {
  if (maximum == kMinusInfinity) return;
  float& top = state[padded_dim];
  float& sum = state[padded_dim + 1];
  const float new_top = maximum > top ? maximum : top;
  float powers[16];
  store16(powers, exp2_16(select_range16(0, 1, set16(top - new_top), set16(maximum - new_top))));
  const float old_weight = powers[0], part_weight = powers[1];
  const V16 a = set16(old_weight), b = set16(part_weight);
  for (std::uint32_t d = 0; d < padded_dim; d += 16) {
    store16(state + d, fma16(load16(part + d), b, mul16(load16(state + d), a)));
  }
  const float scaled = sum * old_weight, added = total * part_weight;
  sum = scaled + added;
  top = new_top;
}

SPW_INLINE void clear_state(float* state, std::uint32_t padded_dim) {
  for (std::uint32_t d = 0; d < padded_dim; ++d) state[d] = 0;
  state[padded_dim] = kMinusInfinity;
  state[padded_dim + 1] = 0;
}

/// One row's result of one partition, for whoever merges.
SPW_INLINE void store_part(const AttentionTask& task, std::uint32_t index, std::uint32_t row,
                           const float* part, float maximum, float total) {
  const std::uint32_t rows = task.tokens * task.group, padded = task.layout->padded_dim;
  float* out = task.partial + (std::size_t{index - task.partition_begin} * rows + row) * (padded + 2);
  out[padded] = maximum;
  if (maximum == kMinusInfinity) return;
  out[padded + 1] = total;
  for (std::uint32_t d = 0; d < padded; d += 16) store16(out + d, load16(part + d));
}

SPW_INLINE void finish_rows(const AttentionTask& task, const float* states) {
  const std::uint32_t padded = task.layout->padded_dim, head_dim = task.layout->head_dim;
  for (std::uint32_t row = 0; row < task.tokens * task.group; ++row) {
    const float* state = states + row * (padded + 2);
    float* out = task.out + row / task.group * task.out_stride + row % task.group * head_dim;
    const V16 total = set16(state[padded + 1]);
    std::uint32_t d = 0;
    for (; d + 16 <= head_dim; d += 16) store16(out + d, div16(load16(state + d), total));
    if (d < head_dim) {
      float tail[16];
      store16(tail, div16(load16(state + d), total));
      for (std::uint32_t i = d; i < head_dim; ++i) out[i] = tail[i - d];
    }
  }
}

}  // namespace
}  // namespace spillway::gpu::host
