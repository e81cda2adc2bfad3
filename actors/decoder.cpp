// SPDX-License-Identifier: Apache-2.0
#include "actors/decoder.hpp"

#include <unordered_map>

namespace spillway::actors {

void DecoderSink::on_step_complete(gpu::Ticket ticket) noexcept { decoder_.post(StepCompleted{ticket}); }
void DecoderSink::on_copy_complete(gpu::Ticket ticket) noexcept { decoder_.post(CopyCompleted{ticket}); }

namespace {

class Decoder {
 public:
  explicit Decoder(DecoderConfig config) : config_(std::move(config)) {}

  void handle(ExecuteStep& message) {
    const std::uint64_t step = message.plan.step;
    Result<gpu::Ticket> ticket = config_.device->submit(std::move(message.plan));
    if (ticket.ok()) {
      last_step_ = *ticket;
      return;
    }
    config_.scheduler.post(StepDone{{.step = step, .failed = true, .message = ticket.error().message}});
  }

  // Every completed step is reported, also one that an earlier life of this actor submitted: the scheduler
  // knows which results still count.
  void handle(StepCompleted& message) {
    config_.scheduler.post(StepDone{config_.device->take(message.ticket)});
  }

  void handle(ExecuteCopy& message) {
    // Write-after-write: a step in flight may still write to a block that was given back and now receives the
    // copy.
    message.plan.wait_for_step = last_step_;
    const Result<gpu::Ticket> ticket = config_.device->copy(std::move(message.plan));
    if (ticket.ok()) {
      copies_.emplace(*ticket, message.transfer);
    } else {
      config_.transfer_engine.post(CopyDone{message.transfer, true});
    }
  }

  void handle(CopyCompleted& message) {
    auto copy = copies_.extract(message.ticket);
    if (!copy.empty()) config_.transfer_engine.post(CopyDone{copy.mapped(), false});
  }

 private:
  DecoderConfig config_;
  gpu::Ticket last_step_ = 0;
  std::unordered_map<gpu::Ticket, TransferId> copies_;
};

}  // namespace

runtime::Task<void> decoder(runtime::ActorContext<DecoderMessage>& self, DecoderConfig config) {
  Decoder decoder(std::move(config));
  while (auto message = co_await self.receive()) {
    std::visit([&](auto& body) { decoder.handle(body); }, *message);
  }
}

}  // namespace spillway::actors
