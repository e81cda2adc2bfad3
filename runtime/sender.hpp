// SPDX-License-Identifier: Apache-2.0
#pragma once

// Sender: keeps the order of messages of one sender that is no actor and hops between threads (a strand on a pool of
// I/O threads, say). Without it a thread is a sender of its own, and what such a sender posts from two threads may
// arrive in either order, however well it synchronizes itself.

#include <memory>
#include <utility>

namespace spillway::runtime {

namespace detail {
struct ProducerRegistry;
inline constinit thread_local ProducerRegistry* tls_sender = nullptr;
}  // namespace detail

/// One logical sender; used by one thread at a time.
class Sender {
 public:
  Sender();
  Sender(const Sender&) = delete;
  Sender& operator=(const Sender&) = delete;
  ~Sender();

 private:
  friend class SenderScope;
  std::unique_ptr<detail::ProducerRegistry> tokens_;
};

/// While it lives, what this thread (not a worker) sends is sent by `sender`.
class SenderScope {
 public:
  explicit SenderScope(Sender& sender) noexcept : outer_(std::exchange(detail::tls_sender, sender.tokens_.get())) {}
  SenderScope(const SenderScope&) = delete;
  SenderScope& operator=(const SenderScope&) = delete;
  ~SenderScope() { detail::tls_sender = outer_; }

 private:
  detail::ProducerRegistry* outer_;
};

}  // namespace spillway::runtime
