// SPDX-License-Identifier: Apache-2.0
#pragma once

// ParkGate: how a worker sleeps without losing a wake-up. One word counts arrivals (in steps of 2); its lowest bit
// says that the worker sleeps or is about to.
//
//   sender:  put the message into the inbox; old = word.fetch_add(2); if old had the bit: clear it and wake
//   worker:  seen = word; empty the inbox; no other work: CAS(word, seen -> seen | bit), and sleep if it succeeds
//
// Both sides end in a read-modify-write of the same word, so one comes first. The sender's: then the CAS fails, since
// the count moved (the re-check). The worker's: then the sender reads the bit and wakes. A plain load on the sender's
// side, or going to sleep without the comparison, loses wake-ups; tests/runtime/test_park_gate.cpp walks through all
// interleavings of this very code, and of those two wrong variants.
//
// `Atomics` supplies Word (an atomic 32-bit word) and the sleep and wake calls; RealAtomics is std::atomic and futex.

#include <cstdint>

namespace spillway::runtime::detail {

template <class Atomics>
class ParkGate {
 public:
  using Word = typename Atomics::Word;
  static constexpr std::uint32_t kSleeping = 1;
  static constexpr std::uint32_t kArrival = 2;

  /// Sender, after its message is in the inbox.
  void announce() {
    const std::uint32_t old = word_.fetch_add(kArrival);
    if ((old & kSleeping) != 0 && (word_.fetch_and(~kSleeping) & kSleeping) != 0) Atomics::wake(word_);
  }

  /// Worker: calls `drain()` if anything was announced since the inbox was last found empty. `drain` takes messages
  /// and returns true when it found the inbox empty, false when it stopped early.
  template <class Drain>
  void collect(Drain&& drain) {
    seen_ = word_.load();
    if (seen_ != drained_ && drain()) drained_ = seen_;
  }

  /// Worker, after collect() and when there is no other work: sleeps until an arrival or until `timeout_ns` (negative:
  /// no timeout) has passed. Returns at once when anything was announced since collect() looked, or was left over.
  void sleep(std::int64_t timeout_ns) {
    if (seen_ != drained_) return;
    if (!word_.compare_exchange(seen_, seen_ | kSleeping)) return;
    Atomics::wait(word_, seen_ | kSleeping, timeout_ns);
    word_.fetch_and(~kSleeping);
  }

 private:
  Word word_{};
  std::uint32_t seen_ = 0;     // the worker's
  std::uint32_t drained_ = 0;  // the worker's: the inbox has been emptied of all that was announced up to here
};

}  // namespace spillway::runtime::detail
