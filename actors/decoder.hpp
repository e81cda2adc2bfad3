// SPDX-License-Identifier: Apache-2.0
#pragma once

// The decoder actor: one for each device, and the only one that touches it. It submits steps and copies in
// the order they come and passes results on when the device says they are complete. It never waits for the
// device.

#include <memory>

#include "actors/messages.hpp"
#include "gpu/device.hpp"

namespace spillway::actors {

/// Turns a device's completions into messages to its decoder. Outlives the device.
class DecoderSink final : public gpu::CompletionSink {
 public:
  explicit DecoderSink(runtime::Address<DecoderMessage> decoder) : decoder_(std::move(decoder)) {}
  void on_step_complete(gpu::Ticket ticket) noexcept override;
  void on_copy_complete(gpu::Ticket ticket) noexcept override;

 private:
  runtime::Address<DecoderMessage> decoder_;
};

struct DecoderConfig {
  gpu::Device* device = nullptr;  // outlives the actor
  runtime::Address<SchedulerMessage> scheduler;
  runtime::Address<TransferEngineMessage> transfer_engine;
};

runtime::Task<void> decoder(runtime::ActorContext<DecoderMessage>& self, DecoderConfig config);

}  // namespace spillway::actors
