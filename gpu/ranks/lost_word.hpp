// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <mutex>
#include <utility>

#include "runtime/result.hpp"

namespace spillway::gpu::ranks {

/// Why it is over; the first word stays. From any thread.
class LostWord {
 public:
  void set(Error why) {
    const std::lock_guard lock(mutex_);
    if (said_.load(std::memory_order_relaxed)) return;
    why_ = std::move(why);
    said_.store(true, std::memory_order_release);
  }
  [[nodiscard]] const Error* get() const noexcept {
    return said_.load(std::memory_order_acquire) ? &why_ : nullptr;
  }

 private:
  std::mutex mutex_;
  Error why_;
  std::atomic<bool> said_{false};
};

}  // namespace spillway::gpu::ranks
