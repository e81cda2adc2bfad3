// SPDX-License-Identifier: Apache-2.0
#pragma once

// Executor: what actors run on. Two of them, ThreadExecutor and SimExecutor, run the same actors unchanged.
// Every function may be called from any thread unless it says otherwise.

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "runtime/address.hpp"
#include "runtime/supervision.hpp"
#include "runtime/task.hpp"
#include "runtime/time.hpp"

namespace spillway::runtime {

template <class M>
class ActorContext;
class Tracer;

/// SpawnOptions::worker: let the executor choose (round robin).
inline constexpr std::uint32_t kAnyWorker = ~0U;

struct SpawnOptions {
  std::string name;                        // for traces, reports and death notices
  std::uint32_t worker = kAnyWorker;       // taken modulo worker_count()
  std::uint32_t mailbox_capacity = 1024;   // messages by try_send and send; at least 1
  SupervisorPolicy supervisor;
};

/// Something that must be looked at while it has work under way, such as an accelerator's events.
class Poller {
 public:
  virtual ~Poller() = default;
  /// True while work is outstanding: the worker then does not park.
  virtual bool poll() noexcept = 0;
};

struct CutActor {
  std::string name;
  std::uint64_t actor_id = 0;
  std::string waiting_for;  // "mail", "reply", "room", "sleep", "start" or "running"
  std::uint64_t mail_dropped = 0;
};

struct ShutdownReport {
  std::uint64_t finished = 0;   // actors that returned by themselves in the executor's lifetime
  std::vector<CutActor> cut;    // frames destroyed at the deadline, in the order of destruction
  [[nodiscard]] bool clean() const noexcept { return cut.empty(); }
};

namespace detail {

/// Makes the coroutine again after a failure.
class FrameFactory {
 public:
  virtual ~FrameFactory() = default;
  virtual std::coroutine_handle<Promise<void>> make(ActorCell* cell) = 0;
};

}  // namespace detail

class Executor {
 public:
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;
  virtual ~Executor() = default;

  /// Starts an actor: `fn` is a coroutine function `Task<void> fn(ActorContext<M>&, Args...)`, its arguments by
  /// value; a lambda must not capture.
  template <class M, class F, class... Args>
  Address<M> spawn(SpawnOptions options, F fn, Args&&... args) {
    const Address<M> address = reserve<M>(std::move(options));
    start(address, fn, std::forward<Args>(args)...);
    return address;
  }

  /// An address for an actor that start() runs later; mail waits in its mailbox meanwhile.
  template <class M>
  [[nodiscard]] Address<M> reserve(SpawnOptions options = {}) {
    detail::ActorCell* cell = reserve_cell(std::move(options));
    static_assert(sizeof(ActorContext<M>) == sizeof(void*) && std::is_trivially_destructible_v<ActorContext<M>>);
    ::new (static_cast<void*>(&cell->context)) ActorContext<M>(cell);
    return Address<M>(cell, cell->generation.load(std::memory_order_relaxed));
  }

  /// Exactly once for each reserved address.
  template <class M, class F, class... Args>
  void start(Address<M> address, F fn, Args&&... args) {
    static_assert(std::is_empty_v<F> || std::is_pointer_v<F>,
                  "an actor's coroutine function must not capture: pass arguments by value instead");
    detail::ActorCell* cell = address.cell();
    SPW_CHECK(cell != nullptr && address.alive());
    if (wants_factory(cell)) {
      if constexpr ((std::is_copy_constructible_v<std::decay_t<Args>> && ...)) {
        set_factory(cell, std::make_unique<Factory<M, F, std::decay_t<Args>...>>(fn, args...));
      } else {
        SPW_CHECK(!"an actor that may restart needs arguments that can be copied");
      }
    }
    start_cell(cell, fn(context_of<M>(cell), std::forward<Args>(args)...).release());
  }

  [[nodiscard]] virtual TimePoint now() const = 0;
  [[nodiscard]] virtual std::uint32_t worker_count() const noexcept = 0;

  /// Runs `callback()` once on the worker's thread when its clock has reached `when`. For devices and the like that
  /// are no actors; must not block or throw.
  template <class F>
  void call_at(std::uint32_t worker, TimePoint when, F callback) {
    schedule_call(worker, when, detail::InvokeEnvelope<F>::make(std::move(callback)));
  }
  template <class F>
  void call_soon(std::uint32_t worker, F callback) {
    call_at(worker, TimePoint::min(), std::move(callback));
  }

  /// The poller is called in every round of the worker's loop until it is removed. Not owned. remove_poller returns
  /// when it will not be called again; call it from the worker itself or from a thread that is no worker.
  virtual void add_poller(std::uint32_t worker, Poller* poller) = 0;
  virtual void remove_poller(std::uint32_t worker, Poller* poller) = 0;

  /// Requests a stop of every actor, waits until all have returned or `drain` has passed, then destroys the rest in
  /// reverse order of spawning. Call once, not from a worker. Mail that finds its actor gone is destroyed.
  virtual ShutdownReport shutdown(Duration drain) = 0;

  /// Actors that have failed so far (an exception at the root), restarted or not.
  [[nodiscard]] std::uint64_t failure_count() const noexcept { return failures_.load(std::memory_order_relaxed); }

  /// For ask_blocking: sleeps, or runs the simulation, until `flag` is not 0 or the deadline has passed.
  virtual void wait_flag(std::atomic<std::uint32_t>& flag, TimePoint deadline) = 0;

 protected:
  Executor() = default;

  virtual detail::WorkerCore& worker_core(std::uint32_t index) noexcept = 0;
  virtual void schedule_call(std::uint32_t worker, TimePoint when, detail::Envelope* call) = 0;

  /// The end of a shutdown, on a thread that may play every worker's part: no other runs. Destroys all actors in
  /// reverse order of spawning, then all mail and timers that are left.
  static void cut(const std::vector<detail::WorkerCore*>& workers, ShutdownReport& report);

  std::atomic<std::uint64_t> failures_{0};
  std::atomic<std::uint64_t> live_{0};       // actors reserved and not yet gone
  std::atomic<std::uint32_t> draining_{0};   // shutdown waits for all_gone_
  std::atomic<std::uint32_t> all_gone_{0};

 private:
  friend class detail::WorkerCore;

  template <class M>
  static ActorContext<M>& context_of(detail::ActorCell* cell) noexcept {
    return *std::launder(reinterpret_cast<ActorContext<M>*>(&cell->context));
  }

  template <class M, class F, class... Args>
  class Factory final : public detail::FrameFactory {
   public:
    template <class... Given>
    explicit Factory(F fn, const Given&... args) : fn_(fn), args_(args...) {}
    std::coroutine_handle<detail::Promise<void>> make(detail::ActorCell* cell) override {
      return std::apply([&](const Args&... args) { return fn_(context_of<M>(cell), Args(args)...).release(); }, args_);
    }

   private:
    F fn_;
    std::tuple<Args...> args_;
  };

  detail::ActorCell* reserve_cell(SpawnOptions options);
  void actor_gone() noexcept;
  bool wants_factory(const detail::ActorCell* cell) const noexcept;
  void set_factory(detail::ActorCell* cell, std::unique_ptr<detail::FrameFactory> factory);
  void start_cell(detail::ActorCell* cell, std::coroutine_handle<detail::Promise<void>> root);

  std::atomic<std::uint64_t> next_spawn_{1};
};

}  // namespace spillway::runtime
