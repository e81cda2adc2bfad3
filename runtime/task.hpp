// SPDX-License-Identifier: Apache-2.0
#pragma once

// Task<T>: a lazy coroutine. It starts when awaited, its frame comes from the pool, and the Task owns the frame:
// destroying a Task destroys whatever it is suspended in. A Task is awaited at most once, by one parent.
//
// Control passes between parent and child by symmetric transfer, but never more than kMaxTransfers times in a row:
// then the chain unwinds to the driver (`drive`) and goes on from there. g++ 12 makes no tail call of a transfer at
// -O0 or under sanitizers, so an unbounded chain would overflow the stack.
//
// Do not write `if (co_await x)` or `while (co_await x)` when x yields an object with a destructor: g++ 12 puts the
// condition before the frame's header, and every resume goes wrong. Name the result: `while (auto m = co_await x)`.
// A check at the frame's creation catches it.

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <utility>

#include "runtime/check.hpp"
#include "runtime/pool.hpp"

namespace spillway::runtime {

template <class T>
class Task;

namespace detail {

struct ResumeState {
  std::coroutine_handle<> pending;  // goes on here after unwinding
  unsigned transfers = 0;
};

inline constinit thread_local ResumeState tls_resume{};
inline constexpr unsigned kMaxTransfers = 32;

inline std::coroutine_handle<> transfer_to(std::coroutine_handle<> next) noexcept {
  if (++tls_resume.transfers < kMaxTransfers) [[likely]] return next;
  tls_resume.pending = next;
  return std::noop_coroutine();
}

/// Resumes `handle` and all it transfers to, until everything is suspended.
inline void drive(std::coroutine_handle<> handle) {
  const ResumeState saved = tls_resume;
  do {
    tls_resume = {};
    handle.resume();
    handle = tls_resume.pending;
  } while (handle);
  tls_resume = saved;
}

/// Frames start on a 64-byte boundary and the promise comes after two pointers, unless the frame is miscompiled.
template <class Promise>
void check_frame(const Promise* promise) noexcept {
  if constexpr (alignof(Promise) <= 2 * sizeof(void*)) {
    const bool co_await_stands_in_no_condition =
        reinterpret_cast<std::uintptr_t>(promise) % kPoolGranule == 2 * sizeof(void*);
    SPW_CHECK(co_await_stands_in_no_condition);
  }
}

class PromiseBase {
 public:
  static void* operator new(std::size_t bytes) { return pool_allocate(bytes); }
  static void operator delete(void* memory, std::size_t bytes) noexcept { pool_deallocate(memory, bytes); }

  std::suspend_always initial_suspend() const noexcept { return {}; }

  struct FinalAwaiter {
    bool await_ready() const noexcept { return false; }
    template <class Promise>
    std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> done) const noexcept {
      const std::coroutine_handle<> parent = done.promise().continuation_;
      return parent ? transfer_to(parent) : std::noop_coroutine();
    }
    void await_resume() const noexcept {}
  };
  FinalAwaiter final_suspend() const noexcept { return {}; }

  void unhandled_exception() noexcept { exception_ = std::current_exception(); }
  void set_continuation(std::coroutine_handle<> parent) noexcept { continuation_ = parent; }
  [[nodiscard]] const std::exception_ptr& exception() const noexcept { return exception_; }

 private:
  std::coroutine_handle<> continuation_;
  std::exception_ptr exception_;
};

template <class T>
class Promise : public PromiseBase {
 public:
  Task<T> get_return_object() noexcept;
  template <class U>
    requires std::is_constructible_v<T, U&&>
  void return_value(U&& value) {
    value_.emplace(std::forward<U>(value));
  }
  T take() {
    if (exception()) std::rethrow_exception(exception());
    SPW_CHECK(value_.has_value());
    return std::move(*value_);
  }

 private:
  std::optional<T> value_;
};

template <>
class Promise<void> : public PromiseBase {
 public:
  Task<void> get_return_object() noexcept;
  void return_void() const noexcept {}
  void take() const {
    if (exception()) std::rethrow_exception(exception());
  }
};

}  // namespace detail

template <class T = void>
class [[nodiscard]] Task {
 public:
  using promise_type = detail::Promise<T>;
  using Handle = std::coroutine_handle<promise_type>;

  Task() noexcept = default;
  explicit Task(Handle handle) noexcept : handle_(handle) {}
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, {})) {}
  Task& operator=(Task&& other) noexcept {
    if (this != &other) {
      if (handle_) handle_.destroy();
      handle_ = std::exchange(other.handle_, {});
    }
    return *this;
  }
  ~Task() {
    if (handle_) handle_.destroy();
  }

  [[nodiscard]] bool done() const noexcept { return !handle_ || handle_.done(); }

  /// Gives the frame away; the caller destroys it.
  [[nodiscard]] Handle release() noexcept { return std::exchange(handle_, {}); }

  struct Awaiter {
    Handle child;
    bool await_ready() const noexcept { return false; }
    std::coroutine_handle<> await_suspend(std::coroutine_handle<> parent) const noexcept {
      child.promise().set_continuation(parent);
      return detail::transfer_to(child);
    }
    T await_resume() const { return child.promise().take(); }
  };
  Awaiter operator co_await() && noexcept { return Awaiter{handle_}; }
  Awaiter operator co_await() & noexcept { return Awaiter{handle_}; }

 private:
  Handle handle_;
};

namespace detail {

template <class T>
Task<T> Promise<T>::get_return_object() noexcept {
  check_frame(this);
  return Task<T>(std::coroutine_handle<Promise>::from_promise(*this));
}
inline Task<void> Promise<void>::get_return_object() noexcept {
  check_frame(this);
  return Task<void>(std::coroutine_handle<Promise>::from_promise(*this));
}

}  // namespace detail
}  // namespace spillway::runtime
