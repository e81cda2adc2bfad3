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

namespace spillway::actors {

struct Admission {
  LeaseId lease{};
  std::uint32_t cached_tokens = 0;  // positions whose KV is there already; less than the tokens given
};

/// A block that must be copied before the forked sequence may run.
struct TailCopy {
  gpu::BlockId from{}, to{};
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
  struct Table {
    std::vector<gpu::BlockId> blocks;
    std::vector<model::TokenId> tokens;  // known content, prompt and output
    std::uint32_t computed = 0;          // positions with valid KV
    std::uint32_t named_blocks = 0;      // leading blocks whose name is known
    PrefixHash name;                     // of those blocks (the salt when there are none)
  };

  [[nodiscard]] Admission open(Table table);

  BlockPool pool_;
  std::unordered_map<LeaseId, Table> tables_;
  std::vector<gpu::BlockId> pins_;  // a few at most: one pair for each copy under way
  std::uint64_t last_lease_ = 0;
};

}  // namespace spillway::actors
