// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/kv_pool.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <limits>
#include <utility>

namespace spillway::gpu::host {
namespace {

constexpr std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

std::size_t element_bytes(KvDType dtype) {
  switch (dtype) {
    case KvDType::kF32:
      return 4;
    case KvDType::kF16:
    case KvDType::kBF16:
      return 2;
    case KvDType::kQ8_0:
      return 1;
  }
  return 0;
}

}  // namespace

Result<KvLayout> make_kv_layout(const model::ModelSpec& spec, KvDType dtype, std::uint32_t block_size,
                                bool with_slots) {
  if (block_size != 8 && block_size != 16 && block_size != 32 && block_size != 64) {
    return Error{Errc::kInvalidArgument,
                 "block size " + std::to_string(block_size) + " is not supported: use 8, 16, 32 or 64"};
  }
  const auto head_dim = static_cast<std::uint32_t>(spec.head_dim);
  const bool q8 = dtype == KvDType::kQ8_0;
  if (q8 && head_dim % 32 != 0) {
    return Error{Errc::kUnsupported,
                 "KV cache type q8_0 needs a head_dim that is a multiple of 32; this model's is " +
                     std::to_string(head_dim) + ": use fp16 or fp32"};
  }
  KvLayout layout;
  layout.dtype = dtype;
  layout.block_size = block_size;
  layout.head_dim = head_dim;
  layout.padded_dim = static_cast<std::uint32_t>(round_up(head_dim, 16));
  layout.num_layers = static_cast<std::uint32_t>(spec.num_layers);
  layout.num_kv_heads = static_cast<std::uint32_t>(spec.num_kv_heads);
  std::size_t k_bytes = std::size_t{head_dim} * block_size * element_bytes(dtype);
  std::size_t v_bytes = std::size_t{layout.padded_dim} * block_size * element_bytes(dtype);
  if (q8) {
    const std::size_t scale_bytes = std::size_t{head_dim} / 32 * block_size * 2;
    layout.k_scale_offset = k_bytes;
    layout.v_scale_offset = v_bytes;
    k_bytes += scale_bytes;
    v_bytes += scale_bytes;
  }
  layout.k_chunk_bytes = round_up(k_bytes, 64);
  layout.v_chunk_bytes = round_up(v_bytes, 64);
  layout.layer_bytes = layout.num_kv_heads * (layout.k_chunk_bytes + layout.v_chunk_bytes);
  layout.block_bytes = layout.num_layers * layout.layer_bytes;
  if (with_slots) {
    layout.slots_offset = layout.block_bytes;
    layout.block_bytes = layout.position_offset(layout.num_layers, 0);
  }
  return layout;
}

Result<KvPool> KvPool::create(const KvLayout& layout, std::size_t bytes) {
  const std::size_t blocks =
      std::min<std::size_t>(bytes / layout.block_bytes, std::numeric_limits<std::uint32_t>::max());
  if (blocks == 0) {
    return Error{Errc::kInvalidArgument, "kv_cache_memory_bytes is " + std::to_string(bytes) +
                                             ", which holds no KV block: one block of " +
                                             std::to_string(layout.block_size) + " tokens takes " +
                                             std::to_string(layout.block_bytes) + " bytes"};
  }
  constexpr std::size_t kHugePage = std::size_t{2} << 20;
  // 64 bytes more than the blocks: a vector load of the last chunk may read past its end.
  const std::size_t mapped = round_up(blocks * layout.block_bytes + 64, 4096);
  void* memory =
      mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return Error{Errc::kOutOfMemory, "cannot map " + std::to_string(mapped) + " bytes for the KV cache"};
  }
  // A huge page holds only a few blocks, so hardly more than what is written becomes resident.
  if (mapped >= 2 * kHugePage) madvise(memory, mapped, MADV_HUGEPAGE);
  KvPool pool;
  pool.data_ = static_cast<std::byte*>(memory);
  pool.mapped_bytes_ = mapped;
  pool.block_bytes_ = layout.block_bytes;
  pool.num_blocks_ = static_cast<std::uint32_t>(blocks);
  return pool;
}

KvPool::KvPool(KvPool&& other) noexcept { *this = std::move(other); }

KvPool& KvPool::operator=(KvPool&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(mapped_bytes_, other.mapped_bytes_);
  std::swap(block_bytes_, other.block_bytes_);
  std::swap(num_blocks_, other.num_blocks_);
  return *this;
}

KvPool::~KvPool() {
  if (data_ != nullptr) munmap(data_, mapped_bytes_);
}

}  // namespace spillway::gpu::host
