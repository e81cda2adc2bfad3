// SPDX-License-Identifier: Apache-2.0
#pragma once

// ActorCell: what the runtime keeps for one actor, and WorkerCore: what a worker keeps for its actors. The inline
// functions here are the whole hot path between two actors of one worker; it has no atomic read-modify-write.
//
// Ownership: a cell belongs to one worker for its whole life; only its first two cache lines may be touched by
// other threads. Cells are never given back to the system, so an Address stays safe to use for ever: a generation that is
// not the cell's own answers kDead.

#include <atomic>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <string_view>
#include <vector>

#include "runtime/check.hpp"
#include "runtime/envelope.hpp"
#include "runtime/random.hpp"
#include "runtime/task.hpp"
#include "runtime/time.hpp"

namespace spillway::runtime {
class Executor;
class Tracer;

enum class SendStatus : std::uint8_t {
  kOk,
  kFull,  // the mailbox has no room now
  kDead,  // the actor has ended
};

}  // namespace spillway::runtime

namespace spillway::runtime::detail {

struct ActorExtras;
struct TimerNode;
class WorkerCore;

/// What a suspended actor waits for.
enum class Wait : std::uint8_t {
  kNothing,  // running, or in the run queue
  kStart,    // reserved, not started
  kMail,
  kReply,    // an ask
  kRoom,     // a full mailbox
  kSleep,
};

struct MailList {
  Envelope* head = nullptr;
  Envelope* tail = nullptr;

  void push(Envelope* envelope) noexcept {
    envelope->next = nullptr;
    if (tail != nullptr) {
      tail->next = envelope;
    } else {
      head = envelope;
    }
    tail = envelope;
  }
  Envelope* pop() noexcept {
    Envelope* envelope = head;
    head = envelope->next;
    if (head == nullptr) tail = nullptr;
    return envelope;
  }
  [[nodiscard]] bool empty() const noexcept { return head == nullptr; }
};

struct alignas(64) ActorCell {
  // Line 0: read by senders on any thread, hardly ever written. An odd generation is alive.
  std::atomic<std::uint32_t> generation{0};
  std::atomic<std::uint32_t> capacity{0};
  std::atomic<WorkerCore*> worker{nullptr};
  std::uint64_t spawn_order = 0;
  void* context = nullptr;  // storage of ActorContext<M>: one pointer back to this cell

  // Line 1: written by senders on other threads; apart, or each send would take line 0 from the receiver.
  alignas(64) std::atomic<std::uint32_t> remote_mail{0};  // messages charged by other threads and not yet taken
  std::atomic<std::uint32_t> local_mail{0};               // written by the owning worker only

  // Line 2 on: the owning worker's.
  alignas(64) MailList mail;
  MailList urgent;
  Envelope* first_waiting = nullptr;  // earliest message in `mail` whose sender waits for room
  std::coroutine_handle<> resume_at;  // the innermost suspended coroutine
  std::coroutine_handle<Promise<void>> root;
  ActorCell* next_run = nullptr;
  std::uint64_t wait_number = 0;  // names the present wait; replies and timers that carry another are late
  void* wait_slot = nullptr;
  TimerNode* timers = nullptr;
  ActorExtras* extras = nullptr;
  ActorCell* previous_live = nullptr;
  ActorCell* next_live = nullptr;
  std::string_view trace_name;         // of the message being handled; empty: none
  TimePoint trace_message_start{};
  TimePoint trace_wait_start{};
  std::uint32_t waiting_mail = 0;    // messages with Credit::kWaits in `mail`
  std::uint32_t remote_taken = 0;    // taken, but not yet subtracted from remote_mail
  std::uint32_t trace_track = 0;
  Wait wait = Wait::kNothing;
  bool stop_requested = false;
  bool registered = false;
  Wait trace_wait = Wait::kNothing;

