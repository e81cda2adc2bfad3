// SPDX-License-Identifier: Apache-2.0
// Walks the real ParkGate through all interleavings, and shows that three wrong ones are caught.
#include "runtime/park_gate.hpp"

#include <memory>

#include "tests/runtime/model_checker.hpp"
#include "tests/support/catch.hpp"

// ThreadSanitizer does not follow swapcontext; the checker is single-threaded anyway.
#if !defined(__SANITIZE_THREAD__)

namespace spillway::runtime {
namespace {

using model::Checker;
using model::ModelAtomics;
using model::ModelInbox;
using model::Orders;

/// Wrong: the sender only looks whether the worker sleeps.
template <class Atomics>
class GateWithPlainLoad {
 public:
  void announce() {
    if ((word_.load() & 1) != 0) {
      word_.store(0);
      Atomics::wake(word_);
    }
  }
  template <class Drain>
  void collect(Drain&& drain) {
    (void)drain();
  }
  template <class Drain>
  void sleep_after(Drain&& drain) {
    word_.store(1);
    if (drain()) {  // the re-check is there, and does not help
      word_.store(0);
      return;
    }
    Atomics::wait(word_, 1, -1);
    word_.store(0);
  }

 private:
  typename Atomics::Word word_{};
};

/// Wrong: sleeps without comparing with what was seen before the inbox was emptied.
template <class Atomics>
class GateWithoutRecheck {
 public:
  void announce() {
    const std::uint32_t old = word_.fetch_add(2);
    if ((old & 1) != 0 && (word_.fetch_and(~1U) & 1) != 0) Atomics::wake(word_);
  }
  template <class Drain>
  void collect(Drain&& drain) {
    const std::uint32_t seen = word_.load();
    if (seen != drained_ && drain()) drained_ = seen;
  }
  void sleep(std::int64_t) {
    const std::uint32_t value = word_.fetch_or(1) | 1;
    Atomics::wait(word_, value, -1);
    word_.fetch_and(~1U);
  }

 private:
  typename Atomics::Word word_{};
  std::uint32_t drained_ = 0;
};

/// `senders` threads with `each` messages and one worker that sleeps whenever it finds nothing.
template <class Gate>
Checker::Outcome explore(Orders orders, std::size_t senders, std::uint32_t each, std::size_t preemptions_max) {
  struct State {
    explicit State(std::size_t n) : inbox(n) {}
    ModelInbox inbox;
    Gate gate;
    std::uint32_t received = 0;
  };
  const auto total = static_cast<std::uint32_t>(senders * each);
  std::shared_ptr<State> state;
  Checker checker;
  return checker.explore(
      orders,
      [&] {
        state = std::make_shared<State>(senders);
        std::vector<std::function<void()>> threads;
        threads.push_back([&state, total] {
          const auto drain = [&state] {
            const std::uint32_t count = state->inbox.drain();
            state->received += count;
            return count;
          };
          while (state->received < total) {
            state->gate.collect([&] {
              (void)drain();
              return true;
            });
            if (state->received == total) return;
            if constexpr (requires { state->gate.sleep(-1); }) {
              state->gate.sleep(-1);
            } else {
              state->gate.sleep_after([&] { return drain() != 0; });
            }
          }
        });
        for (std::size_t s = 0; s < senders; ++s) {
          threads.push_back([&state, s, each] {
            for (std::uint32_t i = 0; i < each; ++i) {
              state->inbox.push(s);
              state->gate.announce();
            }
          });
        }
        return threads;
      },
      [&] { return state->received != total; }, preemptions_max);
}

constexpr std::size_t kNoLimit = ~std::size_t{0};

}  // namespace

TEST_CASE("park gate: no interleaving of one sender with two messages loses a wake-up") {
  const auto outcome = explore<detail::ParkGate<ModelAtomics>>(Orders::kAcquireRelease, 1, 2, kNoLimit);
  CHECK(outcome.executions > 100);
  CHECK(outcome.too_long == 0);
  CHECK(outcome.failures == 0);
}

TEST_CASE("park gate: no interleaving of two senders with up to three preemptions loses a wake-up") {
  const auto outcome = explore<detail::ParkGate<ModelAtomics>>(Orders::kAcquireRelease, 2, 1, 3);
  CHECK(outcome.executions > 1000);
  CHECK(outcome.too_long == 0);
  CHECK(outcome.failures == 0);
}

TEST_CASE("park gate: the checker catches a sender that only loads the word") {
  CHECK(explore<GateWithPlainLoad<ModelAtomics>>(Orders::kAcquireRelease, 1, 1, kNoLimit).failures > 0);
}

TEST_CASE("park gate: the checker catches a worker that sleeps without the re-check") {
  CHECK(explore<GateWithoutRecheck<ModelAtomics>>(Orders::kAcquireRelease, 1, 1, kNoLimit).failures > 0);
}

TEST_CASE("park gate: the checker catches orders weaker than acquire and release") {
  CHECK(explore<detail::ParkGate<ModelAtomics>>(Orders::kRelaxed, 1, 1, kNoLimit).failures > 0);
}

}  // namespace spillway::runtime

#endif
