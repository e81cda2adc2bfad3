// SPDX-License-Identifier: Apache-2.0
#pragma once

// The block manager actor: sole owner of the KV pool's bookkeeping. It admits sequences (finding shared
// prefixes), fills block tables into steps on their way to the decoder, publishes finished blocks, and takes
// blocks back when leases drop. A block that a copy reads or writes stays referenced until the copy is done.

#include <functional>

#include "actors/block_tables.hpp"
#include "actors/messages.hpp"

namespace spillway::actors {

/// What the block manager has done since it started; written by it alone, read after shutdown or by tests.
struct BlockManagerStats {
  std::uint64_t admissions = 0, releases = 0, unknown_releases = 0;
  std::uint64_t prefix_queries_tokens = 0, prefix_hits_tokens = 0;
  std::uint64_t forks = 0, copies = 0, denials = 0;
  // Of sparsified sequences; a token is counted once, though every KV head evicts one.
  std::uint64_t tokens_evicted = 0, slots_reused = 0, compactions = 0, blocks_copied = 0, blocks_emptied = 0;
  // At the last step, with count_slots: slots of held blocks, tokens in them, slots that evicted tokens left.
  std::uint64_t slots = 0, live_tokens = 0, holes = 0;
  std::uint32_t held = 0, total = 0, tables = 0;
  std::string broken;  // first broken invariant found (only when checking is on)
};

struct BlockManagerConfig {
  std::uint32_t num_blocks = 0;
  std::uint32_t usual_blocks = ~0u;  // the others are for sequences alone, see BlockPool
  std::uint32_t block_size = 16;
  bool prefix_caching = true;
  bool count_slots = false;  // at every step: BlockManagerStats::slots and what follows
  std::function<void(const SlotTotals&)>
      on_slots;                   // with count_slots: hears of each; called on the actor's worker
  bool check_invariants = false;  // after every message; for tests
  runtime::Address<SchedulerMessage> scheduler;
  runtime::Address<DecoderMessage> decoder;
  runtime::Address<TransferEngineMessage> transfer_engine;
  BlockManagerStats* stats = nullptr;  // outlives the actor; may be null
};

runtime::Task<void> block_manager(runtime::ActorContext<BlockManagerMessage>& self,
                                  BlockManagerConfig config);

}  // namespace spillway::actors
