// SPDX-License-Identifier: Apache-2.0
#include "runtime/thread_executor.hpp"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "runtime/futex.hpp"
#include "runtime/inbox.hpp"
#include "runtime/park_gate.hpp"

namespace spillway::runtime {
namespace {

constexpr std::size_t kInboxBatch = 64;
constexpr std::size_t kInboxPerRound = 1024;  // then the actors run again, however full the inbox is
constexpr std::uint32_t kRunsPerRound = 64;   // then inbox, timers and pollers get a look

TimePoint clock_now() noexcept {
  return TimePoint(std::chrono::duration_cast<Duration>(std::chrono::steady_clock::now().time_since_epoch()));
}

void relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void pin_this_thread(std::uint32_t index) noexcept {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  const int count = CPU_COUNT(&allowed);
  if (count <= 0) return;
  int skip = static_cast<int>(index % static_cast<std::uint32_t>(count));
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || skip-- > 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    (void)pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
    return;
  }
}

}  // namespace

class ThreadExecutor::Worker final : public detail::WorkerCore {
 public:
  Worker(ThreadExecutor& owner, std::uint32_t index_in)
      : WorkerCore(owner, index_in, owner.options_.seed + index_in),
        options_(owner.options_),
        inbox_(detail::Inbox::make()) {
    tracer = options_.tracer;
  }
  ~Worker() override { inbox_->close(); }

  void launch() {
    thread_ = std::thread([this] { loop(); });
  }
  void join() { thread_.join(); }

  void enqueue_remote(detail::Envelope* envelope) override {
    detail::Inbox::push(inbox_, envelope);
    gate_.announce();
  }
  template <class F>
  void enqueue_call(F function) {
    enqueue_remote(detail::InvokeEnvelope<F>::make(std::move(function)));
  }

  void add_poller(Poller* poller) { pollers_.push_back(poller); }
  void remove_poller(Poller* poller) { std::erase(pollers_, poller); }
  void request_exit() noexcept { exit_ = true; }

  bool drain_arrivals() override {
    bool any = false;
    for (std::size_t before = arrived_; !drain_inbox() || arrived_ != before; before = arrived_) any = true;
    return any;
  }

 private:
  /// Everything that has arrived, or kInboxPerRound of it; true when the inbox was found empty.
  bool drain_inbox() {
    detail::Envelope* batch[kInboxBatch];
    for (std::size_t taken = 0; taken < kInboxPerRound;) {
      const std::size_t count = inbox_->pop(batch, kInboxBatch);
      if (count == 0) return true;
      for (std::size_t i = 0; i < count; ++i) {
        __builtin_prefetch(batch[std::min(i + 4, count - 1)]);  // written by another core
        deliver_now(batch[i]);
      }
      taken += count;
      arrived_ += count;
    }
    return false;
  }

  void loop() {
    detail::tls_worker = this;
    pthread_setname_np(pthread_self(), (options_.name + "-" + std::to_string(index)).substr(0, 15).c_str());
    if (options_.pin) pin_this_thread(options_.first_core + index);
    while (!exit_) round();
    detail::tls_worker = nullptr;
  }

  void round() {
    gate_.collect([this] { return drain_inbox(); });
    if (!timers.empty()) fire_timers(clock_now());
    bool outstanding = false;
    for (std::size_t i = 0; i < pollers_.size(); ++i) outstanding |= pollers_[i]->poll();
    if (run_head != nullptr) {
      for (std::uint32_t i = 0; i < kRunsPerRound && run_head != nullptr; ++i) run(pop_run(), options_.budget);
      idle_since_ = TimePoint{};
      return;
    }
    if (exit_) return;
    if (outstanding || !may_park()) {
      relax();
      return;
    }
    std::int64_t timeout_ns = -1;
    if (!timers.empty()) timeout_ns = std::max<std::int64_t>((timers.next() - clock_now()).count(), 0);
    gate_.sleep(timeout_ns);
  }

