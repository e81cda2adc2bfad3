// SPDX-License-Identifier: Apache-2.0
//
// The runtime alone: two actors on two pinned threads, and a question from main.
//
// What to see: the counter owns its state and shares it with nobody, so there is no lock; the walker asks it a question
// and goes on when the answer is there, without blocking its thread; the answers come in the order of the questions.
// Nothing here knows of threads: change `workers` to 1 and the same code runs on one. At the end shutdown() reports
// that both actors returned by themselves.

#include <cstdio>
#include <variant>

#include "runtime/actor.hpp"
#include "runtime/thread_executor.hpp"

using namespace spillway;
using namespace spillway::runtime;
using namespace std::chrono_literals;

struct Add {
  int amount;
};
struct Total {
  Reply<int> reply;
};
using CounterMessage = std::variant<Add, Total>;

Task<void> counter(ActorContext<CounterMessage>& self) {
  int total = 0;
  while (auto message = co_await self.receive()) {
    if (auto* add = std::get_if<Add>(&*message)) {
      total += add->amount;
    } else if (auto* asked = std::get_if<Total>(&*message)) {
      asked->reply.send(total);
    }
  }
  std::printf("counter: stopped at %d\n", total);
}

struct Walk {
  int steps;
  Reply<int> done;
};

Task<void> walker(ActorContext<Walk>& self, Address<CounterMessage> to) {
  auto ask_total = [](Reply<int> reply) { return CounterMessage{Total{std::move(reply)}}; };
  while (auto walk = co_await self.receive()) {
    int last = 0;
    for (int i = 1; i <= walk->steps; ++i) {
      co_await to.send(Add{i});  // waits for room if the counter is behind
      Result<int> total = co_await ask<int>(to, ask_total, 1s);
      if (!total.ok()) break;
      last = *total;
      std::printf("walker: step %d, the counter says %d\n", i, last);
    }
    walk->done.send(last);
  }
}

int main() {
  ThreadExecutor executor(ThreadOptions{.workers = 2});
  const auto to = executor.spawn<CounterMessage>({.name = "counter", .worker = 0}, counter);
  const auto from = executor.spawn<Walk>({.name = "walker", .worker = 1}, walker, to);
  const Result<int> sum =
      ask_blocking<int>(executor, from, [](Reply<int> done) { return Walk{5, std::move(done)}; }, 10s);
  std::printf("main: 1 + 2 + 3 + 4 + 5 = %d\n", sum.ok() ? *sum : -1);
  const ShutdownReport report = executor.shutdown(1s);
  std::printf("main: %d actors returned, %d were cut\n", static_cast<int>(report.finished),
              static_cast<int>(report.cut.size()));
  return sum.ok() && *sum == 15 && report.clean() ? 0 : 1;
}
