// SPDX-License-Identifier: Apache-2.0
#pragma once

// EnginePort: the one place where the I/O thread and the actors meet. Out of the I/O thread go plain messages to the
// router; what the router sends comes to one client actor, which hands its whole mailbox over as one piece, so that a
// step of a thousand sequences wakes the I/O thread once.
//
// Deltas that wait for their reader become one: whoever is behind gets fewer and longer ones.
//
// Everything here belongs to the I/O thread, except the actor. A Generation that is not read grants no credits: the
// router then holds its sequences and, after a limit, cuts them; nobody else notices.

#include <boost/asio/any_io_executor.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <unordered_map>
#include <variant>
#include <vector>

#include "actors/engine.hpp"

namespace spillway::net {

class EnginePort;

/// The request will not run. Its only event.
struct GenerationRefused {
  Error error;
};
/// The router took it. Comes first, unless it was refused.
struct GenerationAccepted {};
using GenerationEvent =
    std::variant<GenerationRefused, GenerationAccepted, ChoiceDelta, ChoiceFinished, ChoiceFailed, RequestDone>;

/// One request under way. Dropping it before its end cancels it.
class Generation {
 public:
  Generation(EnginePort& port, std::uint64_t tag, std::function<void()> on_event)
      : port_(port), tag_(tag), on_event_(std::move(on_event)) {}
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;
  ~Generation();

  /// The next event, if there is one; GenerationRefused or RequestDone is the last.
  [[nodiscard]] std::optional<GenerationEvent> poll();
  [[nodiscard]] bool ended() const noexcept { return ended_; }
  /// The choices end with FinishReason::kCancelled.
  void cancel();

 private:
  friend class EnginePort;
  EnginePort& port_;
  std::uint64_t tag_;
  std::function<void()> on_event_;
  std::optional<actors::RequestId> id_;
  struct Filed {
    GenerationEvent event;
    std::uint32_t deltas = 0;  // that became this one, each of which cost a credit
  };
  void file(GenerationEvent event);
  std::deque<Filed> events_;
  std::uint32_t taken_ = 0;  // deltas read since credits were granted
  bool cancelled_ = false;
  bool ended_ = false;  // the last event was read
};

class EnginePort {
 public:
  /// The engine outlives the port's use, the executor the engine. `credits`: deltas a stream may be ahead.
  EnginePort(Engine& engine, boost::asio::any_io_executor executor, std::uint32_t credits);
  EnginePort(const EnginePort&) = delete;
  EnginePort& operator=(const EnginePort&) = delete;
  ~EnginePort();

  /// `on_event` is called on the I/O thread whenever there is something to poll; it must not drop the Generation.
  [[nodiscard]] std::unique_ptr<Generation> generate(GenerationRequest request, std::function<void()> on_event,
                                                     actors::PrefixHash salt = {});

  using OnSnapshot = std::function<void(const actors::EngineSnapshot&)>;
  void snapshot(bool blocks, OnSnapshot on_snapshot);

  [[nodiscard]] Engine& engine() noexcept { return engine_; }
  /// Requests that have not ended.
  [[nodiscard]] std::size_t open() const noexcept { return open_.size(); }

 private:
  friend class Generation;
  using Batch = std::vector<actors::ClientMessage>;
  struct Shared;  // what a batch on its way finds when the port has gone

  void handle(Batch& batch);
  void cancel(actors::RequestId id);
  /// Cancels what nobody will read: its last deltas need no reader's credits.
  void abandon(actors::RequestId id);
  void grant(actors::RequestId id, std::uint32_t credits);
  static runtime::Task<void> collect(runtime::ActorContext<actors::ClientMessage>& self, std::shared_ptr<Shared> shared);

  Engine& engine_;
  std::uint32_t credits_;
  std::shared_ptr<Shared> shared_;
  actors::ClientAddress actor_;
  std::unordered_map<std::uint64_t, Generation*> open_;
  std::unordered_map<std::uint64_t, OnSnapshot> snapshots_;
  std::uint64_t last_tag_ = 0;
};

}  // namespace spillway::net
