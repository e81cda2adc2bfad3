// SPDX-License-Identifier: Apache-2.0
#pragma once

// The real thing behind ParkGate: std::atomic and futex(2).

#include <atomic>
#include <cstdint>

namespace spillway::runtime::detail {

/// Sleeps while `word` holds `expected`; at most timeout_ns (negative: no limit). May return early.
void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected, std::int64_t timeout_ns) noexcept;
void futex_wake_all(std::atomic<std::uint32_t>& word) noexcept;

struct RealAtomics {
  struct Word {
    std::atomic<std::uint32_t> value{0};
    std::uint32_t load() const noexcept { return value.load(std::memory_order_acquire); }
    std::uint32_t fetch_add(std::uint32_t x) noexcept { return value.fetch_add(x, std::memory_order_acq_rel); }
    std::uint32_t fetch_and(std::uint32_t x) noexcept { return value.fetch_and(x, std::memory_order_acq_rel); }
    bool compare_exchange(std::uint32_t expected, std::uint32_t desired) noexcept {
      return value.compare_exchange_strong(expected, desired, std::memory_order_acq_rel);
    }
  };
  static void wait(Word& word, std::uint32_t expected, std::int64_t timeout_ns) noexcept {
    futex_wait(word.value, expected, timeout_ns);
  }
  static void wake(Word& word) noexcept { futex_wake_all(word.value); }
};

}  // namespace spillway::runtime::detail
