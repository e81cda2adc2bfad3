// SPDX-License-Identifier: Apache-2.0
#pragma once

// SimExecutor: one thread, a virtual clock, a seed. It picks the next runnable actor at random, lets it take a random
// number of messages, and injects what the fault plan says; the same seed and the same program give the same run, to
// the last delivery (trace_hash). Time passes only when nothing is runnable. Workers are logical: any number, all on
// the thread that calls the run functions. Actors see no difference from ThreadExecutor.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/executor.hpp"
#include "runtime/random.hpp"

namespace spillway::runtime {

struct FaultPlan {
  double delay_probability = 0;                    // a message stays under way for a random time ...
  Duration delay_max = std::chrono::milliseconds(1);  // ... up to this; order per sender and receiver is kept
  double crash_probability = 0;                    // at each resume of an actor: it fails as if it had thrown
  std::vector<std::string> crash_only;             // names that may crash; empty: any actor
  std::uint32_t crashes_max = ~0U;
  double full_probability = 0;                     // try_send is answered kFull, send waits a turn
};

struct SimOptions {
  std::uint64_t seed = 1;
  FaultPlan faults;
  std::uint32_t workers = 1;      // logical; worker_count()
  std::uint32_t budget_max = 4;   // messages per resume: random in [1, budget_max]
  Tracer* tracer = nullptr;       // spans in virtual time
};

class SimExecutor final : public Executor {
 public:
  explicit SimExecutor(SimOptions options = {});
  ~SimExecutor() override;

  /// Runs one actor, or lets the clock jump to the next timer, delivery or call. False: nothing left to do.
  bool step();
  /// Until nothing is runnable and nothing is due at any time. Returns the number of steps; stops after max_steps.
  std::uint64_t run_until_idle(std::uint64_t max_steps = ~0ULL);
  /// Lets that much virtual time pass.
  std::uint64_t run_for(Duration duration);
  /// Runs what is runnable now; the clock stands still.
  std::uint64_t run_ready();

  /// Directed stepping, for tests: one message (or one other turn) of this actor alone. False: it is not runnable.
  template <class M>
  bool step(Address<M> actor) {
    return actor.alive() && step_cell(actor.cell());
  }
  /// The message that `actor` would take next, or null; `sender` (if given) gets the cell that sent it.
  template <class M>
  const M* peek(Address<M> actor, const detail::ActorCell** sender = nullptr) {
    const detail::Envelope* next = actor.alive() ? next_mail(actor.cell()) : nullptr;
    if (sender != nullptr) *sender = next != nullptr ? next->sender : nullptr;
    return next != nullptr ? &static_cast<const detail::MessageEnvelope<M>*>(next)->value : nullptr;
  }

  /// Hash over every delivery, resume, crash and jump of the clock so far.
  [[nodiscard]] std::uint64_t trace_hash() const noexcept;
  [[nodiscard]] std::uint64_t seed() const noexcept { return options_.seed; }
  [[nodiscard]] std::uint32_t crash_count() const noexcept { return crashes_; }
  [[nodiscard]] std::uint64_t live_actors() const noexcept { return live_.load(std::memory_order_relaxed); }

  [[nodiscard]] TimePoint now() const override { return now_; }
  [[nodiscard]] std::uint32_t worker_count() const noexcept override { return options_.workers; }
  void add_poller(std::uint32_t worker, Poller* poller) override;
  void remove_poller(std::uint32_t worker, Poller* poller) override;
  /// `drain` is virtual time.
  ShutdownReport shutdown(Duration drain) override;
  void wait_flag(std::atomic<std::uint32_t>& flag, TimePoint deadline) override;

 protected:
  detail::WorkerCore& worker_core(std::uint32_t index) noexcept override;
  void schedule_call(std::uint32_t worker, TimePoint when, detail::Envelope* call) override;

 private:
  class Core;

  bool step_cell(detail::ActorCell* cell);
  const detail::Envelope* next_mail(const detail::ActorCell* cell);

  SimOptions options_;
  TimePoint now_{};
  std::uint32_t crashes_ = 0;
  std::unique_ptr<Core> core_;
  ShutdownReport report_;
  bool shut_down_ = false;
};

}  // namespace spillway::runtime
