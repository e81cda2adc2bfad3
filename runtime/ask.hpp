// SPDX-License-Identifier: Apache-2.0
#pragma once

// ask: a question with exactly one answer.
//   Result<Pong> r = co_await ask<Pong>(address, [&](Reply<Pong> reply) { return Message{Ping{.., std::move(reply)}}; },
//                                       self.now() + 5s);
// The slot for the answer is in the asker's frame, named by a number that no later question bears, so an answer that
// comes late, twice or after the asker has died is destroyed. A Reply dropped unanswered answers kClosed; a deadline
// that passes gives kDeadlineExceeded. A full mailbox makes the question wait for room (within the deadline).

#include <coroutine>
#include <exception>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "runtime/address.hpp"
#include "runtime/blocking_slot.hpp"
#include "runtime/executor.hpp"
#include "runtime/result.hpp"

namespace spillway::runtime {

namespace detail {

/// Takes an answer to somebody who does not wait in a frame.
template <class T>
class ReplyForward {
 public:
  virtual ~ReplyForward() = default;
  virtual void deliver(Result<T>&& result) = 0;
};

}  // namespace detail

/// The right to answer one question; move-only, carried inside a message. May be used on any thread.
template <class T>
class [[nodiscard]] Reply {
 public:
  Reply() noexcept = default;  // answers nobody
  Reply(Reply&& other) noexcept
      : cell_(std::exchange(other.cell_, nullptr)),
        number_(std::exchange(other.number_, 0)),
        slot_(std::exchange(other.slot_, nullptr)),
        forward_(std::move(other.forward_)) {}
  Reply& operator=(Reply&& other) noexcept {
    if (this != &other) {
      close();
      cell_ = std::exchange(other.cell_, nullptr);
      number_ = std::exchange(other.number_, 0);
      slot_ = std::exchange(other.slot_, nullptr);
      forward_ = std::move(other.forward_);
    }
    return *this;
  }
  ~Reply() { close(); }

  /// True while the question is unanswered by this Reply.
  explicit operator bool() const noexcept { return cell_ != nullptr || slot_ != nullptr || forward_ != nullptr; }

  template <class U = T>
    requires(!std::is_void_v<U>)
  void send(U value) {
    answer(Result<T>(std::move(value)));
  }
  void send()
    requires std::is_void_v<T>
  {
    answer(Result<void>());
  }
  void fail(Error error) { answer(Result<T>(std::move(error))); }

  /// For the runtime's own use.
  Reply(detail::ActorCell* asker, std::uint64_t number) noexcept : cell_(asker), number_(number) {}
  explicit Reply(detail::BlockingSlot<T>* slot) noexcept : slot_(slot) {}
  explicit Reply(std::unique_ptr<detail::ReplyForward<T>> forward) noexcept : forward_(std::move(forward)) {}

 private:
  void close() noexcept {
    if (*this) answer(Result<T>(Error{Errc::kClosed, "the question was dropped without an answer"}));
  }

  static void fill(detail::WorkerCore* worker, detail::ActorCell* cell, std::uint64_t number, Result<T>&& result) {
    if (cell->wait != detail::Wait::kReply || cell->wait_number != number) return;
    static_cast<std::optional<Result<T>>*>(cell->wait_slot)->emplace(std::move(result));
    worker->end_wait(cell, number, detail::Wait::kReply);
  }

  void answer(Result<T>&& result) {
    if (auto* slot = std::exchange(slot_, nullptr)) {
      slot->fill(std::move(result));
      return;
    }
    if (const auto forward = std::move(forward_)) {
      forward->deliver(std::move(result));
      return;
    }
    detail::ActorCell* cell = std::exchange(cell_, nullptr);
    if (cell == nullptr) return;
    detail::WorkerCore* here = detail::tls_worker;
    if (here != nullptr && here == cell->worker.load(std::memory_order_relaxed) && here->hooks == nullptr) [[likely]] {
      fill(here, cell, number_, std::move(result));
      return;
    }
    if (here != nullptr && here == cell->worker.load(std::memory_order_relaxed) && cell->wait_number != number_) {
      return;  // late; not for a simulation to spend a random number on
    }
    auto work = [cell, number = number_, result = std::move(result)]() mutable {
      fill(detail::tls_worker, cell, number, std::move(result));
    };
    auto* envelope = detail::InvokeEnvelope<decltype(work)>::make(std::move(work));
    envelope->target = cell;
    envelope->sender = here != nullptr ? here->current : nullptr;
    detail::route(envelope);
  }

