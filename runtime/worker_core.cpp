// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <mutex>
#include <new>
#include <utility>

#include "runtime/actor_cell.hpp"
#include "runtime/actor_extras.hpp"
#include "runtime/executor.hpp"

namespace spillway::runtime::detail {
namespace {

/// Free cells, shared by all threads; slabs stay reachable and are never given back.
struct CellArena {
  std::mutex mutex;
  ActorCell* free = nullptr;
  std::vector<ActorCell*> slabs;
};

CellArena& arena() {
  static CellArena* instance = new CellArena;
  return *instance;
}

constexpr std::size_t kCellsPerSlab = 64;

Envelope* next_waiting_after(Envelope* envelope) noexcept {
  Envelope* next = envelope->next;
  while (next != nullptr && next->credit != Credit::kWaits) next = next->next;
  return next;
}

void acknowledge(Envelope* envelope, bool accepted) noexcept {
  const std::uint64_t number = std::exchange(envelope->sender_wait, 0);
  if (number == 0) return;
  ActorCell* sender = envelope->sender;
  auto finish = [sender, number, accepted] {
    if (sender->wait != Wait::kRoom || sender->wait_number != number) return;
    *static_cast<SendStatus*>(sender->wait_slot) = accepted ? SendStatus::kOk : SendStatus::kDead;
    tls_worker->end_wait(sender, number, Wait::kRoom);
  };
  if (tls_worker != nullptr && sender->worker.load(std::memory_order_relaxed) == tls_worker) {
    if (sender->wait_number != number) return;
    if (tls_worker->hooks == nullptr) {
      finish();
      return;
    }
  }
  auto* call = InvokeEnvelope<decltype(finish)>::make(finish);
  call->target = sender;
  route(call);
}

}  // namespace

ActorCell* allocate_cell() {
  CellArena& cells = arena();
  const std::lock_guard lock(cells.mutex);
  if (cells.free == nullptr) {
    auto* slab = new ActorCell[kCellsPerSlab];
    cells.slabs.push_back(slab);
    for (std::size_t i = kCellsPerSlab; i-- > 0;) {
      slab[i].next_run = cells.free;
      cells.free = &slab[i];
    }
  }
  ActorCell* cell = cells.free;
  cells.free = cell->next_run;
  cell->next_run = nullptr;
  return cell;
}

void free_cell(ActorCell* cell) noexcept {
  CellArena& cells = arena();
  const std::lock_guard lock(cells.mutex);
  cell->next_run = cells.free;
  cells.free = cell;
}

void route(Envelope* envelope) {
  WorkerCore* there = envelope->target->worker.load(std::memory_order_acquire);
  WorkerCore* here = tls_worker;
  if (there == nullptr) {
    if (envelope->credit == Credit::kRemote) envelope->target->remote_mail.fetch_sub(1, std::memory_order_relaxed);
    if (envelope->credit == Credit::kWaits) acknowledge(envelope, false);
    envelope->ops->destroy(envelope);
  } else if (there != here) {
    there->enqueue_remote(envelope);
  } else if (here->hooks != nullptr) {
    here->hooks->deliver(envelope);
  } else {
    here->deliver_now(envelope);
  }
}

bool take_credit(ActorCell* target, Credit& credit) {
  WorkerCore* here = tls_worker;
  if (here != nullptr && here == target->worker.load(std::memory_order_relaxed)) {
    if (here->hooks != nullptr && here->hooks->refuse(target)) return false;
    if (!target->has_room()) return false;
    target->add_local_mail(1);
    credit = Credit::kLocal;
    return true;
  }
  const std::uint32_t before = target->remote_mail.fetch_add(1, std::memory_order_relaxed);
  if (before + target->local_mail.load(std::memory_order_relaxed) >=
      target->capacity.load(std::memory_order_relaxed)) {
    target->remote_mail.fetch_sub(1, std::memory_order_relaxed);
    return false;
  }
  credit = Credit::kRemote;
  return true;
}

std::uint64_t begin_wait(std::coroutine_handle<> self, Wait kind, void* slot) noexcept {
  SPW_CHECK(tls_worker != nullptr && tls_worker->current != nullptr);  // only actors can wait
  ActorCell* cell = tls_worker->current;
  cell->resume_at = self;
  cell->wait = kind;
  cell->wait_slot = slot;
  if (tls_worker->tracer != nullptr) [[unlikely]] tls_worker->trace_wait_begin(cell);
  return ++cell->wait_number;
}

void refuse_wait(std::uint64_t number) noexcept {
  ActorCell* cell = tls_worker->current;
  *static_cast<SendStatus*>(cell->wait_slot) = SendStatus::kDead;
  tls_worker->end_wait(cell, number, Wait::kRoom);
}

Envelope* delayed_call(TimePoint when, Envelope* call) {
  struct Add {
    TimePoint when;
    Envelope* call;
    Add(TimePoint when_in, Envelope* call_in) : when(when_in), call(call_in) {}
    Add(Add&& other) noexcept : when(other.when), call(std::exchange(other.call, nullptr)) {}
    ~Add() {
      if (call != nullptr) call->ops->destroy(call);
    }
    void operator()() { tls_worker->timers.add(when, nullptr, std::exchange(call, nullptr), 0); }
  };
  return InvokeEnvelope<Add>::make(Add(when, call));
}

void WorkerCore::deliver_now(Envelope* envelope) {
  if (envelope->kind == EnvelopeKind::kInvoke) {
    envelope->ops->invoke(envelope);
    return;
  }
  ActorCell* cell = envelope->target;
  if (cell->generation.load(std::memory_order_relaxed) != envelope->generation ||
      cell->worker.load(std::memory_order_relaxed) != this) {
    drop(envelope);
    return;
  }
  if (envelope->kind == EnvelopeKind::kUrgent) {
    cell->urgent.push(envelope);
    wake_for_mail(cell);
    return;
  }
  if (envelope->credit == Credit::kWaits) {
    if (cell->first_waiting == nullptr && cell->has_room()) {
      envelope->credit = Credit::kLocal;
      acknowledge(envelope, true);
    } else {
      ++cell->waiting_mail;
      if (cell->first_waiting == nullptr) cell->first_waiting = envelope;
    }
    cell->add_local_mail(1);
  }
  deliver_mail(cell, envelope);
}

void WorkerCore::settle_credit(ActorCell* cell, Envelope* envelope) noexcept {
  if (envelope->credit == Credit::kRemote) {
    ++cell->remote_taken;
    if (cell->remote_taken * 2 >= cell->capacity.load(std::memory_order_relaxed)) return_remote_credits(cell);
    return;
  }
  cell->add_local_mail(static_cast<std::uint32_t>(-1));  // kWaits, at the head before it was admitted
  --cell->waiting_mail;
  cell->first_waiting = next_waiting_after(envelope);
  acknowledge(envelope, true);
}

void WorkerCore::admit_waiting(ActorCell* cell) noexcept {
  while (cell->first_waiting != nullptr &&
         cell->local_mail.load(std::memory_order_relaxed) - cell->waiting_mail +
                 cell->remote_mail.load(std::memory_order_relaxed) <
             cell->capacity.load(std::memory_order_relaxed) + cell->remote_taken) {
    Envelope* admitted = cell->first_waiting;
    admitted->credit = Credit::kLocal;
    --cell->waiting_mail;
    cell->first_waiting = next_waiting_after(admitted);
    acknowledge(admitted, true);
  }
}

void WorkerCore::drop(Envelope* envelope) noexcept {
  if (envelope->credit == Credit::kRemote) envelope->target->remote_mail.fetch_sub(1, std::memory_order_relaxed);
  if (envelope->credit == Credit::kLocal) envelope->target->add_local_mail(static_cast<std::uint32_t>(-1));
  if (envelope->credit == Credit::kWaits) acknowledge(envelope, false);
  envelope->ops->destroy(envelope);
}

std::uint64_t WorkerCore::drop_mail(ActorCell* cell) noexcept {
  // Destructors in the mail may post to this very actor; if it starts again, such mail is the new frame's.
  MailList urgent = std::exchange(cell->urgent, {});
  MailList mail = std::exchange(cell->mail, {});
  cell->first_waiting = nullptr;
  cell->add_local_mail(0U - std::exchange(cell->waiting_mail, 0));
  std::uint64_t dropped = 0;
  for (MailList* list : {&urgent, &mail}) {
    while (!list->empty()) {
      drop(list->pop());
      ++dropped;
    }
  }
  return_remote_credits(cell);
  return dropped;
}

void WorkerCore::return_remote_credits(ActorCell* cell) noexcept {
  if (cell->remote_taken == 0) return;
  cell->remote_mail.fetch_sub(std::exchange(cell->remote_taken, 0), std::memory_order_relaxed);
}

void WorkerCore::run(ActorCell* cell, std::uint32_t budget_in) {
  current = cell;
  budget = budget_in;
  if (tracer != nullptr) [[unlikely]] trace_wait_end(cell);
  drive(cell->resume_at);
  if (cell->remote_taken != 0) return_remote_credits(cell);
  if (cell->root.done()) [[unlikely]] {
    if (cell->root.promise().exception()) {
      fail(cell, cell->root.promise().exception());
    } else {
      ++finished_count;
      retire(cell);
    }
  }
  current = nullptr;
}

void WorkerCore::register_cell(ActorCell* cell) {
  if (cell->registered) return;
  cell->registered = true;
  cell->stop_requested = stopping;
  cell->previous_live = nullptr;
  cell->next_live = live;
  if (live != nullptr) live->previous_live = cell;
  live = cell;
}

void WorkerCore::start(ActorCell* cell, std::coroutine_handle<Promise<void>> root) {
  SPW_CHECK(cell->wait == Wait::kStart);
  register_cell(cell);
  cell->root = root;
  cell->resume_at = root;
  cell->wait = Wait::kNothing;
  push_run(cell);
}

std::uint64_t WorkerCore::destroy_frame(ActorCell* cell) noexcept {
  ++cell->wait_number;
  cell->wait = Wait::kNothing;
  if (tracer != nullptr) [[unlikely]] {
    trace_message_end(cell);
    cell->trace_wait = Wait::kNothing;
  }
  timers.cancel_all(cell);
  if (cell->root) {
    cell->root.destroy();
    cell->root = {};
  }
  timers.cancel_all(cell);  // a destructor may have set one
  return drop_mail(cell);
}

std::uint64_t WorkerCore::retire(ActorCell* cell) noexcept {
  cell->generation.fetch_add(1, std::memory_order_acq_rel);  // even: dead to all senders from here on
  const std::uint64_t dropped = destroy_frame(cell);
  delete std::exchange(cell->extras, nullptr);
  if (cell->registered) {
    (cell->previous_live != nullptr ? cell->previous_live->next_live : live) = cell->next_live;
    if (cell->next_live != nullptr) cell->next_live->previous_live = cell->previous_live;
  }
  cell->worker.store(nullptr, std::memory_order_release);
  free_cell(cell);
  executor->actor_gone();
  return dropped;
}

void WorkerCore::fail(ActorCell* cell, std::exception_ptr exception) noexcept {
  executor->failures_.fetch_add(1, std::memory_order_relaxed);
  DeathNotice notice;
  notice.actor_id = cell->spawn_order;
  try {
    std::rethrow_exception(std::move(exception));
  } catch (const std::exception& e) {
    notice.error = Error{Errc::kInternal, e.what()};
  } catch (...) {
    notice.error = Error{Errc::kInternal, "an exception that is no std::exception"};
  }
  std::function<void(DeathNotice)> notify;
  bool again = false;
  ActorExtras* extras = cell->extras;
  if (extras != nullptr) {
    notice.actor = extras->name;
    notify = extras->policy.notify;
    const TimePoint now = executor->now();
    std::erase_if(extras->failures, [&](TimePoint t) { return now - t > extras->policy.window; });
    again = extras->factory != nullptr && extras->failures.size() < extras->policy.max_restarts && !stopping;
    extras->failures.push_back(now);
  }
  if (again) {
    destroy_frame(cell);
    try {
      cell->root = extras->factory->make(cell);
      notice.restarted = true;
      notice.restarts = ++extras->restarts;
      cell->resume_at = cell->root;
      push_run(cell);
    } catch (...) {  // copying the arguments failed: nothing to run
      notice.restarts = extras->restarts;
      retire(cell);
    }
  } else {
    if (extras != nullptr) notice.restarts = extras->restarts;
    retire(cell);
  }
  if (notify) notify(std::move(notice));
}

void WorkerCore::request_stop_all() noexcept {
  stopping = true;
  for (ActorCell* cell = live; cell != nullptr; cell = cell->next_live) {
    cell->stop_requested = true;
    wake_for_mail(cell);
  }
}

void WorkerCore::fire_timers(TimePoint now) {
  while (!timers.empty() && timers.next() <= now) {
    TimerNode* node = timers.pop();
    Envelope* envelope = node->envelope;
    ActorCell* owner = node->owner;
    const std::uint64_t number = node->wait_number;
    timers.recycle(node);
    if (envelope != nullptr) {
      if (hooks != nullptr) {
        hooks->arrive(envelope);
      } else {
        deliver_now(envelope);
      }
    } else if (owner->wait == Wait::kReply || owner->wait == Wait::kSleep) {
      end_wait(owner, number, owner->wait);
    }
  }
}

}  // namespace spillway::runtime::detail
