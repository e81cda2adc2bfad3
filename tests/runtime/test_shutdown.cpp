// SPDX-License-Identifier: Apache-2.0
#include <atomic>

#include "tests/runtime/probe.hpp"
#include "tests/support/catch.hpp"

namespace spillway::runtime {
namespace {

using namespace probe;
using namespace std::chrono_literals;

/// Writes its number down when its frame is destroyed, and posts to another while at it.
struct AtDestruction {
  int number;
  std::vector<int>* order;
  Address<ProbeMessage> to;
  ~AtDestruction() {
    order->push_back(number);
    to.post(Hold{Token(nullptr)});
  }
};

Task<void> stubborn(ActorContext<ProbeMessage>& self, int number, std::vector<int>* order, Address<ProbeMessage> to) {
  const AtDestruction at_destruction{number, order, to};
  for (;;) co_await self.sleep_for(1h);
}

}  // namespace

TEST_CASE("shutdown: actors drain their mail, see the stop and return") {
  Log log;
  SimExecutor sim;
  const auto to = sim.spawn<ProbeMessage>({}, recorder, &log);
  for (int i = 0; i < 20; ++i) to.post(Put{i});
  const ShutdownReport report = sim.shutdown(1s);
  CHECK(report.clean());
  CHECK(report.finished == 1);
  CHECK(log.values == range(0, 20));
  CHECK(log.ended == 1);
  CHECK_FALSE(to.alive());
}

TEST_CASE("shutdown: what does not return in time is destroyed in reverse order of spawning, and reported") {
  std::vector<int> order;
  Log log;
  SimExecutor sim;
  const auto first = sim.spawn<ProbeMessage>({.name = "polite"}, recorder, &log);
  for (int i = 0; i < 4; ++i) {
    sim.spawn<ProbeMessage>({.name = "stubborn-" + std::to_string(i)}, stubborn, i, &order, first);
  }
  const auto never_started = sim.reserve<ProbeMessage>({.name = "reserved"});
  never_started.post(Put{1});
  sim.run_ready();
  const ShutdownReport report = sim.shutdown(10ms);
  CHECK(order == std::vector<int>{3, 2, 1, 0});
  CHECK(report.finished == 1);
  REQUIRE(report.cut.size() == 5);
  CHECK(report.cut[0].name == "reserved");
  CHECK(report.cut[0].waiting_for == "start");
  CHECK(report.cut[0].mail_dropped == 1);
  CHECK(report.cut[1].name == "stubborn-3");
  CHECK(report.cut[1].waiting_for == "sleep");
  CHECK(sim.shutdown(1s).cut.size() == 5);  // a second call gives the same report
}

TEST_CASE("shutdown: frames that post to each other while they are destroyed reach nobody and leak nothing") {
  std::vector<int> order;
  int destroyed = 0;
  {
    SimExecutor sim;
    const auto a = sim.reserve<ProbeMessage>({});
    const auto b = sim.reserve<ProbeMessage>({});
    sim.start(a, stubborn, 0, &order, b);
    sim.start(b, stubborn, 1, &order, a);
    a.post(Hold{Token(&destroyed)});
    sim.call_at(0, TimePoint{} + 1h, [token = std::make_unique<Token>(&destroyed)] {});
    sim.run_ready();
  }
  CHECK(order == std::vector<int>{1, 0});
  CHECK(destroyed == 2);
}

TEST_CASE("shutdown: an actor spawned while stopping is asked to stop at once") {
  struct LastWill {
    static Task<void> run(ActorContext<ProbeMessage>& self, Log* log) {
      while (auto message = co_await self.receive()) {
      }
      self.executor().spawn<ProbeMessage>({}, recorder, log);
    }
  };
  Log log;
  SimExecutor sim;
  sim.spawn<ProbeMessage>({}, LastWill::run, &log);
  const ShutdownReport report = sim.shutdown(1s);
  CHECK(report.clean());
  CHECK(report.finished == 2);
  CHECK(log.ended == 1);
}

TEST_CASE("shutdown: with threads, everything drains across workers and the rest is cut bottom-up") {
  struct Relay {
    static Task<void> run(ActorContext<ProbeMessage>& self, Address<ProbeMessage> next) {
      while (auto message = co_await self.receive()) next.post(std::move(*message));
    }
  };
  std::vector<int> order;
  Log log;
  ThreadExecutor threads(ThreadOptions{.workers = 3, .pin = false});
  const auto last = threads.spawn<ProbeMessage>({.worker = 2}, recorder, &log);
  const auto first = threads.spawn<ProbeMessage>({.worker = 1}, Relay::run, last);
  for (std::uint32_t i = 0; i < 4; ++i) {
    threads.spawn<ProbeMessage>({.name = "stubborn", .worker = i}, stubborn, static_cast<int>(i), &order, last);
  }
  for (int i = 0; i < 100; ++i) first.post(Put{i});
  while (ask_blocking<int>(threads, first, make_get(1)).value() != 2) {
  }
  const ShutdownReport report = threads.shutdown(20ms);
  CHECK(log.values == range(0, 100));
  CHECK(order == std::vector<int>{3, 2, 1, 0});
  CHECK(report.finished == 2);
  CHECK(report.cut.size() == 4);
}

TEST_CASE("shutdown: a destroyed executor closes the questions that are open") {
  struct Keeper {
    static Task<void> run(ActorContext<ProbeMessage>& self) {
      std::vector<ProbeMessage> kept;
      while (auto message = co_await self.receive()) kept.push_back(std::move(*message));
      for (;;) co_await self.sleep_for(1h);
    }
  };
  detail::BlockingSlotOwner<int> slot;
  {
    ThreadExecutor threads(ThreadOptions{.workers = 1, .pin = false});
    const auto to = threads.spawn<ProbeMessage>({}, Keeper::run);
    to.post(Get{1, Reply<int>(slot.share())});
  }
  SimExecutor sim;  // only to wait with
  const Result<int> result = slot.wait(sim, kNoDeadline);
  CHECK(result.error().code == Errc::kClosed);
}

}  // namespace spillway::runtime
