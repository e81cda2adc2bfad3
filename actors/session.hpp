// SPDX-License-Identifier: Apache-2.0
#pragma once

// Session: a client actor's side of the protocol. It submits requests to the router and hands out their
// events, however they interleave, to whoever awaits them. Lives in the client actor's coroutine and nowhere
// else.

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <utility>
#include <variant>

#include "actors/messages.hpp"

namespace spillway::actors {

/// What to generate.
struct GenerationRequest {
  std::vector<TokenId> prompt;
  model::SamplingParams params;
};

/// One event of a stream; RequestDone is the last.
using StreamEvent = std::variant<ChoiceDelta, ChoiceFinished, ChoiceFailed, RequestDone>;

/// Number of a stream within its session, from 1.
using StreamTag = std::uint64_t;

class Session;

/// The answer to one request. Move-only; dropping it before its end cancels the request.
class Stream {
 public:
  Stream(Stream&& other) noexcept : session_(std::exchange(other.session_, nullptr)), tag_(other.tag_) {}
  Stream& operator=(Stream&&) = delete;
  ~Stream();

  /// The next event of any of the request's choices: deltas, and one end for each choice. Empty after the
  /// last.
  [[nodiscard]] runtime::Task<std::optional<StreamEvent>> next();
  /// Asks for an early end; events go on until the last.
  void cancel();
  [[nodiscard]] StreamTag tag() const noexcept { return tag_; }

 private:
  friend class Session;
  Stream(Session* session, StreamTag tag) : session_(session), tag_(tag) {}

  Session* session_;
  StreamTag tag_;
};

class Session {
 public:
  /// `credits`: deltas that a stream may be ahead of its reader, at least 1.
  Session(runtime::ActorContext<ClientMessage>& self, runtime::Address<RouterMessage> router,
          std::uint32_t credits = 256)
      : self_(self), router_(std::move(router)), credits_(credits) {}
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// Queues a request. Errors: kInvalidArgument (names the field), kOutOfMemory, kQueueFull, kClosed.
  [[nodiscard]] runtime::Task<Result<Stream>> generate(GenerationRequest request);

  /// The next event of whichever stream has one; empty when none is open. For a client that reads many at
  /// once.
  [[nodiscard]] runtime::Task<std::optional<std::pair<StreamTag, StreamEvent>>> next_event();

  [[nodiscard]] runtime::TimePoint now() const { return self_.now(); }
  /// StopSession has come: everything open was cancelled, and nothing new is accepted.
  [[nodiscard]] bool stopped() const noexcept { return stopped_; }

 private:
  friend class Stream;
  struct Open {
    RequestId id{};
    std::deque<StreamEvent> events;
    std::uint32_t taken = 0;  // deltas read since credits were last granted
  };

  /// Waits for one message and files it. False when the actor is told to end.
  [[nodiscard]] runtime::Task<bool> pump();
  [[nodiscard]] StreamEvent take(std::map<StreamTag, Open>::iterator open);
  void cancel_all();

  runtime::ActorContext<ClientMessage>& self_;
  runtime::Address<RouterMessage> router_;
  std::uint32_t credits_;
  std::map<StreamTag, Open> open_;
  std::deque<StreamTag> ready_;  // streams in the order of their events
  StreamTag last_tag_ = 0;
  bool stopped_ = false;
};

}  // namespace spillway::actors
