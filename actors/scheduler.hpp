// SPDX-License-Identifier: Apache-2.0
#pragma once

// The scheduler actor: sole owner of every sequence that has not ended. It admits, plans steps (plan_step.hpp
// has the decisions), keeps up to async_submit steps in flight, applies results, and preempts by recomputing.
//
// It plans only when no answer of the block manager is outstanding, so its view of free blocks is exact.

#include "actors/messages.hpp"
#include "actors/plan_step.hpp"

namespace spillway::actors {

struct SchedulerStats {
  std::uint64_t steps = 0, failed_steps = 0, preemptions = 0;
  std::uint64_t prefill_tokens = 0, decode_tokens = 0, recomputed_tokens = 0;
  std::uint64_t sequences_added = 0, sequences_ended = 0;
  std::uint32_t running = 0, waiting = 0, running_peak = 0;
  std::int64_t device_ns = 0;
};

struct SchedulerConfig {
  std::uint32_t max_num_seqs = 64;
  std::uint32_t max_num_batched_tokens = 512;
  std::uint32_t block_size = 16;
  std::uint32_t total_blocks = 0;
  std::uint32_t max_model_len = 0;
  std::uint32_t async_submit = 2;         // steps in flight; 1 is synchronous
  double max_itl_stretch = 0;             // see step_pace.hpp
  std::uint32_t device_failures_max = 3;  // a sequence that sees more failed steps than this fails itself
  std::vector<TokenId> eos_ids;
  runtime::Address<RouterMessage> router;
  runtime::Address<BlockManagerMessage> block_manager;
  SchedulerStats* stats = nullptr;  // outlives the actor; may be null
};

runtime::Task<void> scheduler(runtime::ActorContext<SchedulerMessage>& self, SchedulerConfig config);

}  // namespace spillway::actors
