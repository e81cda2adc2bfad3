// SPDX-License-Identifier: Apache-2.0
#include "tests/runtime/probe.hpp"
#include "tests/support/catch.hpp"

namespace spillway::runtime {
namespace {

using namespace probe;
using namespace std::chrono_literals;

struct Died {
  DeathNotice notice;
};

Task<void> supervisor(ActorContext<Died>& self, std::vector<DeathNotice>* notices) {
  while (auto died = co_await self.receive()) notices->push_back(std::move(died->notice));
}

struct Watched {
  std::vector<DeathNotice> notices;
  SimExecutor sim;
  Address<Died> watcher;

  explicit Watched(SimOptions options = {}) : sim(std::move(options)) {
    watcher = sim.spawn<Died>({.name = "supervisor"}, supervisor, &notices);
  }
  SupervisorPolicy watched(SupervisorPolicy policy) {
    return std::move(policy).notify_to(watcher, [](DeathNotice notice) { return Died{std::move(notice)}; });
  }
};

}  // namespace

TEST_CASE("supervision: an exception at the root ends that actor alone and tells its supervisor") {
  Log poisoned;
  Log healthy;
  Watched w;
  const auto bad = w.sim.spawn<ProbeMessage>({.name = "bad", .supervisor = w.watched(SupervisorPolicy::stop())},
                                             recorder, &poisoned);
  const auto good = w.sim.spawn<ProbeMessage>({.name = "good"}, recorder, &healthy);
  bad.post(Put{1});
  bad.post(Throw{"poison"});
  bad.post(Put{2});
  good.post(Put{3});
  w.sim.run_until_idle();
  CHECK(poisoned.values == std::vector<int>{1});
  CHECK(poisoned.ended == 1);
  CHECK_FALSE(bad.alive());
  CHECK(healthy.values == std::vector<int>{3});
  REQUIRE(w.notices.size() == 1);
  CHECK(w.notices[0].actor == "bad");
  CHECK(w.notices[0].error == Error{Errc::kInternal, "poison"});
  CHECK_FALSE(w.notices[0].restarted);
  CHECK(w.sim.failure_count() == 1);
}

TEST_CASE("supervision: an unwatched failure is counted") {
  Log log;
  SimExecutor sim;
  const auto to = sim.spawn<ProbeMessage>({}, recorder, &log);
  to.post(Throw{"x"});
  sim.run_until_idle();
  CHECK(sim.failure_count() == 1);
  CHECK_FALSE(to.alive());
}

TEST_CASE("supervision: a restart puts a new frame behind the same address") {
  Log log;
  Watched w;
  const auto to = w.sim.spawn<ProbeMessage>(
      {.name = "phoenix", .supervisor = w.watched(SupervisorPolicy::restart(2))}, recorder, &log);
  to.post(Put{1});
  to.post(Throw{"first"});
  w.sim.run_until_idle();
  CHECK(log.started == 2);
  CHECK(log.ended == 1);
  CHECK(to.alive());
  to.post(Put{2});
  w.sim.run_until_idle();
  CHECK(log.values == std::vector<int>{1, 2});
  REQUIRE(w.notices.size() == 1);
  CHECK(w.notices[0].restarted);
  CHECK(w.notices[0].restarts == 1);
}

TEST_CASE("supervision: too many failures within the window end it, failures far apart do not") {
  Log log;
  Watched w;
  const auto to = w.sim.spawn<ProbeMessage>(
      {.name = "phoenix", .supervisor = w.watched(SupervisorPolicy::restart(2, Duration(1s)))}, recorder, &log);
  for (int i = 0; i < 10; ++i) {
    to.post(Throw{"rare"});
    w.sim.run_for(600ms);
  }
  CHECK(to.alive());
  CHECK(log.started == 11);
  w.sim.run_for(2s);
  for (int i = 0; i < 3; ++i) {
    to.post(Throw{"often"});
    w.sim.run_for(1ms);
  }
  CHECK_FALSE(to.alive());
  CHECK(log.started == 13);
  CHECK(log.ended == 13);
  CHECK_FALSE(w.notices.back().restarted);
}

TEST_CASE("supervision: the mail of a failed actor is destroyed, so that replies and leases in it fire") {
  struct Asker {
    static Task<void> run(ActorContext<Put>&, Address<ProbeMessage> to, std::vector<Errc>* out) {
      const Result<int> result = co_await ask<int>(to, make_get(1));
      if (!result.ok()) out->push_back(result.error().code);
    }
  };
  for (const bool restart : {false, true}) {
    Log log;
    int destroyed = 0;
    std::vector<Errc> errors;
    SimExecutor sim;
    const auto to = sim.reserve<ProbeMessage>(
        {.supervisor = restart ? SupervisorPolicy::restart(5) : SupervisorPolicy::stop()});
    to.post(Throw{"x"});
    to.post(Hold{Token(&destroyed)});
    to.post(Hold{Token(&destroyed)});
    sim.run_ready();
    sim.spawn<Put>({}, Asker::run, to, &errors);
    sim.run_ready();
    sim.start(to, recorder, &log);
    sim.run_until_idle();
    CHECK(destroyed == 2);
    CHECK(errors == std::vector<Errc>{Errc::kClosed});
    CHECK(to.alive() == restart);
  }
}

TEST_CASE("supervision: the timers of a failed frame do not reach the next one") {
  struct Timed {
    static Task<void> run(ActorContext<ProbeMessage>& self, Log* log) {
      ++log->started;
      if (log->started == 1) self.send_after(1ms, Put{1});
      while (auto message = co_await self.receive()) {
        if (auto* put = std::get_if<Put>(&*message)) log->values.push_back(put->value);
        if (std::holds_alternative<Throw>(*message)) throw std::runtime_error("x");
      }
    }
  };
  Log log;
  SimExecutor sim;
  const auto to = sim.spawn<ProbeMessage>({.supervisor = SupervisorPolicy::restart(1)}, Timed::run, &log);
  to.post(Throw{"x"});
  sim.run_until_idle();
  CHECK(log.started == 2);
  CHECK(log.values.empty());
}

TEST_CASE("supervision: an actor that fails before its first message is restarted no more than allowed") {
  struct Stillborn {
    static Task<void> run(ActorContext<ProbeMessage>&, int* starts) {
      ++*starts;
      throw std::runtime_error("cannot start");
      co_return;
    }
  };
  int starts = 0;
  SimExecutor sim;
  const auto to = sim.spawn<ProbeMessage>({.supervisor = SupervisorPolicy::restart(3)}, Stillborn::run, &starts);
  sim.run_until_idle();
  CHECK(starts == 4);
  CHECK_FALSE(to.alive());
}

TEST_CASE("supervision: a failure that is no std::exception is reported all the same") {
  struct Odd {
    static Task<void> run(ActorContext<ProbeMessage>&) {
      throw 7;
      co_return;
    }
  };
  Watched w;
  w.sim.spawn<ProbeMessage>({.name = "odd", .supervisor = w.watched(SupervisorPolicy::stop())}, Odd::run);
  w.sim.run_until_idle();
  REQUIRE(w.notices.size() == 1);
  CHECK(w.notices[0].error.code == Errc::kInternal);
}

}  // namespace spillway::runtime
