// SPDX-License-Identifier: Apache-2.0
#pragma once

// The host's KV memory: how a block is laid out, and the mapping that holds the blocks.
//
//   pool   [block] [layer] [K | V] [kv_head] chunk
//   K      [head_dim][block_size]        lanes of a vector are slots: q.K needs no sum over lanes
//   V      [block_size][padded_dim]      lanes of a vector are dimensions; padded_dim = head_dim rounded up
//   to 16
//
// A block is contiguous over all layers, so that one copy moves it. q8_0 keeps one fp16 scale per slot and 32
// dimensions behind the int8 values: [head_dim / 32][block_size] for K, [block_size][head_dim / 32] for V.
// Chunks start at multiples of 64 bytes. Where sequences may be sparsified, the block ends in each head's
// slots:
//
//   [layer] [kv_head] { position [block_size], score [block_size] }    floats; position -1: a hole

#include <cstddef>
#include <cstdint>

#include "gpu/device.hpp"
#include "model/spec.hpp"
#include "runtime/result.hpp"

namespace spillway::gpu::host {

struct KvLayout {
  KvDType dtype = KvDType::kF16;
  std::uint32_t block_size = 0;  // slots
  std::uint32_t head_dim = 0;
  std::uint32_t padded_dim = 0;
  std::uint32_t num_layers = 0;
  std::uint32_t num_kv_heads = 0;
  std::size_t k_scale_offset = 0;  // of the scales inside a chunk; 0 unless q8_0
  std::size_t v_scale_offset = 0;
  std::size_t k_chunk_bytes = 0;
  std::size_t v_chunk_bytes = 0;
  std::size_t layer_bytes = 0;
  std::size_t slots_offset = 0;  // of the positions and scores inside a block; 0: there are none
  std::size_t block_bytes = 0;

  [[nodiscard]] std::size_t k_offset(std::uint32_t layer, std::uint32_t kv_head) const noexcept {
    return layer * layer_bytes + kv_head * k_chunk_bytes;
  }
  /// Of a head's positions inside a block; its scores follow.
  [[nodiscard]] std::size_t position_offset(std::uint32_t layer, std::uint32_t kv_head) const noexcept {
    return slots_offset + std::size_t{layer * num_kv_heads + kv_head} * 2 * block_size * sizeof(float);
  }
  [[nodiscard]] std::size_t v_offset(std::uint32_t layer, std::uint32_t kv_head) const noexcept {
    return layer * layer_bytes + num_kv_heads * k_chunk_bytes + kv_head * v_chunk_bytes;
  }
};

/// Errors: kInvalidArgument for a block size other than 8, 16, 32 or 64; kUnsupported for q8_0 with a
/// head_dim that is no multiple of 32.
[[nodiscard]] Result<KvLayout> make_kv_layout(const model::ModelSpec& spec, KvDType dtype,
                                              std::uint32_t block_size, bool with_slots = false);

/// Anonymous memory for `num_blocks` blocks. The address space is reserved at once, a page becomes resident
/// when it is first written. Move-only.
class KvPool {
 public:
  KvPool() = default;
  KvPool(KvPool&& other) noexcept;
  KvPool& operator=(KvPool&& other) noexcept;
  KvPool(const KvPool&) = delete;
  KvPool& operator=(const KvPool&) = delete;
  ~KvPool();

  /// As many whole blocks as fit `bytes`. Errors: kOutOfMemory when not one fits or the system refuses.
  [[nodiscard]] static Result<KvPool> create(const KvLayout& layout, std::size_t bytes);

  [[nodiscard]] std::uint32_t num_blocks() const noexcept { return num_blocks_; }
  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  /// Of the whole mapping, a multiple of the page size.
  [[nodiscard]] std::size_t mapped_bytes() const noexcept { return mapped_bytes_; }
  [[nodiscard]] std::byte* block(BlockId id) const noexcept {
    return data_ + static_cast<std::size_t>(id) * block_bytes_;
  }

 private:
  std::byte* data_ = nullptr;
  std::size_t mapped_bytes_ = 0;
  std::size_t block_bytes_ = 0;
  std::uint32_t num_blocks_ = 0;
};

}  // namespace spillway::gpu::host
