// SPDX-License-Identifier: Apache-2.0
// The peer: CAF's ping-pong and fan-in on one scheduler thread, beside ours in the same process.
#include <caf/all.hpp>
#include <chrono>
#include <cstdint>
#include <cstdio>

#include "runtime/actor.hpp"
#include "runtime/thread_executor.hpp"

namespace {

using Clock = std::chrono::steady_clock;

double ns_each(Clock::time_point start, std::uint64_t count) {
  return std::chrono::duration<double, std::nano>(Clock::now() - start).count() / static_cast<double>(count);
}

caf::behavior caf_wall(caf::event_based_actor*) {
  return {[](std::uint64_t value) { return value; }};
}

double caf_ping_pong(std::uint64_t rounds) {
  caf::actor_system_config config;
  config.set("scheduler.max-threads", 1);
  caf::actor_system system(config);
  const auto other = system.spawn(caf_wall);
  double result = 0;
  const Clock::time_point start = Clock::now();
  system.spawn([=, &result](caf::event_based_actor* self) -> caf::behavior {
    self->send(other, rounds);
    return {[=, &result](std::uint64_t left) {
      if (left == 0) {
        result = ns_each(start, rounds);
        self->send_exit(other, caf::exit_reason::user_shutdown);
        self->quit();
        return;
      }
      self->send(other, left - 1);
    }};
  });
  system.await_all_actors_done();
  return result;
}

double caf_fan_in(std::uint64_t each) {
  caf::actor_system_config config;
  config.set("scheduler.max-threads", 1);
  caf::actor_system system(config);
  const std::uint64_t total = 4 * each;
  double result = 0;
  const Clock::time_point start = Clock::now();
  const auto sink = system.spawn([=, &result](caf::event_based_actor* self) -> caf::behavior {
    auto seen = std::make_shared<std::uint64_t>(0);
    return {[=, &result](std::uint64_t) {
      if (++*seen == total) {
        result = ns_each(start, total);
        self->quit();
      }
    }};
  });
  for (int s = 0; s < 4; ++s) {
    system.spawn([=](caf::event_based_actor* self) {
      for (std::uint64_t i = 0; i < each; ++i) self->send(sink, i);
    });
  }
  system.await_all_actors_done();
  return result;
}

using namespace spillway;
using namespace spillway::runtime;

struct Ball {
  Address<Ball> from;
  std::uint64_t value = 0;
};
struct Number {
  std::uint64_t value = 0;
};

Task<void> wall(ActorContext<Ball>& self) {
  const Address<Ball> me = self.address();
  while (auto ball = co_await self.receive()) (void)ball->from.try_send(Ball{me, ball->value});
}
Task<void> player(ActorContext<Ball>& self, Address<Ball> other, std::uint64_t rounds, Reply<double> done) {
  const Address<Ball> me = self.address();
  const Clock::time_point start = Clock::now();
  for (std::uint64_t i = 0; i < rounds; ++i) {
    (void)other.try_send(Ball{me, i});
    auto ball = co_await self.receive();
    if (!ball) co_return;
  }
  done.send(ns_each(start, rounds));
}
Task<void> sink(ActorContext<Number>& self, std::uint64_t total, Reply<double> done) {
  const Clock::time_point start = Clock::now();
  for (std::uint64_t i = 0; i < total; ++i) {
    auto number = co_await self.receive();
    if (!number) co_return;
  }
  done.send(ns_each(start, total));
}
Task<void> source(ActorContext<Number>& self, Address<Number> to, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) {
    while (to.try_send(Number{i}) == SendStatus::kFull) co_await self.yield();
  }
}

double our_ping_pong(std::uint64_t rounds) {
  ThreadExecutor executor(ThreadOptions{.spin = SpinPolicy::spin()});
  detail::BlockingSlotOwner<double> slot;
  const auto other = executor.spawn<Ball>({}, wall);
  executor.spawn<Ball>({}, player, other, rounds, Reply<double>(slot.share()));
  return slot.wait(executor, kNoDeadline).value();
}
double our_fan_in(std::uint64_t each) {
  ThreadExecutor executor(ThreadOptions{.spin = SpinPolicy::spin()});
  detail::BlockingSlotOwner<double> slot;
  const auto to = executor.spawn<Number>({}, sink, 4 * each, Reply<double>(slot.share()));
  for (int s = 0; s < 4; ++s) executor.spawn<Number>({}, source, to, each);
  return slot.wait(executor, kNoDeadline).value();
}

void print(const char* name, double ours, double theirs) {
  std::printf(R"({"bench":"runtime_caf","name":"%s","ours_ns":%.4g,"caf_ns":%.4g,"ratio":%.3g,"target":">= 5"})" "\n",
              name, ours, theirs, theirs / ours);
  std::fflush(stdout);
}

/// Best of three, interleaved.
template <class Ours, class Theirs>
void compare(const char* name, Ours ours, Theirs theirs) {
  double our_best = ours();
  double their_best = theirs();
  for (int i = 0; i < 2; ++i) {
    our_best = std::min(our_best, ours());
    their_best = std::min(their_best, theirs());
  }
  print(name, our_best, their_best);
}

}  // namespace

int main() {
  compare("ping_pong_1_worker", [] { return our_ping_pong(1'000'000); }, [] { return caf_ping_pong(1'000'000); });
  compare("fan_in_4_to_1_1_worker", [] { return our_fan_in(250'000); }, [] { return caf_fan_in(250'000); });
  return 0;
}
