// SPDX-License-Identifier: Apache-2.0
#pragma once

// EngineDevice: the device an engine runs on, chosen and opened by the engine's options, with what stands
// beside it: the poller that a GPU's events need, and the trace's tracks.

#include <functional>
#include <memory>
#include <string>

#include "gpu/device.hpp"
#include "gpu/ranks/rank_peers.hpp"
#include "model/loader.hpp"
#include "runtime/executor.hpp"
#include "runtime/tracer.hpp"

namespace spillway {

struct EngineOptions;
class DeviceTrack;

struct EngineDevice {
  EngineDevice();
  EngineDevice(EngineDevice&&) noexcept;
  EngineDevice& operator=(EngineDevice&&) noexcept;
  ~EngineDevice();

  gpu::DeviceOptions options;          // as the device was opened
  std::uint32_t usual_blocks = ~0u;    // the others come only when sequences need them
  std::string why_host;                // why DeviceKind::kAuto took the host; empty otherwise
  std::unique_ptr<DeviceTrack> track;  // null: no tracing
  std::unique_ptr<gpu::ranks::RankPeers> peers;  // null: no other nodes
  std::unique_ptr<gpu::Device> device;
  std::unique_ptr<runtime::Poller> poller;  // null unless the device needs polling
};

/// Errors: those of the device; kNotFound when DeviceKind::kCuda finds no GPU; kInvalidArgument for options
/// that leave no room for one block, and for random weights on the host.
[[nodiscard]] Result<EngineDevice> open_engine_device(const EngineOptions& options, const model::Model& model,
                                                      std::uint32_t max_model_len, runtime::Tracer* tracer);

/// A device that computes nothing and answers random tokens after options.simulated_step: what is left is the
/// cost of everything else. `executor` is asked for once the engine runs; completions arrive on its `worker`.
[[nodiscard]] Result<EngineDevice> open_simulated_device(const EngineOptions& options,
                                                         const model::Model& model,
                                                         std::uint32_t max_model_len, std::uint32_t worker,
                                                         std::function<runtime::Executor&()> executor);

}  // namespace spillway
