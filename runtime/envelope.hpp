// SPDX-License-Identifier: Apache-2.0
#pragma once

// Envelope: the pooled node that carries one message (or one piece of the runtime's own mail) to an actor. Allocated
// by the sender, linked into exactly one queue at a time, freed by whoever takes the message out or drops it.

#include <cstdint>
#include <new>
#include <string_view>
#include <utility>

#include "runtime/message_name.hpp"
#include "runtime/pool.hpp"

namespace spillway::runtime::detail {

struct ActorCell;
struct Envelope;

enum class EnvelopeKind : std::uint8_t {
  kMail,     // to the mailbox
  kUrgent,   // to the urgent list
  kInvoke,   // run ops->invoke on the target's worker (replies, callbacks, control)
};

/// Which count in the receiver this message was charged to.
enum class Credit : std::uint8_t {
  kNone,    // post, urgent
  kLocal,   // ActorCell::local_mail
  kRemote,  // ActorCell::remote_mail
  kWaits,   // over the capacity: its sender waits for room, or asked for it to be queued until then
};

struct EnvelopeOps {
  void (*destroy)(Envelope*) noexcept;        // destroys the payload and frees the node
  void (*invoke)(Envelope*);                  // kInvoke: runs, then frees the node
  std::string_view (*name)(const Envelope*);  // for traces
};

struct Envelope {
  Envelope* next = nullptr;
  ActorCell* target = nullptr;
  const EnvelopeOps* ops = nullptr;
  ActorCell* sender = nullptr;      // the actor that sent it, null from elsewhere
  std::uint64_t sender_wait = 0;    // kWaits: the sender's wait to end when room comes, 0: nobody waits
  std::uint32_t generation = 0;     // of the target, as the sender knew it
  EnvelopeKind kind = EnvelopeKind::kMail;
  Credit credit = Credit::kNone;
};

template <class M>
struct MessageEnvelope final : Envelope {
  explicit MessageEnvelope(M&& message) : value(std::move(message)) {}

  M value;

  static void destroy(Envelope* envelope) noexcept {
    auto* self = static_cast<MessageEnvelope*>(envelope);
    self->~MessageEnvelope();
    pool_deallocate(self, sizeof(MessageEnvelope));
  }
  static std::string_view name(const Envelope* envelope) {
    return name_of(static_cast<const MessageEnvelope*>(envelope)->value);
  }
  static constexpr EnvelopeOps kOps{&destroy, nullptr, &name};

  static MessageEnvelope* make(M&& message) {
    static_assert(alignof(MessageEnvelope) <= kPoolGranule);
    void* memory = pool_allocate(sizeof(MessageEnvelope));
    MessageEnvelope* envelope;
    if constexpr (std::is_nothrow_move_constructible_v<M>) {
      envelope = new (memory) MessageEnvelope(std::move(message));
    } else {
      try {
        envelope = new (memory) MessageEnvelope(std::move(message));
      } catch (...) {
        pool_deallocate(memory, sizeof(MessageEnvelope));
        throw;
      }
    }
    envelope->ops = &kOps;
    return envelope;
  }
};

/// A piece of work for a worker: runs `function()` there once, or is destroyed unrun.
template <class F>
struct InvokeEnvelope final : Envelope {
  explicit InvokeEnvelope(F&& function_in) : function(std::move(function_in)) {}

  F function;

  static void destroy(Envelope* envelope) noexcept {
    auto* self = static_cast<InvokeEnvelope*>(envelope);
    self->~InvokeEnvelope();
    pool_deallocate(self, sizeof(InvokeEnvelope));
  }
  static void invoke(Envelope* envelope) {
    struct Free {
      Envelope* node;
      ~Free() { destroy(node); }
    } const free_at_end{envelope};
    static_cast<InvokeEnvelope*>(envelope)->function();
  }
  static std::string_view name(const Envelope*) { return "callback"; }
  static constexpr EnvelopeOps kOps{&destroy, &invoke, &name};

  static InvokeEnvelope* make(F function_in) {
    static_assert(alignof(InvokeEnvelope) <= kPoolGranule);
    auto* envelope = new (pool_allocate(sizeof(InvokeEnvelope))) InvokeEnvelope(std::move(function_in));
    envelope->ops = &kOps;
    envelope->kind = EnvelopeKind::kInvoke;
    return envelope;
  }
};

}  // namespace spillway::runtime::detail