  detail::ActorCell* cell_ = nullptr;
  std::uint64_t number_ = 0;
  detail::BlockingSlot<T>* slot_ = nullptr;
  std::unique_ptr<detail::ReplyForward<T>> forward_;
};

/// A Reply whose answer, kClosed included, is posted to `target` as the message that `wrap` makes of it. For an asker
/// that has many questions open and awaits none of them. In order with what the answerer sends to `target` besides.
template <class T, class M, class Wrap>
Reply<T> reply_to(Address<M> target, Wrap wrap) {
  struct Forward final : detail::ReplyForward<T> {
    Forward(Address<M> t, Wrap w) : target(std::move(t)), wrap(std::move(w)) {}
    void deliver(Result<T>&& result) override { target.post(M(wrap(std::move(result)))); }
    Address<M> target;
    Wrap wrap;
  };
  return Reply<T>(std::unique_ptr<detail::ReplyForward<T>>(std::make_unique<Forward>(std::move(target), std::move(wrap))));
}

namespace detail {

template <class M>
void ask_send(Address<M> target, M&& question) {
  if (target.try_send(std::move(question)) == SendStatus::kFull) target.send_queued(std::move(question), 0);
}

}  // namespace detail

template <class T, class M, class Make>
class [[nodiscard]] AskAwaiter {
 public:
  AskAwaiter(Address<M> target, Make&& make, TimePoint deadline)
      : target_(target), make_(std::move(make)), deadline_(deadline) {}
  AskAwaiter(const AskAwaiter&) = delete;
  AskAwaiter& operator=(const AskAwaiter&) = delete;

  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> self) {
    const std::uint64_t number = detail::begin_wait(self, detail::Wait::kReply, &answer_);
    detail::WorkerCore* worker = detail::tls_worker;
    if (deadline_ != kNoDeadline) {
      timer_ = worker->timers.add(deadline_, worker->current, nullptr, number);
      timer_number_ = timer_->number;
    }
    try {
      detail::ask_send(target_, M(make_(Reply<T>(worker->current, number))));
    } catch (...) {  // from make_; thrown again in the asker, through the run queue as any other answer
      exception_ = std::current_exception();
      worker->end_wait(worker->current, number, detail::Wait::kReply);
    }
  }
  Result<T> await_resume() {
    if (exception_) [[unlikely]] std::rethrow_exception(exception_);
    if (!answer_) return Error{Errc::kDeadlineExceeded, "no answer within the deadline"};
    if (timer_ != nullptr) {
      detail::TimerQueue& timers = detail::tls_worker->timers;
      if (detail::TimerNode* node = timers.find(timer_, timer_number_)) timers.cancel(node);
    }
    return std::move(*answer_);
  }

 private:
  Address<M> target_;
  Make make_;
  TimePoint deadline_;
  std::optional<Result<T>> answer_;
  std::exception_ptr exception_;
  detail::TimerNode* timer_ = nullptr;
  std::uint64_t timer_number_ = 0;
};

/// Inside an actor.
template <class T, class M, class Make>
AskAwaiter<T, M, Make> ask(Address<M> target, Make make, TimePoint deadline = kNoDeadline) {
  return AskAwaiter<T, M, Make>(target, std::move(make), deadline);
}
template <class T, class M, class Make>
AskAwaiter<T, M, Make> ask(Address<M> target, Make make, Duration timeout) {
  return AskAwaiter<T, M, Make>(target, std::move(make),
                                saturating_add(detail::tls_worker->executor->now(), timeout));
}

/// From a thread that is no worker. Under SimExecutor it runs the simulation until the answer is there.
template <class T, class M, class Make>
Result<T> ask_blocking(Executor& executor, Address<M> target, Make make, Duration timeout) {
  detail::BlockingSlotOwner<T> slot;
  detail::ask_send(target, M(make(Reply<T>(slot.share()))));
  return slot.wait(executor, saturating_add(executor.now(), timeout));
}
template <class T, class M, class Make>
Result<T> ask_blocking(Executor& executor, Address<M> target, Make make, TimePoint deadline = kNoDeadline) {
  detail::BlockingSlotOwner<T> slot;
  detail::ask_send(target, M(make(Reply<T>(slot.share()))));
  return slot.wait(executor, deadline);
}

}  // namespace spillway::runtime
