// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/slot_packing.hpp"

#include <cstring>

#include "gpu/sparse_policy.hpp"

namespace spillway::gpu::host {
namespace {

std::size_t element_bytes(KvDType dtype) {
  return dtype == KvDType::kF32 ? 4 : dtype == KvDType::kQ8_0 ? 1 : 2;
}

/// One head's part of the blocks.
class Head {
 public:
  Head(const KvLayout& layout, std::byte* pool, std::uint32_t layer, std::uint32_t kv_head)
      : layout_(layout),
        k_(pool + layout.k_offset(layer, kv_head)),
        v_(pool + layout.v_offset(layer, kv_head)),
        fields_(pool + layout.position_offset(layer, kv_head)) {}

  [[nodiscard]] float& position(const BlockId* blocks, std::uint32_t slot) const {
    return reinterpret_cast<float*>(fields_ + block(blocks, slot))[slot % layout_.block_size];
  }
  [[nodiscard]] bool live(const BlockId* blocks, std::uint32_t slot) const {
    return position(blocks, slot) >= 0;
  }

  void move(const BlockId* from_blocks, std::uint32_t from, const BlockId* to_blocks,
            std::uint32_t to) const {
    const std::size_t source = block(from_blocks, from), target = block(to_blocks, to);
    const std::uint32_t size = layout_.block_size, a = from % size, b = to % size;
    const std::size_t element = element_bytes(layout_.dtype);
    for (std::uint32_t d = 0; d < layout_.head_dim; ++d) {
      std::memcpy(k_ + target + (std::size_t{d} * size + b) * element,
                  k_ + source + (std::size_t{d} * size + a) * element, element);
    }
    const std::size_t row = layout_.padded_dim * element;
    std::memcpy(v_ + target + b * row, v_ + source + a * row, row);
    if (layout_.dtype == KvDType::kQ8_0) move_scales(source, a, target, b);
    const auto* read = reinterpret_cast<const float*>(fields_ + source);
    auto* write = reinterpret_cast<float*>(fields_ + target);
    write[b] = read[a];
    write[size + b] = read[size + a];
  }

 private:
  [[nodiscard]] std::size_t block(const BlockId* blocks, std::uint32_t slot) const {
    return static_cast<std::size_t>(blocks[slot / layout_.block_size]) * layout_.block_bytes;
  }
  void move_scales(std::size_t source, std::uint32_t a, std::size_t target, std::uint32_t b) const {
    const std::uint32_t size = layout_.block_size, count = layout_.head_dim / 32;
    for (std::uint32_t i = 0; i < count; ++i) {
      std::memcpy(k_ + target + layout_.k_scale_offset + (i * size + b) * 2,
                  k_ + source + layout_.k_scale_offset + (i * size + a) * 2, 2);
      std::memcpy(v_ + target + layout_.v_scale_offset + (b * count + i) * 2,
                  v_ + source + layout_.v_scale_offset + (a * count + i) * 2, 2);
    }
  }

  const KvLayout& layout_;
  std::byte *k_, *v_, *fields_;
};

}  // namespace

// How many tokens live is right unless a step before failed; then nobody reads the answer, but no slot
// outside the table may be touched: hence the second bound of each loop.
void pack_head(const KvLayout& layout, std::byte* pool, const SparseStep& step, const BlockId* blocks,
               const BlockId* copy_to, std::uint32_t layer, std::uint32_t kv_head) {
  const Head head(layout, pool, layer, kv_head);
  if (step.packing == SparseStep::Packing::kCopy) {
    std::uint32_t next = 0;
    for (std::uint32_t slot = 0; slot < step.span && next < step.live; ++slot) {
      if (head.live(blocks, slot)) head.move(blocks, slot, copy_to, next++);
    }
    return;
  }
  std::uint32_t hole = 0;
  for (std::uint32_t slot = step.live; slot < step.span; ++slot) {
    if (!head.live(blocks, slot)) continue;
    while (hole < step.live && head.live(blocks, hole)) ++hole;
    if (hole == step.live) return;
    head.move(blocks, slot, blocks, hole);
    head.position(blocks, slot) = kHole;
  }
}

}  // namespace spillway::gpu::host
