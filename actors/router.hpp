// SPDX-License-Identifier: Apache-2.0
#pragma once

// The router actor: the door. It refuses what cannot run, turns tokens into text, finds stop strings, and
// streams to clients by credit. A client that stops taking tokens stalls its own request only: its sequences
// are held, and after a limit the request is cut. Whatever happens, each request gets exactly one last
// message.

#include "actors/messages.hpp"
#include "model/tokenizer.hpp"

namespace spillway::actors {

struct RouterStats {
  std::uint64_t submitted = 0, refused = 0, done = 0, cancelled = 0, cut = 0;
  std::uint32_t open = 0;
};

struct RouterConfig {
  std::int32_t vocab_size = 0;
  std::uint32_t max_model_len = 0;       // prompt and output together
  std::uint64_t kv_capacity_tokens = 0;  // what the whole pool holds
  std::uint32_t requests_max = 100'000;  // open at once; more are refused with kQueueFull
  std::uint32_t choices_max = 128;
  std::int32_t logprobs_max = 1024;
  std::uint32_t tokens_behind_max = 64;  // untaken tokens of a choice before its sequence is held
  bool sparse_kv = false;                // requests may be sparsified
  model::SparseKvParams sparse_default;  // of requests that say nothing
  bool rotates_to_cache = false;         // as the device says
  std::uint32_t sparse_budget_min = 0;   // tokens; smaller budgets are refused
  runtime::Duration stall_limit = std::chrono::seconds(60);
  const model::Tokenizer* tokenizer = nullptr;  // outlives the actor; null: tokens without text
  runtime::Address<SchedulerMessage> scheduler;
  RouterStats* stats = nullptr;  // outlives the actor; may be null
};

runtime::Task<void> router(runtime::ActorContext<RouterMessage>& self, RouterConfig config);

}  // namespace spillway::actors
