// SPDX-License-Identifier: Apache-2.0
#include "tests/runtime/probe.hpp"
#include "tests/support/catch.hpp"

namespace spillway::runtime {
namespace {

using namespace probe;
using namespace std::chrono_literals;

struct Tick {
  int number = 0;
};

}  // namespace

TEST_CASE("timers: they fire in order of time, and of setting when the time is the same") {
  struct Setter {
    static Task<void> run(ActorContext<Tick>& self, std::vector<int>* out, std::vector<TimePoint>* times) {
      self.send_after(30ms, Tick{3});
      self.send_after(10ms, Tick{1});
      self.send_after(20ms, Tick{20});
      self.send_after(20ms, Tick{21});
      self.send_after(0ms, Tick{0});
      while (auto tick = co_await self.receive()) {
        out->push_back(tick->number);
        times->push_back(self.now());
      }
    }
  };
  std::vector<int> out;
  std::vector<TimePoint> times;
  SimExecutor sim;
  sim.spawn<Tick>({}, Setter::run, &out, &times);
  sim.run_until_idle();
  CHECK(out == std::vector<int>{0, 1, 20, 21, 3});
  CHECK(times.front() == TimePoint{});
  CHECK(times.back() == TimePoint{} + 30ms);
}

TEST_CASE("timers: a cancelled one does not fire, and its message is destroyed at once") {
  struct Canceller {
    static Task<void> run(ActorContext<ProbeMessage>& self, int* destroyed, std::vector<int>* out) {
      const TimerId keep = self.send_after(1ms, Put{1});
      const TimerId drop = self.send_after(2ms, Hold{Token(destroyed)});
      out->push_back(self.cancel_timer(drop) ? 1 : 0);
      out->push_back(*destroyed);
      out->push_back(self.cancel_timer(drop) ? 1 : 0);
      (void)co_await self.receive();
      out->push_back(self.cancel_timer(keep) ? 1 : 0);  // it has fired
      out->push_back(self.cancel_timer(TimerId{}) ? 1 : 0);
    }
  };
  int destroyed = 0;
  std::vector<int> out;
  SimExecutor sim;
  sim.spawn<ProbeMessage>({}, Canceller::run, &destroyed, &out);
  sim.run_until_idle();
  CHECK(out == std::vector<int>{1, 1, 0, 0, 0});
  CHECK(sim.now() == TimePoint{} + 1ms);
}

TEST_CASE("timers: they go with their actor, messages and all") {
  struct Leaver {
    static Task<void> run(ActorContext<ProbeMessage>& self, int* destroyed) {
      for (int i = 0; i < 5; ++i) self.send_after(1h, Hold{Token(destroyed)});
      co_return;
    }
  };
  int destroyed = 0;
  SimExecutor sim;
  sim.spawn<ProbeMessage>({}, Leaver::run, &destroyed);
  sim.run_ready();
  CHECK(destroyed == 5);
  sim.run_until_idle();
  CHECK(sim.now() == TimePoint{});
}

TEST_CASE("timers: a thousand set and cancelled in random order leave the right ones, in order") {
  struct Many {
    static Task<void> run(ActorContext<Tick>& self, std::vector<int>* expected, std::vector<int>* out) {
      std::vector<std::pair<TimerId, int>> timers;
      std::vector<int> left;
      for (int i = 0; i < 1000; ++i) {
        const int when = static_cast<int>(self.random().below(1'000'000));
        timers.emplace_back(self.send_after(Duration(when), Tick{when}), when);
      }
      for (auto& [id, when] : timers) {
        if (self.random().chance(0.5)) {
          SPW_CHECK(self.cancel_timer(id));
        } else {
          left.push_back(when);
        }
      }
      std::sort(left.begin(), left.end());
      *expected = left;
      while (out->size() < left.size()) {
        auto tick = co_await self.receive();
        out->push_back(tick->number);
      }
    }
  };
  std::vector<int> expected;
  std::vector<int> out;
  SimExecutor sim(SimOptions{.seed = 77});
  sim.spawn<Tick>({}, Many::run, &expected, &out);
  sim.run_until_idle();
  CHECK(expected.size() > 300);
  CHECK(out == expected);
}

TEST_CASE("timers: sleeping takes virtual time only, and mail waits meanwhile") {
  struct Sleeper {
    static Task<void> run(ActorContext<Tick>& self, std::vector<TimePoint>* times) {
      co_await self.sleep_for(100h);
      times->push_back(self.now());
      (void)co_await self.receive();
      times->push_back(self.now());
      co_await self.sleep_until(self.now() + 1ns);
      times->push_back(self.now());
    }
  };
  std::vector<TimePoint> times;
  SimExecutor sim;
  const auto to = sim.spawn<Tick>({}, Sleeper::run, &times);
  to.post(Tick{1});
  sim.run_until_idle();
  CHECK(times == std::vector<TimePoint>{TimePoint{} + 100h, TimePoint{} + 100h, TimePoint{} + 100h + 1ns});
}

TEST_CASE("timers: call_at runs a callback at its time, for those who are no actors") {
  for (const bool from_inside : {false, true}) {
    struct Caller {
      static Task<void> run(ActorContext<Tick>& self, std::vector<TimePoint>* times) {
        Executor* executor = &self.executor();
        executor->call_at(0, self.now() + 2ms, [times, executor] { times->push_back(executor->now()); });
        co_return;
      }
    };
    std::vector<TimePoint> times;
    SimExecutor sim;
    if (from_inside) {
      sim.spawn<Tick>({}, Caller::run, &times);
    } else {
      sim.call_at(0, TimePoint{} + 2ms, [&] { times.push_back(sim.now()); });
    }
    sim.call_soon(0, [&] { times.push_back(sim.now()); });
    sim.run_until_idle();
    CHECK(times == std::vector<TimePoint>{TimePoint{}, TimePoint{} + 2ms});
  }
}

TEST_CASE("timers: they fire under real time too, not before they are due") {
  struct Waiter {
    static Task<void> run(ActorContext<Tick>& self, Reply<Duration> reply) {
      const TimePoint start = self.now();
      self.send_after(2ms, Tick{});
      (void)co_await self.receive();
      reply.send(self.now() - start);
    }
  };
  struct Root {
    Reply<Duration> reply;
  };
  struct Spawner {
    static Task<void> run(ActorContext<Root>& self) {
      auto root = co_await self.receive();
      self.executor().spawn<Tick>({}, Waiter::run, std::move(root->reply));
    }
  };
  ThreadExecutor threads(ThreadOptions{.pin = false});
  const auto to = threads.spawn<Root>({}, Spawner::run);
  const auto waited =
      ask_blocking<Duration>(threads, to, [](Reply<Duration> reply) { return Root{std::move(reply)}; });
  CHECK(waited.value() >= 2ms);
}

TEST_CASE("time: adding to a deadline does not overflow") {
  CHECK(saturating_add(TimePoint{} + 5s, Duration::max()) == kNoDeadline);
  CHECK(saturating_add(TimePoint{} + 5s, 1s) == TimePoint{} + 6s);
}

}  // namespace spillway::runtime