  [[nodiscard]] bool has_mail() const noexcept { return !mail.empty() || !urgent.empty(); }
  [[nodiscard]] bool has_room() const noexcept {
    return local_mail.load(std::memory_order_relaxed) + remote_mail.load(std::memory_order_relaxed) <
           capacity.load(std::memory_order_relaxed) + remote_taken;
  }
  void add_local_mail(std::uint32_t change) noexcept {
    local_mail.store(local_mail.load(std::memory_order_relaxed) + change, std::memory_order_relaxed);
  }
};

/// Intercepts what SimExecutor decides itself.
class WorkerHooks {
 public:
  virtual ~WorkerHooks() = default;
  /// A message was sent: lets it arrive now or later.
  virtual void deliver(Envelope* envelope) = 0;
  /// A message arrives: passes it to deliver_now.
  virtual void arrive(Envelope* envelope) = 0;
  /// True: pretend that the target's mailbox is full.
  virtual bool refuse(ActorCell* target) = 0;
};

struct TimerNode;

/// Earliest-first queue of a worker's timers; an indexed binary heap, so that a cancelled timer leaves at once.
class TimerQueue {
 public:
  TimerQueue() = default;
  TimerQueue(const TimerQueue&) = delete;
  TimerQueue& operator=(const TimerQueue&) = delete;
  ~TimerQueue();

  /// Adds a timer; takes the envelope. Owner may be null. For a wait timeout, envelope is null.
  TimerNode* add(TimePoint when, ActorCell* owner, Envelope* envelope, std::uint64_t wait_number);
  /// Cancels and destroys the node's envelope.
  void cancel(TimerNode* node) noexcept;
  /// The live node with this place and number, or null.
  TimerNode* find(TimerNode* node, std::uint64_t number) const noexcept;
  [[nodiscard]] TimePoint next() const noexcept;
  [[nodiscard]] bool empty() const noexcept { return heap_.empty(); }
  /// Takes the earliest node out of the heap; the caller calls recycle().
  TimerNode* pop() noexcept;
  void recycle(TimerNode* node) noexcept;
  void cancel_all(ActorCell* owner) noexcept;
  /// Cancels all; true when there was any.
  bool clear() noexcept;

 private:
  void remove_at(std::size_t index) noexcept;
  void sift_up(std::size_t index) noexcept;
  void sift_down(std::size_t index) noexcept;
  bool earlier(const TimerNode* a, const TimerNode* b) const noexcept;

  std::vector<TimerNode*> heap_;
  std::vector<TimerNode*> slabs_;
  TimerNode* free_ = nullptr;
  std::uint64_t next_number_ = 1;
};

struct TimerNode {
  TimePoint when{};
  std::uint64_t number = 0;       // 0: free
  ActorCell* owner = nullptr;     // its timers go with it
  TimerNode* previous = nullptr;  // of the same owner
  TimerNode* next = nullptr;
  Envelope* envelope = nullptr;   // delivered when due; null: ends the owner's wait `wait_number`
  std::uint64_t wait_number = 0;
  std::size_t heap_index = 0;
};

class WorkerCore {
 public:
  WorkerCore(Executor& executor_in, std::uint32_t index_in, std::uint64_t seed)
      : executor(&executor_in), random(seed), index(index_in) {}
  WorkerCore(const WorkerCore&) = delete;
  WorkerCore& operator=(const WorkerCore&) = delete;
  virtual ~WorkerCore() = default;

  /// From any other thread: hands the envelope to this worker and wakes it.
  virtual void enqueue_remote(Envelope* envelope) = 0;
  /// Takes in all that other threads have sent; true when there was anything.
  virtual bool drain_arrivals() = 0;

  void push_run(ActorCell* cell) noexcept {
    cell->next_run = nullptr;
    if (run_tail != nullptr) {
      run_tail->next_run = cell;
    } else {
      run_head = cell;
    }
    run_tail = cell;
  }
  ActorCell* pop_run() noexcept {
    ActorCell* cell = run_head;
    run_head = cell->next_run;
    if (run_head == nullptr) run_tail = nullptr;
    return cell;
  }

  void wake_for_mail(ActorCell* cell) noexcept {
    if (cell->wait == Wait::kMail) {
      cell->wait = Wait::kNothing;
      push_run(cell);
    }
  }

  /// Same worker, target alive: links the message and makes the actor runnable.
  void deliver_mail(ActorCell* cell, Envelope* envelope) noexcept {
    cell->mail.push(envelope);
    wake_for_mail(cell);
  }

