// SPDX-License-Identifier: Apache-2.0
#include "actors/transfer_engine.hpp"

#include <deque>
#include <unordered_set>

namespace spillway::actors {
namespace {

class TransferEngine {
 public:
  explicit TransferEngine(TransferEngineConfig config) : config_(std::move(config)) {}

  void handle(TransferBlocks& message) {
    waiting_.push_back(std::move(message));
    start();
  }

  void handle(CopyDone& message) {
    if (in_flight_.erase(message.transfer) == 0) return;
    config_.block_manager.post(BlockManagerMessage{TransferDone{message.transfer, message.failed}});
    start();
  }

 private:
  void start() {
    while (!waiting_.empty() && in_flight_.size() < config_.copies_in_flight_max) {
      TransferBlocks next = std::move(waiting_.front());
      waiting_.pop_front();
      in_flight_.insert(next.transfer);
      config_.decoder.post(ExecuteCopy{next.transfer, std::move(next.plan)});
    }
  }

  TransferEngineConfig config_;
  std::deque<TransferBlocks> waiting_;  // bounded by the sequences there are: one transfer each
  std::unordered_set<TransferId> in_flight_;
};

}  // namespace

runtime::Task<void> transfer_engine(runtime::ActorContext<TransferEngineMessage>& self,
                                    TransferEngineConfig config) {
  TransferEngine engine(std::move(config));
  while (auto message = co_await self.receive()) {
    std::visit([&](auto& body) { engine.handle(body); }, *message);
  }
}

}  // namespace spillway::actors
