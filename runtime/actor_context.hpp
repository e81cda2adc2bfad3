// SPDX-License-Identifier: Apache-2.0
#pragma once

// ActorContext<M>: an actor's own side of the runtime, passed by reference to its coroutine
//   Task<void> fn(ActorContext<M>& self, Args... by value);
// It lives as long as the frame. Only the actor's coroutine and the Tasks it awaits may use it.

#include <coroutine>
#include <optional>
#include <utility>

#include "runtime/address.hpp"
#include "runtime/executor.hpp"
#include "runtime/task.hpp"
#include "runtime/time.hpp"

namespace spillway::runtime {

/// Names one timer; a default TimerId names none. Late use is harmless.
class TimerId {
 public:
  TimerId() noexcept = default;
  explicit operator bool() const noexcept { return node_ != nullptr; }
  TimerId(detail::TimerNode* node, std::uint64_t number) noexcept : node_(node), number_(number) {}

 private:
  template <class M>
  friend class ActorContext;
  detail::TimerNode* node_ = nullptr;
  std::uint64_t number_ = 0;
};

template <class M>
class ActorContext {
 public:
  using Message = M;

  ActorContext(const ActorContext&) = delete;
  ActorContext& operator=(const ActorContext&) = delete;

  class ReceiveAwaiter {
   public:
    explicit ReceiveAwaiter(detail::ActorCell* cell) noexcept : cell_(cell) {}
    bool await_ready() noexcept {
      detail::WorkerCore* worker = detail::tls_worker;
      if (worker->tracer != nullptr) [[unlikely]] worker->trace_message_end(cell_);
      if (worker->budget == 0) return false;
      --worker->budget;
      return cell_->has_mail() || cell_->stop_requested;
    }
    void await_suspend(std::coroutine_handle<> self) noexcept {
      cell_->resume_at = self;
      if (cell_->has_mail() || cell_->stop_requested) {
        detail::tls_worker->push_run(cell_);
      } else {
        detail::tls_worker->suspend_for_mail(cell_);
      }
    }
    std::optional<M> await_resume() { return ActorContext(cell_).take(); }

   private:
    detail::ActorCell* cell_;
  };

  /// Waits for the next message. nullopt: a stop was requested and the mailbox is drained; return soon.
  [[nodiscard]] ReceiveAwaiter receive() noexcept { return ReceiveAwaiter(cell_); }

  /// The next message if there is one now. Does not count against the budget: drain, then co_await something.
  [[nodiscard]] std::optional<M> try_receive() {
    if (detail::tls_worker->tracer != nullptr) [[unlikely]] detail::tls_worker->trace_message_end(cell_);
    return take();
  }

  [[nodiscard]] Address<M> address() const noexcept {
    return Address<M>(cell_, cell_->generation.load(std::memory_order_relaxed));
  }
  [[nodiscard]] Executor& executor() const noexcept { return *detail::tls_worker->executor; }
  [[nodiscard]] TimePoint now() const { return executor().now(); }
  [[nodiscard]] Random& random() const noexcept { return detail::tls_worker->random; }
  /// Index of the worker this actor lives on.
  [[nodiscard]] std::uint32_t worker() const noexcept { return detail::tls_worker->index; }
  [[nodiscard]] bool stop_requested() const noexcept { return cell_->stop_requested; }

  /// Delivers `message` to this actor after `delay`, past the mailbox's bound. Gone with the actor.
  TimerId send_after(Duration delay, M message) { return send_at(saturating_add(now(), delay), std::move(message)); }
  TimerId send_at(TimePoint when, M message) {
    auto* envelope = detail::MessageEnvelope<M>::make(std::move(message));
    envelope->target = cell_;
    envelope->generation = cell_->generation.load(std::memory_order_relaxed);
    envelope->sender = cell_;
    detail::TimerNode* node = detail::tls_worker->timers.add(when, cell_, envelope, 0);
    return TimerId(node, node->number);
  }
  /// True: the timer had not fired and its message is destroyed. False: too late, or never was.
  bool cancel_timer(TimerId id) {
    detail::TimerQueue& timers = detail::tls_worker->timers;
    detail::TimerNode* node = timers.find(id.node_, id.number_);
    if (node == nullptr) return false;
    timers.cancel(node);
    return true;
  }

  class YieldAwaiter {
   public:
    explicit YieldAwaiter(detail::ActorCell* cell) noexcept : cell_(cell) {}
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> self) const noexcept {
      cell_->resume_at = self;
      detail::tls_worker->push_run(cell_);
    }
    void await_resume() const noexcept {}

   private:
    detail::ActorCell* cell_;
  };
  /// Goes to the back of the run queue.
  [[nodiscard]] YieldAwaiter yield() noexcept { return YieldAwaiter(cell_); }

  class SleepAwaiter {
   public:
    explicit SleepAwaiter(TimePoint when) noexcept : when_(when) {}
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> self) const {
      const std::uint64_t number = detail::begin_wait(self, detail::Wait::kSleep, nullptr);
      detail::WorkerCore* worker = detail::tls_worker;
      worker->timers.add(when_, worker->current, nullptr, number);
    }
    void await_resume() const noexcept {}

   private:
    TimePoint when_;
  };
  /// Sleeps; mail waits meanwhile. An actor that must hear of cancels uses send_after instead.
  [[nodiscard]] SleepAwaiter sleep_until(TimePoint when) noexcept { return SleepAwaiter(when); }
  [[nodiscard]] SleepAwaiter sleep_for(Duration delay) { return SleepAwaiter(saturating_add(now(), delay)); }

  /// For the runtime's own use.
  explicit ActorContext(detail::ActorCell* cell) noexcept : cell_(cell) {}

 private:
  std::optional<M> take() {
    if (!cell_->has_mail()) return std::nullopt;
    detail::WorkerCore* worker = detail::tls_worker;
    auto* envelope = static_cast<detail::MessageEnvelope<M>*>(worker->take_mail(cell_));
    if (worker->tracer != nullptr) [[unlikely]] worker->trace_message_begin(cell_, name_of(envelope->value));
    struct Free {
      detail::Envelope* node;
      ~Free() { detail::MessageEnvelope<M>::destroy(node); }
    } const free_at_end{envelope};
    return std::optional<M>(std::move(envelope->value));
  }

  detail::ActorCell* cell_;
};

}  // namespace spillway::runtime
