// SPDX-License-Identifier: Apache-2.0
#pragma once

// Serving: the actors of one device, wired together. The same function wires them on threads and in
// simulation.

#include <memory>

#include "actors/block_manager.hpp"
#include "actors/decoder.hpp"
#include "actors/router.hpp"
#include "actors/scheduler.hpp"
#include "actors/transfer_engine.hpp"
#include "gpu/device.hpp"
#include "model/tokenizer.hpp"

namespace spillway::actors {

struct ServingConfig {
  gpu::Device* device = nullptr;  // outlives the actors
  gpu::DeviceOptions device_options;
  std::int32_t vocab_size = 0;
  std::uint32_t max_model_len = 0;
  std::vector<TokenId> eos_ids;
  const model::Tokenizer* tokenizer = nullptr;  // outlives the actors; null: tokens without text
  bool prefix_caching = true;
  std::uint32_t usual_blocks = ~0u;  // see BlockManagerConfig
  double max_itl_stretch = 0;                       // see step_pace.hpp
  model::SparseKvParams sparse_default;             // needs device_options.sparse_kv
  std::uint32_t sparse_budget_min = 0;              // tokens
  std::function<void(const SlotTotals&)> on_slots;  // see BlockManagerConfig
  bool check_invariants = false;
  std::uint32_t worker = 0;
  std::uint32_t tokens_behind_max = 64;
  std::uint32_t requests_max = 100'000;
  runtime::Duration stall_limit = std::chrono::seconds(60);
};

/// Written by the actors as they work. Read it from their worker, or after shutdown.
struct ServingStats {
  RouterStats router;
  SchedulerStats scheduler;
  BlockManagerStats block_manager;
};

class Serving {
 public:
  /// Spawns the actors and connects the device to its decoder.
  Serving(runtime::Executor& executor, const ServingConfig& config);

  [[nodiscard]] const runtime::Address<RouterMessage>& router() const noexcept { return router_; }
  [[nodiscard]] const runtime::Address<BlockManagerMessage>& block_manager_address() const noexcept {
    return block_manager_;
  }
  [[nodiscard]] const ServingStats& stats() const noexcept { return *stats_; }

 private:
  runtime::Address<RouterMessage> router_;
  runtime::Address<BlockManagerMessage> block_manager_;
  std::unique_ptr<ServingStats> stats_;
  std::unique_ptr<DecoderSink> sink_;
};

}  // namespace spillway::actors