  bool may_park() noexcept {
    if (options_.spin.kind == SpinPolicy::Kind::kPark) return true;
    if (options_.spin.kind == SpinPolicy::Kind::kSpin) return false;
    const TimePoint now = clock_now();
    if (idle_since_ == TimePoint{}) idle_since_ = now;
    return now - idle_since_ >= std::chrono::microseconds(options_.spin.spin_us);
  }

  const ThreadOptions& options_;
  std::shared_ptr<detail::Inbox> inbox_;
  detail::ParkGate<detail::RealAtomics> gate_;
  std::vector<Poller*> pollers_;
  std::thread thread_;
  std::size_t arrived_ = 0;
  TimePoint idle_since_{};
  bool exit_ = false;
};

ThreadExecutor::ThreadExecutor(ThreadOptions options) : options_(std::move(options)) {
  options_.workers = std::max(options_.workers, 1U);
  options_.budget = std::max(options_.budget, 1U);
  for (std::uint32_t i = 0; i < options_.workers; ++i) workers_.push_back(std::make_unique<Worker>(*this, i));
  for (auto& worker : workers_) worker->launch();
}

ThreadExecutor::~ThreadExecutor() { (void)shutdown(Duration::zero()); }

TimePoint ThreadExecutor::now() const { return clock_now(); }

std::uint32_t ThreadExecutor::worker_count() const noexcept { return options_.workers; }

detail::WorkerCore& ThreadExecutor::worker_core(std::uint32_t index) noexcept { return *workers_[index]; }

void ThreadExecutor::schedule_call(std::uint32_t index, TimePoint when, detail::Envelope* call) {
  Worker& worker = *workers_[index % options_.workers];
  if (when == TimePoint::min()) {
    worker.enqueue_remote(call);
    return;
  }
  if (&worker == detail::tls_worker) {
    worker.timers.add(when, nullptr, call, 0);
    return;
  }
  worker.enqueue_remote(detail::delayed_call(when, call));
}

void ThreadExecutor::add_poller(std::uint32_t index, Poller* poller) {
  Worker& worker = *workers_[index % options_.workers];
  if (&worker == detail::tls_worker) {
    worker.add_poller(poller);
    return;
  }
  worker.enqueue_call([&worker, poller] { worker.add_poller(poller); });
}

void ThreadExecutor::remove_poller(std::uint32_t index, Poller* poller) {
  Worker& worker = *workers_[index % options_.workers];
  if (&worker == detail::tls_worker || shut_down_) {
    worker.remove_poller(poller);
    return;
  }
  std::atomic<std::uint32_t> removed{0};
  worker.enqueue_call([&worker, poller, &removed] {
    worker.remove_poller(poller);
    removed.store(1, std::memory_order_release);
    detail::futex_wake_all(removed);
  });
  wait_flag(removed, kNoDeadline);
}

void ThreadExecutor::wait_flag(std::atomic<std::uint32_t>& flag, TimePoint deadline) {
  while (flag.load(std::memory_order_acquire) == 0) {
    std::int64_t timeout_ns = -1;
    if (deadline != kNoDeadline) {
      timeout_ns = (deadline - now()).count();
      if (timeout_ns <= 0) return;
    }
    detail::futex_wait(flag, 0, timeout_ns);
  }
}

ShutdownReport ThreadExecutor::shutdown(Duration drain) {
  if (shut_down_) return report_;
  SPW_CHECK(detail::tls_worker == nullptr);
  for (auto& worker : workers_) {
    worker->enqueue_call([core = worker.get()] { core->request_stop_all(); });
  }
  if (drain > Duration::zero()) {
    draining_.store(1, std::memory_order_release);
    if (live_.load(std::memory_order_acquire) != 0) wait_flag(all_gone_, saturating_add(now(), drain));
  }
  for (auto& worker : workers_) {
    worker->enqueue_call([core = worker.get()] { core->request_exit(); });
  }
  for (auto& worker : workers_) worker->join();
  shut_down_ = true;

  std::vector<detail::WorkerCore*> cores;
  for (auto& worker : workers_) cores.push_back(worker.get());
  cut(cores, report_);
  return report_;
}

}  // namespace spillway::runtime
