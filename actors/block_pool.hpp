// SPDX-License-Identifier: Apache-2.0
#pragma once

// BlockPool: which KV blocks are held, by how many, and which full blocks can be found again by their
// content. Pure bookkeeping, owned by the block manager actor.
//
// A block is in one of three states, always:  held (references > 0)
//                                             cached (0 references, content still indexed, reclaimable)
//                                             free (0 references, no content)
// held + cached + free = total.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "actors/block_state.hpp"
#include "actors/prefix_hash.hpp"
#include "gpu/step_plan.hpp"

namespace spillway::actors {

class BlockPool {
 public:
  /// Of `num_blocks`, those from `usual_blocks` on are there for sequences alone: a cached block is forgotten
  /// before one of them is used for the first time.
  BlockPool(std::uint32_t num_blocks, std::uint32_t block_size, bool prefix_caching,
            std::uint32_t usual_blocks = ~0u);

  [[nodiscard]] std::uint32_t total() const noexcept { return static_cast<std::uint32_t>(blocks_.size()); }
  [[nodiscard]] std::uint32_t block_size() const noexcept { return block_size_; }
  /// Blocks that allocate() could still give: free and cached.
  [[nodiscard]] std::uint32_t available() const noexcept { return total() - held_; }
  [[nodiscard]] std::uint32_t held() const noexcept { return held_; }
  [[nodiscard]] std::uint32_t references(gpu::BlockId id) const { return at(id).references; }

  /// A block with one reference; prefers free ones, then forgets the least recently released cached one, then
  /// takes one beyond the usual that never was used.
  [[nodiscard]] std::optional<gpu::BlockId> allocate();
  void retain(gpu::BlockId id);
  /// Gives one reference back. The last one makes the block cached if its content is indexed, else free.
  void release(gpu::BlockId id);

  /// The block that holds exactly this content, with one more reference.
  [[nodiscard]] std::optional<gpu::BlockId> find_and_retain(const PrefixHash& name,
                                                            std::span<const model::TokenId> tokens);
  /// Makes a held block findable. If another block already carries the name, nothing changes.
  void publish(gpu::BlockId id, const PrefixHash& name, std::span<const model::TokenId> tokens);

  /// By block id.
  [[nodiscard]] std::vector<BlockState> states() const;

  /// Empty if every invariant holds, else the first that does not. For tests.
  [[nodiscard]] std::string check() const;

 private:
  static constexpr std::uint32_t kNone = ~0u;
  struct Block {
    std::uint32_t references = 0;
    std::uint32_t previous = kNone, next = kNone;  // the cached list, oldest first
    bool cached = false;
    PrefixHash name;  // empty: not indexed
    std::vector<model::TokenId> tokens;
  };

  [[nodiscard]] const Block& at(gpu::BlockId id) const;
  [[nodiscard]] Block& at(gpu::BlockId id);
  void unlink(std::uint32_t index);
  void forget(Block& block);

  std::uint32_t block_size_;
  bool prefix_caching_;
  std::uint32_t usual_blocks_;
  std::uint32_t touched_ = 0;  // blocks [0, touched_) have been used
  std::uint32_t held_ = 0;
  std::vector<Block> blocks_;
  std::vector<std::uint32_t>
      free_;  // a stack: recently used memory is warm, never used memory stays untouched
  std::uint32_t oldest_ = kNone, newest_ = kNone;
  std::unordered_map<PrefixHash, std::uint32_t, PrefixHashHasher> index_;
};

}  // namespace spillway::actors
