// SPDX-License-Identifier: Apache-2.0
#pragma once

// PagePopulator: a thread of the lowest priority that makes the pages of a mapping resident before anybody
// writes them. The first write into a huge page waits until 2 MiB are cleared: a fraction of a millisecond,
// but 7 ms where a virtual machine has to ask its host for the memory, in the middle of a step. A server that
// is idle before its first request has the time.

#include <atomic>
#include <cstddef>
#include <thread>

namespace spillway::gpu::host {

class PagePopulator {
 public:
  /// Begins with the first `first` of [data, data + bytes), page-aligned, which must stay mapped while this
  /// lives. What the pages hold is kept. Ends early where the system cannot (Linux before 5.14) and when
  /// memory gets scarce: pages then come when they are written.
  PagePopulator(std::byte* data, std::size_t bytes, std::size_t first);
  ~PagePopulator();
  PagePopulator(const PagePopulator&) = delete;
  PagePopulator& operator=(const PagePopulator&) = delete;

  /// Goes on until `bytes` from the beginning are resident. Called by one thread.
  void extend_to(std::size_t bytes) noexcept;
  /// Nothing is left of what was asked for, or it has ended early.
  [[nodiscard]] bool done() const noexcept {
    return ended_.load(std::memory_order_acquire) ||
           populated_.load(std::memory_order_acquire) >= target_.load(std::memory_order_acquire);
  }

 private:
  void populate(std::byte* data) noexcept;
  [[nodiscard]] std::size_t whole_pieces(std::size_t bytes) const noexcept;

  std::size_t bytes_;
  std::atomic<std::size_t> target_, populated_{0};
  std::atomic<bool> stopping_{false}, ended_{false};
  std::thread thread_;  // last: it reads the others
};

}  // namespace spillway::gpu::host
