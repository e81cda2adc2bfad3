// SPDX-License-Identifier: Apache-2.0

// The two products of attention, in register tiles, and the prefetch that feeds them. Part of
// attention_kernels.inl, see there.

#pragma once

#include "gpu/host/attention_kernels.hpp"
#include "gpu/host/kv_stored.inl"
#include "gpu/host/vec16.hpp"

namespace spillway::gpu::host {
namespace {

#if SPW_VEC_TARGET == 2
constexpr int kAccumulators = 24;  // V16 that fit the registers beside operands
#else
constexpr int kAccumulators = 6;  // two ymm each
#endif

// ---- Prefetch. A block is a few KB and the next one is far away, so the processor's own prefetchers see no
// stream: 16 KB ahead of the reads they are asked for here, in bursts of 1 KB for each 1 KB consumed. Into
// the second level: few lines can be on their way to the first at once (into it, 16 streams of 1024 took
// twice as long). -----------

constexpr std::size_t kBurstBytes = 1024, kAheadBursts = 16;

class Stream {
 public:
  /// Appends [p, p + bytes) to what will be read.
  SPW_INLINE void push(const std::byte* p, std::size_t bytes) {
    if (count_ < kRanges)
      ranges_[count_++] = {p, static_cast<std::uint32_t>((bytes + kBurstBytes - 1) / kBurstBytes)};
  }
  /// Drops what is done, so that there is room for the next partition's ranges.
  SPW_INLINE void compact() {
    if (index_ == 0) return;
    for (std::uint32_t i = index_; i < count_; ++i) ranges_[i - index_] = ranges_[i];
    count_ -= index_;
    index_ = 0;
  }
  SPW_INLINE void burst() {
    if (index_ == count_) return;
    Range& range = ranges_[index_];
    for (std::size_t i = 0; i < kBurstBytes; i += 64) __builtin_prefetch(range.at + i, 0, 2);
    range.at += kBurstBytes;
    if (--range.bursts == 0) ++index_;
  }

 private:
  struct Range {
    const std::byte* at;
    std::uint32_t bursts;
  };
  static constexpr std::uint32_t kRanges = 4 * kPartitionSlots / 8;  // keys and values of two partitions
  Range ranges_[kRanges];
  std::uint32_t index_ = 0, count_ = 0;
};

// ---- Scores: RB rows against G groups of 16 slots. Each score is one chain of fma over d = 0, 1, 2, ...
// -------

template <KvDType T, int RB, int G>
void score_block(const float* q, std::uint32_t head_dim, const KeyGroup* groups, std::uint32_t stride,
                 float* scores, Stream* stream) {
  V16 acc[RB][G];
#pragma GCC unroll 12
  for (int r = 0; r < RB; ++r)
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) acc[r][g] = zero16();
  const std::size_t step = stride * Stored<T>::kBytes;
  const std::byte* k[G];
#pragma GCC unroll 8
  for (int g = 0; g < G; ++g) k[g] = groups[g].data;
  // Dimensions between bursts; for q8_0 also those under one scale (a burst then asks for more than was
  // read).
  constexpr std::uint32_t kSpan = T == KvDType::kQ8_0 ? 32 : kBurstBytes / (G * 16 * Stored<T>::kBytes);
  for (std::uint32_t d0 = 0; d0 < head_dim; d0 += kSpan) {
    if (stream != nullptr) stream->burst();
    V16 scale[G];
    if constexpr (T == KvDType::kQ8_0) {
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) scale[g] = load16_f16(groups[g].scales + d0 / 32 * stride);
    }
    const std::uint32_t stop = d0 + kSpan < head_dim ? d0 + kSpan : head_dim;
    for (std::uint32_t d = d0; d < stop; ++d) {
      V16 key[G];
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) {
        key[g] = Stored<T>::read(k[g]);
        if constexpr (T == KvDType::kQ8_0) key[g] = mul16(key[g], scale[g]);
        k[g] += step;
      }
#pragma GCC unroll 12
      for (int r = 0; r < RB; ++r) {
        const V16 x = set16(q[r]);
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) acc[r][g] = fma16(x, key[g], acc[r][g]);
      }
      q += RB;
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < RB; ++r)
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) store16(scores + r * kPartitionSlots + g * 16, acc[r][g]);
}

