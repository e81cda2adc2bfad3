// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <thread>

#include "runtime/sender.hpp"
#include "tests/runtime/probe.hpp"
#include "tests/support/catch.hpp"

namespace spillway::runtime {
namespace {

using namespace probe;
using namespace std::chrono_literals;

ThreadOptions options(std::uint32_t workers, SpinPolicy spin = SpinPolicy::park()) {
  return ThreadOptions{.workers = workers, .spin = spin, .pin = false};
}

/// Everything sent before by this thread has been handled when this returns.
void settle(Executor& executor, Address<ProbeMessage> to) { (void)ask_blocking<int>(executor, to, make_get(0)); }

struct Go {};

Task<void> flood(ActorContext<Go>& self, Address<ProbeMessage> to, int from, int count, Reply<int> done) {
  (void)self;
  for (int i = from; i < from + count; ++i) {
    if (i % 2 == 0) {
      (void)co_await to.send(Put{i});
    } else {
      to.post(Put{i});
    }
  }
  done.send(count);
}

Task<void> echo_loop(ActorContext<Go>& self, Address<ProbeMessage> to, int rounds, Reply<int> done) {
  (void)self;
  int right = 0;
  for (int i = 0; i < rounds; ++i) {
    const Result<int> answer = co_await ask<int>(to, make_get(i), Duration(60s));
    right += answer.ok() && *answer == 2 * i;
  }
  done.send(right);
}

}  // namespace

TEST_CASE("threads: each sender's order holds across workers, through full mailboxes") {
  Log log;
  ThreadExecutor threads(options(3));
  const auto to = threads.spawn<ProbeMessage>({.worker = 0, .mailbox_capacity = 8}, recorder, &log);
  std::vector<std::unique_ptr<detail::BlockingSlotOwner<int>>> done;
  for (int s = 0; s < 6; ++s) {
    done.push_back(std::make_unique<detail::BlockingSlotOwner<int>>());
    threads.spawn<Go>({.worker = static_cast<std::uint32_t>(s % 3)}, flood, to, s * 10'000, 2000,
                      Reply<int>(done.back()->share()));
  }
  for (auto& slot : done) CHECK(slot->wait(threads, kNoDeadline).value() == 2000);
  settle(threads, to);
  CHECK(threads.shutdown(10s).clean());
  REQUIRE(log.values.size() == 12'000);
  std::vector<std::vector<int>> by_sender(6);
  for (const int v : log.values) by_sender[static_cast<std::size_t>(v / 10'000)].push_back(v);
  for (int s = 0; s < 6; ++s) CHECK(by_sender[static_cast<std::size_t>(s)] == range(s * 10'000, s * 10'000 + 2000));
}

TEST_CASE("threads: threads that are no actors keep their order too") {
  Log log;
  ThreadExecutor threads(options(1));
  const auto to = threads.spawn<ProbeMessage>({.mailbox_capacity = 16}, recorder, &log);
  std::vector<std::thread> senders;
  for (int s = 0; s < 3; ++s) {
    senders.emplace_back([&, s] {
      for (int i = s * 10'000; i < s * 10'000 + 2000; ++i) {
        while (to.try_send(Put{i}) == SendStatus::kFull) std::this_thread::yield();
      }
    });
  }
  for (auto& sender : senders) sender.join();
  settle(threads, to);
  (void)threads.shutdown(10s);
  std::vector<std::vector<int>> by_sender(3);
  for (const int v : log.values) by_sender[static_cast<std::size_t>(v / 10'000)].push_back(v);
  for (int s = 0; s < 3; ++s) CHECK(by_sender[static_cast<std::size_t>(s)] == range(s * 10'000, s * 10'000 + 2000));
}

// One sender that hops between two threads, each message after the other, while the worker is held up. With a token of
// its own (Sender) the inbox keeps its order. Without the SenderScope the two threads' own tokens serve, and the
// worker takes hundreds of messages of one thread before the other's: take the scope away to see this test fail.
TEST_CASE("threads: a sender that hops between threads keeps its order by its own token") {
  constexpr int kMessages = 4000;
  Log log;
  ThreadExecutor threads(options(1));
  const auto to = threads.spawn<ProbeMessage>({}, recorder, &log);
  std::atomic<bool> all_sent{false};
  threads.call_soon(0, [&] {
    while (!all_sent.load()) std::this_thread::yield();
  });
  Sender sender;
  std::atomic<int> turn{0};
  const auto half = [&](int parity) {
    for (int i = parity; i < kMessages; i += 2) {
      while (turn.load(std::memory_order_acquire) != i) std::this_thread::yield();
      {
        const SenderScope scope(sender);
        to.post(Put{i});
      }
      turn.store(i + 1, std::memory_order_release);
    }
  };
  std::thread other([&] { half(1); });
  half(0);
  other.join();
  all_sent.store(true);
  {
    const SenderScope scope(sender);
    settle(threads, to);
  }
  (void)threads.shutdown(10s);
  CHECK(log.values == range(0, kMessages));
}

TEST_CASE("threads: no wake-up is lost between workers that park after each message") {
  Log log;
  for (const SpinPolicy spin : {SpinPolicy::park(), SpinPolicy::spin_then_park(5)}) {
    ThreadExecutor threads(options(2, spin));
    const auto to = threads.spawn<ProbeMessage>({.worker = 1}, recorder, &log);
    detail::BlockingSlotOwner<int> slot;
    threads.spawn<Go>({.worker = 0}, echo_loop, to, 3000, Reply<int>(slot.share()));
    CHECK(slot.wait(threads, kNoDeadline).value() == 3000);
  }
}

TEST_CASE("threads: actors spawned by actors, from any worker onto any, all run") {
  struct Child {
    static Task<void> run(ActorContext<Go>&, std::atomic<int>* count) {
      count->fetch_add(1);
      co_return;
    }
  };
  struct Parent {
    static Task<void> run(ActorContext<Go>& self, std::atomic<int>* count) {
      for (std::uint32_t i = 0; i < 200; ++i) self.executor().spawn<Go>({.worker = i}, Child::run, count);
      co_return;
    }
  };
  std::atomic<int> count{0};
  ThreadExecutor threads(options(3));
  for (std::uint32_t p = 0; p < 3; ++p) threads.spawn<Go>({.worker = p}, Parent::run, &count);
  while (count.load() < 600) std::this_thread::yield();
  const ShutdownReport report = threads.shutdown(60s);
  CHECK(report.clean());
  CHECK(report.finished == 603);
}

TEST_CASE("threads: a poller keeps its worker awake and is gone after remove_poller") {
  struct Countdown final : Poller {
    bool poll() noexcept override {
      polls.fetch_add(1);
      return true;
    }
    std::atomic<int> polls{0};
  };
  Countdown poller;
  ThreadExecutor threads(options(1));
  threads.add_poller(0, &poller);
  while (poller.polls.load() < 100) std::this_thread::yield();  // nobody sends anything
  threads.remove_poller(0, &poller);
  const int after = poller.polls.load();
  std::atomic<std::uint32_t> called{0};
  threads.call_soon(0, [&] { called.store(1); });
  while (called.load() == 0) std::this_thread::yield();
  CHECK(poller.polls.load() == after);
}

TEST_CASE("threads: call_at runs on the worker when its time has come") {
  ThreadExecutor threads(options(2));
  const TimePoint when = threads.now() + 3ms;
  std::atomic<std::int64_t> ran_at{0};
  threads.call_at(1, when, [&] { ran_at.store(to_ns(threads.now())); });
  while (ran_at.load() == 0) std::this_thread::yield();
  CHECK(ran_at.load() >= to_ns(when));
}

TEST_CASE("threads: a failure on one worker leaves the others alone") {
  Log bad_log;
  Log good_log;
  ThreadExecutor threads(options(2));
  const auto bad = threads.spawn<ProbeMessage>({.worker = 0, .supervisor = SupervisorPolicy::restart(1)}, recorder,
                                               &bad_log);
  const auto good = threads.spawn<ProbeMessage>({.worker = 1}, recorder, &good_log);
  bad.post(Throw{"x"});
  (void)ask_blocking<int>(threads, bad, make_get(2));  // dropped with the failed frame's mail, or answered by the next
  CHECK(threads.failure_count() == 1);
  CHECK(ask_blocking<int>(threads, bad, make_get(2)).value() == 4);
  CHECK(ask_blocking<int>(threads, good, make_get(3)).value() == 6);
  (void)threads.shutdown(10s);
  CHECK(bad_log.started == 2);
}

}  // namespace spillway::runtime
