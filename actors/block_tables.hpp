// SPDX-License-Identifier: Apache-2.0
#pragma once

// BlockTables: which blocks each admitted sequence holds, in order of position. Pure; owned by the block
// manager. A table is named by a lease, so that a sequence admitted a second time (after a preemption) can
// never be mixed up with its earlier life.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "actors/block_pool.hpp"
#include "actors/ids.hpp"
#include "actors/slot_count.hpp"

namespace spillway::actors {

struct Admission {
  LeaseId lease{};
  std::uint32_t cached_tokens = 0;  // positions whose KV is there already; less than the tokens given
};

/// A block that must be copied before the forked sequence may run.
struct TailCopy {
  gpu::BlockId from{}, to{};
};

/// What a sparsified sequence's step got: its slots, and where to copy to.
struct SlotGrant {
  SlotStep step;
  std::vector<gpu::BlockId> blocks;   // that the step runs over
  std::vector<gpu::BlockId> copy_to;  // Packing::kCopy
};

class BlockTables {
 public:
  explicit BlockTables(BlockPool pool) : pool_(std::move(pool)) {}

  [[nodiscard]] const BlockPool& pool() const noexcept { return pool_; }
  [[nodiscard]] std::size_t size() const noexcept { return tables_.size(); }

  /// Opens a table and takes every leading full block of `tokens` that the prefix index knows, but never the
  /// last token: at least one position must be computed to have logits.
  [[nodiscard]] Admission admit(std::vector<model::TokenId> tokens, PrefixHash salt);

  /// Opens a table that shares the parent's committed blocks for all positions before the last of `tokens`;
  /// the partial tail, if any and if a block is free, goes to `copy`. Falls back to admit() if the parent is
  /// gone.
  [[nodiscard]] Admission fork(LeaseId parent, std::vector<model::TokenId> tokens, PrefixHash salt,
                               std::optional<TailCopy>& copy);

  /// Opens a table of a sequence that will be sparsified. Its blocks change in place from the first step on
  /// (scores), so they are its own: neither found by a prefix nor shared.
  [[nodiscard]] Admission admit_sparse(std::uint32_t prompt_length, const model::SparseKvParams& params);

  /// The next step of a sparsified sequence. Blocks that it no longer needs afterwards stay held until
  /// free_deferred(): another sequence of the same step must not get them. Empty when the pool has too few
  /// blocks.
  [[nodiscard]] std::optional<SlotGrant> step_slots(LeaseId lease, std::uint32_t first_position,
                                                    std::uint32_t tokens);
  void free_deferred();

  /// Strategy free-block: these blocks of the table hold no live token any more. Others are ignored.
  void drop_emptied(LeaseId lease, std::span<const gpu::BlockId> blocks);

  /// With the tokens of every step handed out so far, whether it is done or not.
  [[nodiscard]] SlotTotals slot_totals() const;
  /// Of a sparsified table that is held.
  [[nodiscard]] SlotCount slots(LeaseId lease) const { return tables_.at(lease).sparse.value().slots; }

  /// By block id.
  [[nodiscard]] std::vector<BlockState> states() const;

  /// Grows the table to cover `tokens` positions. All or nothing: false when the pool has too few blocks.
  [[nodiscard]] bool extend_to(LeaseId lease, std::uint32_t tokens);

  /// Says that the first `computed` positions hold valid KV, of which `appended` are tokens not told before,
  /// and publishes the blocks that became full. Unknown leases are ignored: the sequence has gone meanwhile.
  void commit(LeaseId lease, std::uint32_t computed, std::span<const model::TokenId> appended);

  /// Gives all references back. False if the lease is not held: a release that came twice.
  [[nodiscard]] bool release(LeaseId lease);

  /// A reference of its own for a block that a copy reads or writes, so that it cannot be reused meanwhile.
  void pin(gpu::BlockId block);
  void unpin(gpu::BlockId block);

  /// The copy into the table's tail failed: only whole shared blocks count as computed. Returns that many
  /// tokens.
  [[nodiscard]] std::uint32_t distrust_tail(LeaseId lease);

  [[nodiscard]] std::optional<std::span<const gpu::BlockId>> blocks(LeaseId lease) const;

  /// As BlockPool::check, and that references equal what the tables hold.
  [[nodiscard]] std::string check() const;

 private:
  struct SparseTable {
    model::SparseKvParams params;
    std::uint32_t prompt_length = 0;
    SlotCount slots;
  };
  struct Table {
    std::vector<gpu::BlockId> blocks;
    std::vector<model::TokenId> tokens;  // known content, prompt and output
    std::uint32_t computed = 0;          // positions with valid KV
    std::uint32_t written = 0;           // positions that steps handed out have filled or will
    std::uint32_t named_blocks = 0;      // leading blocks whose name is known
    PrefixHash name;                     // of those blocks (the salt when there are none)
    std::optional<SparseTable> sparse;
  };

  [[nodiscard]] Admission open(Table table);
  /// All or nothing.
  [[nodiscard]] bool allocate(std::uint32_t count, std::vector<gpu::BlockId>& blocks);

  BlockPool pool_;
  std::unordered_map<LeaseId, Table> tables_;
  std::vector<gpu::BlockId> pins_;      // a few at most: one pair for each copy under way
  std::vector<gpu::BlockId> deferred_;  // given up by steps that are being prepared
  std::uint64_t last_lease_ = 0;
};

}  // namespace spillway::actors
