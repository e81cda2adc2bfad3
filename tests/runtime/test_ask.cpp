// SPDX-License-Identifier: Apache-2.0
#include <thread>

#include "tests/runtime/probe.hpp"
#include "tests/support/catch.hpp"

namespace spillway::runtime {
namespace {

using namespace probe;
using namespace std::chrono_literals;

/// Answers after a pause, or keeps the replies until it is told to let go of them.
Task<void> slow_answerer(ActorContext<ProbeMessage>& self, Duration pause) {
  std::vector<Reply<int>> kept;
  while (auto message = co_await self.receive()) {
    if (auto* get = std::get_if<Get>(&*message)) {
      if (pause == kNoDeadline - TimePoint{}) {
        kept.push_back(std::move(get->reply));
        continue;
      }
      co_await self.sleep_for(pause);
      get->reply.send(get->value * 2);
    } else if (std::holds_alternative<Quit>(*message)) {
      co_return;
    }
  }
}

struct Begin {};

struct Outcome {
  std::vector<Result<int>> results;
  std::vector<TimePoint> times;
};

Task<void> asker(ActorContext<Begin>& self, Address<ProbeMessage> to, int count, Duration timeout, Outcome* out) {
  for (int i = 0; i < count; ++i) {
    Result<int> result = co_await ask<int>(to, make_get(i), timeout);
    out->results.push_back(std::move(result));
    out->times.push_back(self.now());
  }
}

constexpr Duration kKeep = kNoDeadline - TimePoint{};

}  // namespace

TEST_CASE("ask: the answer comes back to the asker") {
  Log log;
  Outcome out;
  SimExecutor sim;
  const auto to = sim.spawn<ProbeMessage>({}, recorder, &log);
  sim.spawn<Begin>({}, asker, to, 10, Duration(1s), &out);
  sim.run_until_idle();
  REQUIRE(out.results.size() == 10);
  for (int i = 0; i < 10; ++i) CHECK(out.results[static_cast<std::size_t>(i)].value() == 2 * i);
  CHECK(sim.now() < TimePoint{} + 1s);  // the deadlines' timers are gone
}

TEST_CASE("ask: a deadline that passes gives kDeadlineExceeded, and the late answer hits nobody") {
  Outcome out;
  SimExecutor sim;
  const auto to = sim.spawn<ProbeMessage>({}, slow_answerer, Duration(10ms));
  sim.spawn<Begin>({}, asker, to, 3, Duration(1ms), &out);
  sim.run_until_idle();
  REQUIRE(out.results.size() == 3);
  for (const auto& result : out.results) CHECK(result.error().code == Errc::kDeadlineExceeded);
  CHECK(out.times[0] == TimePoint{} + 1ms);
  CHECK(out.times[2] == TimePoint{} + 3ms);
}

TEST_CASE("ask: a late answer does not satisfy the next question") {
  struct TwoAsks {
    static Task<void> run(ActorContext<Begin>&, Address<ProbeMessage> slow, Address<ProbeMessage> never, Outcome* out) {
      out->results.push_back(co_await ask<int>(slow, make_get(1), Duration(1ms)));
      // The first answer (2) arrives while this question is open.
      out->results.push_back(co_await ask<int>(never, make_get(5), Duration(50ms)));
    }
  };
  Outcome out;
  SimExecutor sim;
  const auto slow = sim.spawn<ProbeMessage>({}, slow_answerer, Duration(10ms));
  const auto never = sim.spawn<ProbeMessage>({}, slow_answerer, kKeep);
  sim.spawn<Begin>({}, TwoAsks::run, slow, never, &out);
  sim.run_until_idle();
  REQUIRE(out.results.size() == 2);
  CHECK(out.results[0].error().code == Errc::kDeadlineExceeded);
  CHECK(out.results[1].error().code == Errc::kDeadlineExceeded);
}

TEST_CASE("ask: a reply dropped unanswered gives kClosed") {
  struct Dropper {
    static Task<void> run(ActorContext<ProbeMessage>& self) {
      while (auto message = co_await self.receive()) {
      }
    }
  };
  Outcome out;
  SimExecutor sim;
  const auto to = sim.spawn<ProbeMessage>({}, Dropper::run);
  sim.spawn<Begin>({}, asker, to, 2, Duration(1s), &out);
  sim.run_until_idle();
  REQUIRE(out.results.size() == 2);
  for (const auto& result : out.results) CHECK(result.error().code == Errc::kClosed);
}

TEST_CASE("ask: a failed reply carries its error") {
  struct Refuser {
    static Task<void> run(ActorContext<ProbeMessage>& self) {
      while (auto message = co_await self.receive()) {
        std::get<Get>(*message).reply.fail(Error{Errc::kOutOfMemory, "no blocks"});
      }
    }
  };
  Outcome out;
  SimExecutor sim;
  const auto to = sim.spawn<ProbeMessage>({}, Refuser::run);
  sim.spawn<Begin>({}, asker, to, 1, Duration(1s), &out);
  sim.run_until_idle();
  REQUIRE(out.results.size() == 1);
  CHECK(out.results[0].error() == Error{Errc::kOutOfMemory, "no blocks"});
}

TEST_CASE("ask: an answerer that ends, or has ended, gives kClosed") {
  Outcome open;
  Outcome dead;
  SimExecutor sim;
  const auto to = sim.spawn<ProbeMessage>({}, slow_answerer, kKeep);
  sim.spawn<Begin>({}, asker, to, 1, Duration(1s), &open);
  sim.run_ready();
  CHECK(open.results.empty());
  to.post(Quit{});
  sim.run_ready();
  REQUIRE(open.results.size() == 1);
  CHECK(open.results[0].error().code == Errc::kClosed);
  sim.spawn<Begin>({}, asker, to, 1, Duration(1s), &dead);
  sim.run_ready();
  REQUIRE(dead.results.size() == 1);
  CHECK(dead.results[0].error().code == Errc::kClosed);
}

TEST_CASE("ask: a question waits for room in a full mailbox, within its deadline") {
  Log log;
  Outcome patient;
  Outcome hasty;
  SimExecutor sim;
  const auto to = sim.reserve<ProbeMessage>({.mailbox_capacity = 1});
  CHECK(to.try_send(Put{1}) == SendStatus::kOk);
  sim.spawn<Begin>({}, asker, to, 1, Duration(1s), &patient);
  sim.spawn<Begin>({}, asker, to, 1, Duration(1ms), &hasty);
  sim.run_for(10ms);
  REQUIRE(hasty.results.size() == 1);
  CHECK(hasty.results[0].error().code == Errc::kDeadlineExceeded);
  CHECK(patient.results.empty());
  sim.start(to, recorder, &log);
  sim.run_until_idle();
  REQUIRE(patient.results.size() == 1);
  CHECK(patient.results[0].value() == 0);
  CHECK(to.try_send(Put{1}) == SendStatus::kOk);
  CHECK(to.try_send(Put{1}) == SendStatus::kFull);  // the queued questions' charges were returned
}

TEST_CASE("ask: an exception from the message factory reaches the asker, and it can ask again") {
  struct Thrower {
    static Task<void> run(ActorContext<Begin>&, Address<ProbeMessage> to, std::vector<int>* out) {
      try {
        auto bad = [](Reply<int>) -> ProbeMessage { throw std::runtime_error("bad"); };
        (void)co_await ask<int>(to, bad, Duration(1s));
      } catch (const std::runtime_error&) {
        out->push_back(-1);
      }
      const Result<int> result = co_await ask<int>(to, make_get(4), Duration(1s));
      out->push_back(result.value());
    }
  };
  Log log;
  std::vector<int> out;
  SimExecutor sim;
  const auto to = sim.spawn<ProbeMessage>({}, recorder, &log);
  sim.spawn<Begin>({}, Thrower::run, to, &out);
  sim.run_until_idle();
  CHECK(out == std::vector<int>{-1, 8});
}

TEST_CASE("ask: a reply can be moved to another actor and answered there") {
  struct Forwarder {
    static Task<void> run(ActorContext<ProbeMessage>& self, Address<ProbeMessage> to) {
      while (auto message = co_await self.receive()) to.post(std::move(*message));
    }
  };
  Log log;
  Outcome out;
  SimExecutor sim;
  const auto last = sim.spawn<ProbeMessage>({}, recorder, &log);
  const auto first = sim.spawn<ProbeMessage>({}, Forwarder::run, last);
  sim.spawn<Begin>({}, asker, first, 3, Duration(1s), &out);
  sim.run_until_idle();
  REQUIRE(out.results.size() == 3);
  CHECK(out.results[2].value() == 4);
}

TEST_CASE("ask: an asker that dies with a question open is not answered") {
  struct Mortal {
    static Task<void> run(ActorContext<ProbeMessage>& self, Address<ProbeMessage> to) {
      (void)co_await ask<int>(to, make_get(1), Duration(1s));
      (void)co_await self.receive();
    }
  };
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    SimExecutor sim(SimOptions{.seed = seed, .faults = {.crash_probability = 0.3, .crash_only = {"mortal"}}});
    const auto to = sim.spawn<ProbeMessage>({}, slow_answerer, Duration(1ms));
    for (int i = 0; i < 5; ++i) sim.spawn<ProbeMessage>({.name = "mortal"}, Mortal::run, to);
    sim.run_until_idle();
    CHECK(sim.failure_count() == sim.crash_count());
  }
}

