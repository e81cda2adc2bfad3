// SPDX-License-Identifier: Apache-2.0
#include "runtime/sim_executor.hpp"

#include <algorithm>
#include <mutex>
#include <stdexcept>
#include <unordered_map>
#include <utility>

#include "runtime/actor_extras.hpp"

namespace spillway::runtime {
namespace {

constexpr std::uint64_t mix(std::uint64_t hash, std::uint64_t value) noexcept {
  std::uint64_t z = hash + 0x9e3779b97f4a7c15ULL + value;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

std::uint64_t hash_of(std::string_view text) noexcept {
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return hash;
}

enum class Event : std::uint64_t { kDeliver, kDeliverDead, kInvoke, kRun, kCrash, kClock };

/// Makes this thread the simulation's worker for a while.
class PlayWorker {
 public:
  explicit PlayWorker(detail::WorkerCore* core) noexcept : outer_(std::exchange(detail::tls_worker, core)) {}
  PlayWorker(const PlayWorker&) = delete;
  PlayWorker& operator=(const PlayWorker&) = delete;
  ~PlayWorker() { detail::tls_worker = outer_; }

 private:
  detail::WorkerCore* outer_;
};

}  // namespace

class SimExecutor::Core final : public detail::WorkerCore, public detail::WorkerHooks {
 public:
  explicit Core(SimExecutor& owner) : WorkerCore(owner, 0, owner.options_.seed), sim_(owner), choices_(~owner.options_.seed) {
    hooks = this;
    tracer = owner.options_.tracer;
  }

  void enqueue_remote(detail::Envelope* envelope) override {
    const std::lock_guard lock(arrivals_mutex_);
    arrivals_.push(envelope);
  }

  bool drain_arrivals() override {
    detail::MailList list;
    {
      const std::lock_guard lock(arrivals_mutex_);
      list = std::exchange(arrivals_, {});
    }
    const bool any = !list.empty();
    while (!list.empty()) deliver(list.pop());
    return any;
  }

  // WorkerHooks
  void deliver(detail::Envelope* envelope) override {
    const FaultPlan& faults = sim_.options_.faults;
    if (faults.delay_probability <= 0 || stopped_) {
      arrive(envelope);
      return;
    }
    const detail::ActorCell* target = envelope->target;
    const std::uint64_t pair = mix(envelope->sender != nullptr ? envelope->sender->spawn_order : 0,
                                   target != nullptr ? target->spawn_order : 0);
    TimePoint when = sim_.now_;
    if (target != nullptr && choices_.chance(faults.delay_probability)) {
      when += Duration(choices_.below(static_cast<std::uint64_t>(faults.delay_max.count()) + 1));
    }
    TimePoint& last = last_arrival_[pair];
    when = std::max(when, last);
    if (when <= sim_.now_ && last < sim_.now_) {
      arrive(envelope);
      return;
    }
    last = when;
    timers.add(when, nullptr, envelope, kInFlight);
  }

  void arrive(detail::Envelope* envelope) override {
    const detail::ActorCell* target = envelope->target;
    if (envelope->kind == detail::EnvelopeKind::kInvoke) {
      note(Event::kInvoke, 0);
    } else if (target->generation.load(std::memory_order_relaxed) != envelope->generation) {
      note(Event::kDeliverDead, 0);  // its cell may be another's by now, which differs from run to run
    } else {
      note(Event::kDeliver, mix(target->spawn_order, hash_of(envelope->ops->name(envelope))));
    }
    deliver_now(envelope);
  }

  bool refuse(detail::ActorCell*) override { return choices_.chance(sim_.options_.faults.full_probability); }

  /// One actor's turn, or one jump of the clock, not beyond `limit`. False: nothing to do until then.
  bool step(TimePoint limit) {
    const PlayWorker play(this);
    drain_arrivals();
    for (std::size_t i = 0; i < pollers_.size(); ++i) (void)pollers_[i]->poll();
    fire_due();
    collect_ready();
    if (ready_.empty()) {
      if (timers.empty() || timers.next() > limit) return false;
      sim_.now_ = timers.next();
      note(Event::kClock, static_cast<std::uint64_t>(to_ns(sim_.now_)));
      std::erase_if(last_arrival_, [this](const auto& entry) { return entry.second < sim_.now_; });
      fire_due();
      return true;
    }
    const std::size_t index = choices_.below(ready_.size());
    detail::ActorCell* cell = ready_[index];
    ready_.erase(ready_.begin() + static_cast<std::ptrdiff_t>(index));
    run_one(cell);
    return true;
  }

  /// One message of this actor, or its next turn if it waits for something else that has come. False: not runnable.
  bool step_cell(detail::ActorCell* cell) {
    const PlayWorker play(this);
    drain_arrivals();
    fire_due();
    collect_ready();
    const auto found = std::find(ready_.begin(), ready_.end(), cell);
    if (found == ready_.end()) return false;
    ready_.erase(found);
    note(Event::kRun, cell->spawn_order);
    run(cell, 0);
    return true;
  }

  const detail::Envelope* next_mail(const detail::ActorCell* cell) {
    const PlayWorker play(this);
    drain_arrivals();
    return !cell->urgent.empty() ? cell->urgent.head : cell->mail.head;
  }