  void suspend_for_mail(ActorCell* cell) noexcept {
    cell->wait = Wait::kMail;
    if (tracer != nullptr) [[unlikely]] trace_wait_begin(cell);
  }

  /// Same worker: takes whatever arrives, drops mail for the dead.
  void deliver_now(Envelope* envelope);

  /// Takes the next message of `cell`, which has one; settles credits and admits waiting senders.
  Envelope* take_mail(ActorCell* cell) noexcept {
    if (!cell->urgent.empty()) [[unlikely]] return cell->urgent.pop();
    Envelope* envelope = cell->mail.pop();
    if (envelope->credit == Credit::kLocal) {
      cell->add_local_mail(static_cast<std::uint32_t>(-1));
    } else if (envelope->credit != Credit::kNone) {
      settle_credit(cell, envelope);
    }
    if (cell->first_waiting != nullptr) [[unlikely]] admit_waiting(cell);
    return envelope;
  }

  void run(ActorCell* cell, std::uint32_t budget_in);
  void start(ActorCell* cell, std::coroutine_handle<Promise<void>> root);
  void register_cell(ActorCell* cell);
  /// Ends an actor's life: destroys its timers, its frame and its mail, in this order, and frees the cell. Returns
  /// the number of messages dropped.
  std::uint64_t retire(ActorCell* cell) noexcept;
  void request_stop_all() noexcept;
  /// Ends wait `number` of `cell` if it still lasts; true when it did.
  bool end_wait(ActorCell* cell, std::uint64_t number, Wait kind) noexcept {
    if (cell->wait != kind || cell->wait_number != number) return false;
    ++cell->wait_number;
    cell->wait = Wait::kNothing;
    push_run(cell);
    return true;
  }
  /// Fires every timer due at `now`.
  void fire_timers(TimePoint now);
  void fail(ActorCell* cell, std::exception_ptr exception) noexcept;

  void trace_wait_begin(ActorCell* cell) noexcept;
  void trace_wait_end(ActorCell* cell) noexcept;
  void trace_message_begin(ActorCell* cell, std::string_view name) noexcept;
  void trace_message_end(ActorCell* cell) noexcept;

  Executor* executor;
  ActorCell* current = nullptr;
  ActorCell* run_head = nullptr;
  ActorCell* run_tail = nullptr;
  WorkerHooks* hooks = nullptr;
  Tracer* tracer = nullptr;
  ActorCell* live = nullptr;
  std::size_t finished_count = 0;
  std::uint32_t budget = 0;  // messages the running actor may still take before it goes to the back
  bool stopping = false;
  TimerQueue timers;
  Random random;
  std::uint32_t index;

 private:
  void settle_credit(ActorCell* cell, Envelope* envelope) noexcept;
  void admit_waiting(ActorCell* cell) noexcept;
  std::uint64_t destroy_frame(ActorCell* cell) noexcept;
  std::uint64_t drop_mail(ActorCell* cell) noexcept;
  static void return_remote_credits(ActorCell* cell) noexcept;
  void drop(Envelope* envelope) noexcept;
};

/// The worker whose thread this is; null on every other thread.
inline constinit thread_local WorkerCore* tls_worker = nullptr;

/// Routes an envelope from any thread: directly, through the simulation's hooks, or through the target's inbox.
/// The target's worker is read from the cell; an actor that has died meanwhile drops it.
void route(Envelope* envelope);

/// Charges one message to `target` from here; false when its mailbox is full.
bool take_credit(ActorCell* target, Credit& credit);

/// The running actor suspends at `self`; returns the number that names this wait.
std::uint64_t begin_wait(std::coroutine_handle<> self, Wait kind, void* slot) noexcept;

/// The running actor's send found its receiver dead: ends its wait with SendStatus::kDead.
void refuse_wait(std::uint64_t number) noexcept;

/// A call that waits for `when` in the timers of the worker it is sent to.
Envelope* delayed_call(TimePoint when, Envelope* call);

ActorCell* allocate_cell();
void free_cell(ActorCell* cell) noexcept;

}  // namespace spillway::runtime::detail