TEST_CASE("ask_blocking: a thread that is no actor gets its answer, error or deadline") {
  Log log;
  ThreadExecutor threads(ThreadOptions{.workers = 2, .pin = false});
  const auto to = threads.spawn<ProbeMessage>({}, recorder, &log);
  const auto never = threads.spawn<ProbeMessage>({}, slow_answerer, kKeep);
  CHECK(ask_blocking<int>(threads, to, make_get(21), Duration(10s)).value() == 42);
  CHECK(ask_blocking<int>(threads, to, make_get(4)).value() == 8);
  CHECK(ask_blocking<int>(threads, never, make_get(1), Duration(1ms)).error().code == Errc::kDeadlineExceeded);
  to.post(Quit{});
  while (to.alive()) std::this_thread::yield();
  CHECK(ask_blocking<int>(threads, to, make_get(1), Duration(10s)).error().code == Errc::kClosed);
}

TEST_CASE("ask_blocking: under the simulation it runs the simulation") {
  SimExecutor sim;
  const auto to = sim.spawn<ProbeMessage>({}, slow_answerer, Duration(5ms));
  CHECK(ask_blocking<int>(sim, to, make_get(21), Duration(1s)).value() == 42);
  CHECK(sim.now() == TimePoint{} + 5ms);
  CHECK(ask_blocking<int>(sim, to, make_get(1), Duration(2ms)).error().code == Errc::kDeadlineExceeded);
  CHECK(sim.now() == TimePoint{} + 7ms);
}

}  // namespace spillway::runtime
