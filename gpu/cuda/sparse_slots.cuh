// SPDX-License-Identifier: Apache-2.0
#pragma once

// Slots on the device: a unit's positions and scores, and by what a token is judged (gpu/sparse_policy.hpp).

#include "gpu/cuda/sparse_slots.hpp"
#include "gpu/sparse_policy.hpp"

namespace spillway::gpu::cuda {

/// The slots of one unit of one sequence.
class UnitSlots {
 public:
  __device__ UnitSlots(const SparseSlots& p, int table, int unit)
      : metadata_(p.metadata + unit / p.kv_heads * p.metadata_layer_bytes +
                  unit % p.kv_heads * p.block_size * static_cast<int>(sizeof(float))),
        table_(p.block_table + table),
        block_bytes_(p.metadata_bytes),
        size_(p.block_size),
        to_score_(to_score(p)) {
    shift_ = __ffs(p.block_size) - 1;
  }

  __device__ float* position(int slot) const {
    return reinterpret_cast<float*>(metadata_ + table_[slot >> shift_] * block_bytes_) + (slot & (size_ - 1));
  }
  __device__ float* score(int slot) const { return position(slot) + to_score_; }
  __device__ int in_pool(int slot) const { return table_[slot >> shift_] * size_ + (slot & (size_ - 1)); }
  /// From a slot's position to its score.
  __device__ static int to_score(const SparseSlots& p) { return p.kv_heads * p.block_size; }

 private:
  char* metadata_;
  const std::int32_t* table_;
  std::int64_t block_bytes_;
  int size_, to_score_, shift_;
};

/// Where the unit's last victim is noted.
__device__ __forceinline__ std::int32_t* victim_of(const SparseSlots& p, const SparseSequence& s, int unit) {
  return p.victims + std::int64_t{s.state_row} * p.layers * p.kv_heads + unit;
}

__device__ __forceinline__ int padded_span(int span) { return (span + 3) & ~3; }

__device__ __forceinline__ std::uint64_t mix_bits(std::uint64_t z) {  // mix64 of gpu/counter_random.hpp
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

__device__ __forceinline__ bool is_evictable(const SparseSequence& s, float position) {
  return position >= s.first_evictable && position < s.end_evictable;
}

/// Grows with a token's worth: its key, and among equals its position, the older one first.
__device__ __forceinline__ std::uint64_t worth_of(const SparseSequence& s, int unit, float position,
                                                  float score) {
  const auto where = static_cast<std::uint32_t>(position);
  float key = score;
  if (s.method == static_cast<int>(model::SparseMethod::kStreaming)) key = position;
  if (s.method == static_cast<int>(model::SparseMethod::kRandom)) {
    const std::uint64_t bits =
        mix_bits(s.seed ^ mix_bits(std::uint64_t{static_cast<std::uint32_t>(unit)} << 32 | where));
    key = static_cast<float>(bits >> 40) * 0x1p-24f;
  }
  const unsigned bits = __float_as_uint(key + 0.0f);  // -0 becomes 0
  const unsigned ordered = bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
  return std::uint64_t{ordered} << 32 | where;
}

}  // namespace spillway::gpu::cuda
