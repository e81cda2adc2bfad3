// SPDX-License-Identifier: Apache-2.0
#pragma once

// Address<M>: names an actor that takes messages of type M. A small value: copy it, compare it, keep it as long as
// you like. Every function may be called from any thread, actor or not; none of them blocks. An executor must outlive
// calls that are under way on other threads, but not the addresses: afterwards they answer kDead.
//
// Order: what one sender (an actor, or a thread that is none) sends to one receiver by try_send, send and post
// arrives in that order. Urgent mail has an order of its own and is taken first.

#include <compare>
#include <coroutine>
#include <cstdint>
#include <functional>
#include <utility>

#include "runtime/actor_cell.hpp"

namespace spillway::runtime {

template <class M>
class ActorContext;

template <class M>
class Address {
 public:
  using Message = M;

  Address() noexcept = default;  // names nobody; answers kDead

  /// Bounded by the receiver's mailbox_capacity. The message is left untouched unless kOk is returned.
  SendStatus try_send(M&& message) const {
    if (!alive()) return SendStatus::kDead;
    detail::WorkerCore* here = detail::tls_worker;
    if (here != nullptr && here == cell_->worker.load(std::memory_order_relaxed) && here->hooks == nullptr) [[likely]] {
      if (!cell_->has_room()) return SendStatus::kFull;
      auto* envelope = make(std::move(message), detail::EnvelopeKind::kMail, detail::Credit::kLocal);
      cell_->add_local_mail(1);
      here->deliver_mail(cell_, envelope);
      return SendStatus::kOk;
    }
    detail::Credit credit;
    if (!detail::take_credit(cell_, credit)) return SendStatus::kFull;
    detail::route(make(std::move(message), detail::EnvelopeKind::kMail, credit));
    return SendStatus::kOk;
  }
  SendStatus try_send(const M& message) const
    requires std::is_copy_constructible_v<M>
  {
    M copy(message);
    return try_send(std::move(copy));
  }

  /// Never refused, takes no credit: for replies, completions, lease releases and death notices, whose number is
  /// bounded by what they answer. Dropped (with its destructor) when the actor has ended.
  void post(M message) const { send_free(std::move(message), detail::EnvelopeKind::kMail); }

  /// As post, but taken before all normal mail: cancel, shutdown.
  SendStatus send_urgent(M message) const {
    return send_free(std::move(message), detail::EnvelopeKind::kUrgent) ? SendStatus::kOk : SendStatus::kDead;
  }

  class SendAwaiter;
  /// Inside an actor: `co_await address.send(message)` waits for room. Yields kOk, or kDead when the receiver has
  /// ended or ends while waiting. Two actors that send() to each other with both mailboxes full wait for ever: send
  /// in one direction of a cycle only, and post or try_send in the other.
  [[nodiscard]] SendAwaiter send(M message) const { return SendAwaiter(*this, std::move(message)); }

  /// False for good once the actor has ended; a true may be outdated on arrival.
  [[nodiscard]] bool alive() const noexcept {
    return cell_ != nullptr && cell_->generation.load(std::memory_order_acquire) == generation_;
  }
  explicit operator bool() const noexcept { return cell_ != nullptr; }

  friend bool operator==(const Address&, const Address&) noexcept = default;
  friend auto operator<=>(const Address&, const Address&) noexcept = default;
  [[nodiscard]] std::size_t hash() const noexcept {
    return std::hash<const void*>{}(cell_) ^ (std::size_t{generation_} * 0x9e3779b97f4a7c15ULL);
  }

  /// For the runtime's own use.
  Address(detail::ActorCell* cell, std::uint32_t generation) noexcept : cell_(cell), generation_(generation) {}
  [[nodiscard]] detail::ActorCell* cell() const noexcept { return cell_; }
  [[nodiscard]] std::uint32_t generation() const noexcept { return generation_; }

  /// For ask: like post, but charged to the mailbox as soon as there is room, and in the way of others until then.
  void send_queued(M message, std::uint64_t sender_wait) const {
    if (!alive()) {
      if (sender_wait != 0) detail::refuse_wait(sender_wait);
      return;
    }
    detail::route(make(std::move(message), detail::EnvelopeKind::kMail, detail::Credit::kWaits, sender_wait));
  }

 private:
  detail::Envelope* make(M&& message, detail::EnvelopeKind kind, detail::Credit credit,
                         std::uint64_t sender_wait = 0) const {
    auto* envelope = detail::MessageEnvelope<M>::make(std::move(message));
    envelope->target = cell_;
    envelope->generation = generation_;
    envelope->kind = kind;
    envelope->credit = credit;
    envelope->sender = detail::tls_worker != nullptr ? detail::tls_worker->current : nullptr;
    envelope->sender_wait = sender_wait;
    return envelope;
  }

  bool send_free(M&& message, detail::EnvelopeKind kind) const {
    if (!alive()) return false;
    detail::route(make(std::move(message), kind, detail::Credit::kNone));
    return true;
  }

  detail::ActorCell* cell_ = nullptr;
  std::uint32_t generation_ = 0;
};

template <class M>
class Address<M>::SendAwaiter {
 public:
  SendAwaiter(Address target, M&& message) : target_(target), message_(std::move(message)) {}
  SendAwaiter(const SendAwaiter&) = delete;
  SendAwaiter& operator=(const SendAwaiter&) = delete;

  bool await_ready() {
    status_ = target_.try_send(std::move(message_));
    return status_ != SendStatus::kFull;
  }
  void await_suspend(std::coroutine_handle<> self) {
    const std::uint64_t number = detail::begin_wait(self, detail::Wait::kRoom, &status_);
    status_ = SendStatus::kOk;
    target_.send_queued(std::move(message_), number);
  }
  [[nodiscard]] SendStatus await_resume() const noexcept { return status_; }

 private:
  Address target_;
  M message_;
  SendStatus status_ = SendStatus::kDead;
};

}  // namespace spillway::runtime

template <class M>
struct std::hash<spillway::runtime::Address<M>> {
  std::size_t operator()(const spillway::runtime::Address<M>& address) const noexcept { return address.hash(); }
};
