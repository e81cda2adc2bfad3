// SPDX-License-Identifier: Apache-2.0
#include "runtime/executor.hpp"

#include <algorithm>

#include "runtime/actor_extras.hpp"
#include "runtime/blocking_slot.hpp"

namespace spillway::runtime {
namespace {

/// A frame on its way to its worker; destroyed if it never gets there.
class StartCall {
 public:
  StartCall(detail::ActorCell* cell, std::coroutine_handle<detail::Promise<void>> root) noexcept
      : cell_(cell), root_(root) {}
  StartCall(StartCall&& other) noexcept : cell_(other.cell_), root_(std::exchange(other.root_, {})) {}
  ~StartCall() {
    if (root_) root_.destroy();
  }
  void operator()() { detail::tls_worker->start(cell_, std::exchange(root_, {})); }

 private:
  detail::ActorCell* cell_;
  std::coroutine_handle<detail::Promise<void>> root_;
};

template <class F>
void run_on_worker(detail::ActorCell* cell, F function) {
  detail::WorkerCore* worker = cell->worker.load(std::memory_order_relaxed);
  if (worker == detail::tls_worker) {
    function();
    return;
  }
  worker->enqueue_remote(detail::InvokeEnvelope<F>::make(std::move(function)));
}

const char* wait_name(detail::Wait wait) noexcept {
  switch (wait) {
    case detail::Wait::kNothing: return "running";
    case detail::Wait::kStart: return "start";
    case detail::Wait::kMail: return "mail";
    case detail::Wait::kReply: return "reply";
    case detail::Wait::kRoom: return "room";
    case detail::Wait::kSleep: return "sleep";
  }
  return "unknown";
}

}  // namespace

detail::ActorCell* Executor::reserve_cell(SpawnOptions options) {
  const std::uint64_t order = next_spawn_.fetch_add(1, std::memory_order_relaxed);
  const std::uint32_t worker = options.worker == kAnyWorker ? static_cast<std::uint32_t>(order) : options.worker;
  live_.fetch_add(1, std::memory_order_relaxed);
  detail::ActorCell* cell = detail::allocate_cell();
  cell->capacity.store(std::max(options.mailbox_capacity, 1U), std::memory_order_relaxed);
  cell->spawn_order = order;
  cell->wait = detail::Wait::kStart;
  cell->stop_requested = false;
  cell->registered = false;
  cell->trace_track = 0;
  if (!options.name.empty() || options.supervisor.max_restarts != 0 || options.supervisor.notify) {
    cell->extras = new detail::ActorExtras{std::move(options.name), std::move(options.supervisor), nullptr, {}, 0};
  }
  cell->worker.store(&worker_core(worker % worker_count()), std::memory_order_release);
  cell->generation.fetch_add(1, std::memory_order_acq_rel);  // odd: alive
  run_on_worker(cell, [cell] { detail::tls_worker->register_cell(cell); });
  return cell;
}

bool Executor::wants_factory(const detail::ActorCell* cell) const noexcept {
  return cell->extras != nullptr && cell->extras->policy.max_restarts != 0;
}

void Executor::set_factory(detail::ActorCell* cell, std::unique_ptr<detail::FrameFactory> factory) {
  cell->extras->factory = std::move(factory);
}

void Executor::start_cell(detail::ActorCell* cell, std::coroutine_handle<detail::Promise<void>> root) {
  run_on_worker(cell, StartCall(cell, root));
}

void Executor::actor_gone() noexcept {
  if (live_.fetch_sub(1, std::memory_order_acq_rel) == 1 && draining_.load(std::memory_order_acquire) != 0) {
    all_gone_.store(1, std::memory_order_release);
    detail::wake_flag(all_gone_);
  }
}

void Executor::cut(const std::vector<detail::WorkerCore*>& workers, ShutdownReport& report) {
  detail::WorkerCore* const outer = detail::tls_worker;
  std::vector<detail::ActorCell*> cells;
  for (detail::WorkerCore* worker : workers) {
    detail::tls_worker = worker;
    worker->stopping = true;
    worker->drain_arrivals();
    for (detail::ActorCell* cell = worker->live; cell != nullptr; cell = cell->next_live) cells.push_back(cell);
    report.finished += worker->finished_count;
  }
  std::sort(cells.begin(), cells.end(), [](auto* a, auto* b) { return a->spawn_order > b->spawn_order; });
  for (detail::ActorCell* cell : cells) {
    detail::WorkerCore* worker = cell->worker.load(std::memory_order_relaxed);
    detail::tls_worker = worker;
    worker->run_head = worker->run_tail = nullptr;  // links through cells must not outlive them
    worker->current = cell;
    CutActor cut;
    cut.name = cell->extras != nullptr ? cell->extras->name : "";
    cut.actor_id = cell->spawn_order;
    cut.waiting_for = wait_name(cell->wait);
    cut.mail_dropped = worker->retire(cell);
    worker->current = nullptr;
    report.cut.push_back(std::move(cut));
  }
  // What is left is addressed to the dead; its destructors may send more to them.
  for (bool more = true; more;) {
    more = false;
    for (detail::WorkerCore* worker : workers) {
      detail::tls_worker = worker;
      worker->run_head = worker->run_tail = nullptr;
      more |= worker->drain_arrivals();
      more |= worker->timers.clear();
    }
  }
  detail::tls_worker = outer;
}

}  // namespace spillway::runtime
