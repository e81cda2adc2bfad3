// SPDX-License-Identifier: Apache-2.0
#pragma once

// Where a thread that is no actor waits for the answer to its question. Shared by the asker and the Reply, so that an
// answer after the deadline still finds memory.

#include <atomic>
#include <cstdint>
#include <optional>
#include <utility>

#include "runtime/executor.hpp"
#include "runtime/result.hpp"

namespace spillway::runtime::detail {

void wake_flag(std::atomic<std::uint32_t>& flag) noexcept;

template <class T>
class BlockingSlot {
 public:
  void fill(Result<T>&& result) {
    value_.emplace(std::move(result));
    flag_.store(1, std::memory_order_release);
    wake_flag(flag_);
    release();
  }
  void retain() noexcept { users_.fetch_add(1, std::memory_order_relaxed); }
  void release() noexcept {
    if (users_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }
  Result<T> wait(Executor& executor, TimePoint deadline) {
    executor.wait_flag(flag_, deadline);
    if (flag_.load(std::memory_order_acquire) == 0) {
      return Error{Errc::kDeadlineExceeded, "no answer within the deadline"};
    }
    return std::move(*value_);
  }

 private:
  std::atomic<std::uint32_t> users_{1};
  std::atomic<std::uint32_t> flag_{0};
  std::optional<Result<T>> value_;
};

template <class T>
class BlockingSlotOwner {
 public:
  BlockingSlotOwner() : slot_(new BlockingSlot<T>) {}
  BlockingSlotOwner(const BlockingSlotOwner&) = delete;
  BlockingSlotOwner& operator=(const BlockingSlotOwner&) = delete;
  ~BlockingSlotOwner() { slot_->release(); }

  BlockingSlot<T>* share() noexcept {
    slot_->retain();
    return slot_;
  }
  Result<T> wait(Executor& executor, TimePoint deadline) { return slot_->wait(executor, deadline); }

 private:
  BlockingSlot<T>* slot_;
};

}  // namespace spillway::runtime::detail