  void stop() {
    stopped_ = true;
    ready_.clear();
  }

  void add_poller(Poller* poller) { pollers_.push_back(poller); }
  void remove_poller(Poller* poller) { std::erase(pollers_, poller); }

  std::uint64_t hash = 0;

 private:
  static constexpr std::uint64_t kInFlight = 1;

  void note(Event event, std::uint64_t value) noexcept { hash = mix(mix(hash, static_cast<std::uint64_t>(event)), value); }

  void fire_due() {
    while (!timers.empty() && timers.next() <= sim_.now_) fire_timers(sim_.now_);
  }

  void collect_ready() {
    while (run_head != nullptr) ready_.push_back(pop_run());
  }

  bool may_crash(const detail::ActorCell* cell) {
    const FaultPlan& faults = sim_.options_.faults;
    if (faults.crash_probability <= 0 || sim_.crashes_ >= faults.crashes_max || stopped_) return false;
    if (!faults.crash_only.empty()) {
      if (cell->extras == nullptr) return false;
      if (std::find(faults.crash_only.begin(), faults.crash_only.end(), cell->extras->name) == faults.crash_only.end()) {
        return false;
      }
    }
    return choices_.chance(faults.crash_probability);
  }

  void run_one(detail::ActorCell* cell) {
    if (may_crash(cell)) {
      ++sim_.crashes_;
      note(Event::kCrash, cell->spawn_order);
      current = cell;
      fail(cell, std::make_exception_ptr(std::runtime_error("injected crash")));
      current = nullptr;
      return;
    }
    note(Event::kRun, cell->spawn_order);
    // The message that ended its wait comes on top of the budget.
    run(cell, static_cast<std::uint32_t>(choices_.below(sim_.options_.budget_max)));
  }

  SimExecutor& sim_;
  Random choices_;  // apart from the actors' own random numbers
  std::vector<detail::ActorCell*> ready_;
  std::unordered_map<std::uint64_t, TimePoint> last_arrival_;  // of each sender and receiver with mail under way
  std::vector<Poller*> pollers_;
  std::mutex arrivals_mutex_;
  detail::MailList arrivals_;
  bool stopped_ = false;
};

SimExecutor::SimExecutor(SimOptions options) : options_(std::move(options)) {
  options_.workers = std::max(options_.workers, 1U);
  options_.budget_max = std::max(options_.budget_max, 1U);
  core_ = std::make_unique<Core>(*this);
}

SimExecutor::~SimExecutor() { (void)shutdown(Duration::zero()); }

bool SimExecutor::step() { return core_->step(kNoDeadline); }

std::uint64_t SimExecutor::run_until_idle(std::uint64_t max_steps) {
  std::uint64_t steps = 0;
  while (steps < max_steps && core_->step(kNoDeadline)) ++steps;
  return steps;
}

std::uint64_t SimExecutor::run_for(Duration duration) {
  const TimePoint limit = saturating_add(now_, duration);
  std::uint64_t steps = 0;
  while (core_->step(limit)) ++steps;
  now_ = limit;
  return steps;
}

std::uint64_t SimExecutor::run_ready() {
  std::uint64_t steps = 0;
  while (core_->step(now_)) ++steps;
  return steps;
}

bool SimExecutor::step_cell(detail::ActorCell* cell) { return core_->step_cell(cell); }

const detail::Envelope* SimExecutor::next_mail(const detail::ActorCell* cell) { return core_->next_mail(cell); }

std::uint64_t SimExecutor::trace_hash() const noexcept { return core_->hash; }

detail::WorkerCore& SimExecutor::worker_core(std::uint32_t) noexcept { return *core_; }

void SimExecutor::schedule_call(std::uint32_t, TimePoint when, detail::Envelope* call) {
  if (detail::tls_worker == core_.get()) {
    core_->timers.add(std::max(when, now_), nullptr, call, 0);
    return;
  }
  if (when <= now_) {
    core_->enqueue_remote(call);
    return;
  }
  core_->enqueue_remote(detail::delayed_call(when, call));
}

void SimExecutor::add_poller(std::uint32_t, Poller* poller) { core_->add_poller(poller); }

void SimExecutor::remove_poller(std::uint32_t, Poller* poller) { core_->remove_poller(poller); }

void SimExecutor::wait_flag(std::atomic<std::uint32_t>& flag, TimePoint deadline) {
  while (flag.load(std::memory_order_acquire) == 0) {
    if (core_->step(deadline)) continue;
    if (deadline != kNoDeadline) now_ = std::max(now_, deadline);
    return;
  }
}

ShutdownReport SimExecutor::shutdown(Duration drain) {
  if (shut_down_) return report_;
  {
    const PlayWorker play(core_.get());
    core_->drain_arrivals();
    core_->request_stop_all();
  }
  const TimePoint limit = saturating_add(now_, drain);
  while (live_actors() != 0 && core_->step(limit)) {
  }
  shut_down_ = true;
  core_->stop();
  cut({core_.get()}, report_);
  return report_;
}

}  // namespace spillway::runtime