constexpr int groups_at_once(int rows) {
  const int g = kAccumulators / rows;
  return g >= 4 ? 4 : g >= 2 ? 2 : 1;
}

template <KvDType T, int RB>
void score_rows(const float* q, std::uint32_t head_dim, const KeyGroup* groups, std::uint32_t stride,
                std::uint32_t group_begin, std::uint32_t group_end, float* scores, Stream* stream) {
  constexpr int G = groups_at_once(RB);
  std::uint32_t g = group_begin;
  for (; g + G <= group_end; g += G) {
    score_block<T, RB, G>(q, head_dim, groups + g, stride, scores + g * 16, stream);
  }
  if constexpr (G > 1) {
    for (; g < group_end; ++g) {
      score_block<T, RB, 1>(q, head_dim, groups + g, stride, scores + g * 16, stream);
    }
  }
}

// ---- P.V: RB rows times DV vectors of dimensions; each sum is one chain of fma over the slots in order.
// -------

struct ValueGroup {  // 16 slots
  const std::byte* data;
  const std::uint16_t* scales;  // q8_0: [slot][head_dim / 32]
};

template <KvDType T, int RB, int DV>
void weigh_block(const float* p, const ValueGroup* groups, std::uint32_t slot_begin, std::uint32_t slot_end,
                 std::uint32_t padded_dim, std::uint32_t first_vector, float* out, Stream* stream) {
  V16 acc[RB][DV];
#pragma GCC unroll 12
  for (int r = 0; r < RB; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < DV; ++j) acc[r][j] = zero16();
  const std::size_t row_bytes = padded_dim * Stored<T>::kBytes;
  std::uint32_t slot = slot_begin;
  while (slot < slot_end) {
    if (stream != nullptr) {
      for (std::size_t b = 0; b < 16 * 16 * DV * Stored<T>::kBytes; b += kBurstBytes) stream->burst();
    }
    const ValueGroup& group = groups[slot / 16];
    const std::uint32_t stop = (slot / 16 + 1) * 16 < slot_end ? (slot / 16 + 1) * 16 : slot_end;
    const std::byte* v = group.data + (slot % 16) * row_bytes + first_vector * 16 * Stored<T>::kBytes;
    for (; slot < stop; ++slot, v += row_bytes) {
      V16 value[DV];
#pragma GCC unroll 4
      for (int j = 0; j < DV; ++j) {
        value[j] = Stored<T>::read(v + j * 16 * Stored<T>::kBytes);
        if constexpr (T == KvDType::kQ8_0) {
          const std::uint32_t block = (first_vector + static_cast<std::uint32_t>(j)) / 2;
          value[j] =
              mul16(value[j], set16(widen_scale(group.scales + (slot % 16) * (padded_dim / 32) + block)));
        }
      }
#pragma GCC unroll 12
      for (int r = 0; r < RB; ++r) {
        const V16 x = set16(p[static_cast<std::uint32_t>(r) * kPartitionSlots + slot]);
#pragma GCC unroll 4
        for (int j = 0; j < DV; ++j) acc[r][j] = fma16(x, value[j], acc[r][j]);
      }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < RB; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < DV; ++j) {
      store16(out + static_cast<std::uint32_t>(r) * padded_dim +
                  (first_vector + static_cast<std::uint32_t>(j)) * 16,
              acc[r][j]);
    }
}

template <KvDType T, int RB>
void weigh_rows(const float* p, const ValueGroup* groups, std::uint32_t slot_begin, std::uint32_t slot_end,
                std::uint32_t padded_dim, float* out, Stream* stream) {
  constexpr int DV = groups_at_once(RB);
  const std::uint32_t vectors = padded_dim / 16;
  std::uint32_t j = 0;
  for (; j + DV <= vectors; j += DV) {
    weigh_block<T, RB, DV>(p, groups, slot_begin, slot_end, padded_dim, j, out, stream);
  }
  if constexpr (DV > 2) {
    for (; j + 2 <= vectors; j += 2) {
      weigh_block<T, RB, 2>(p, groups, slot_begin, slot_end, padded_dim, j, out, stream);
    }
  }
  if constexpr (DV > 1) {
    for (; j < vectors; ++j) {
      weigh_block<T, RB, 1>(p, groups, slot_begin, slot_end, padded_dim, j, out, stream);
    }
  }
}

}  // namespace
}  // namespace spillway::gpu::host
