// SPDX-License-Identifier: Apache-2.0
#pragma once

// Inbox: the one way into a worker from other threads. A moodycamel queue with one ProducerToken per sending thread:
// without tokens the queue keeps no order between messages of one sender. Internal; include only from .cpp files.

#include <concurrentqueue/concurrentqueue.h>

#include <atomic>
#include <cstddef>
#include <memory>

#include "runtime/envelope.hpp"

namespace spillway::runtime::detail {

class Inbox {
 public:
  static std::shared_ptr<Inbox> make() { return std::make_shared<Inbox>(); }

  /// From any thread but the owner's; `self` keeps the queue alive as long as this thread holds a token for it.
  static void push(const std::shared_ptr<Inbox>& self, Envelope* envelope);

  /// Owner only. Up to `limit` envelopes into `out`.
  std::size_t pop(Envelope** out, std::size_t limit) { return queue_.try_dequeue_bulk(consumer_, out, limit); }

  /// Owner, at its end: sending threads drop their tokens when they next make one.
  void close() noexcept { closed_.store(true, std::memory_order_release); }
  [[nodiscard]] bool closed() const noexcept { return closed_.load(std::memory_order_acquire); }

  struct Traits : moodycamel::ConcurrentQueueDefaultTraits {
    static constexpr std::size_t BLOCK_SIZE = 128;
    static constexpr std::size_t INITIAL_IMPLICIT_PRODUCER_HASH_SIZE = 0;  // tokens only
  };
  using Queue = moodycamel::ConcurrentQueue<Envelope*, Traits>;

  Inbox() : queue_(0), consumer_(queue_) {}

 private:
  friend struct ProducerRegistry;
  Queue queue_;
  moodycamel::ConsumerToken consumer_;
  std::atomic<bool> closed_{false};
};

}  // namespace spillway::runtime::detail
