// SPDX-License-Identifier: Apache-2.0
#pragma once

// Bell: a coroutine of the I/O thread sleeps until another piece of work on that thread rings. A ring that nobody
// waits for is kept, once. One waiter at a time. Not for other threads.

#include <boost/asio/awaitable.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>

namespace spillway::net {

namespace asio = boost::asio;

class Bell {
 public:
  explicit Bell(const asio::any_io_executor& executor) : timer_(executor) {}

  void ring() {
    rung_ = true;
    if (waiting_) timer_.cancel();
  }

  /// Until rung, or until `limit` has passed: false then.
  asio::awaitable<bool> wait(std::chrono::steady_clock::duration limit = std::chrono::hours(24 * 365)) {
    if (!rung_) {
      waiting_ = true;
      timer_.expires_after(limit);
      boost::system::error_code ignored;
      co_await timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
      waiting_ = false;
    }
    co_return std::exchange(rung_, false);
  }

 private:
  asio::steady_timer timer_;
  bool rung_ = false;
  bool waiting_ = false;
};

}  // namespace spillway::net
