// SPDX-License-Identifier: Apache-2.0
#include "runtime/task.hpp"

#include <memory>
#include <stdexcept>
#include <string>

#include "tests/support/catch.hpp"

namespace spillway::runtime {
namespace {

Task<int> answer() { co_return 42; }

Task<std::string> fails() {
  throw std::runtime_error("no");
  co_return "";
}

Task<int> recursive(int depth) {
  if (depth == 0) co_return 0;
  const int below = co_await recursive(depth - 1);
  co_return below + 1;
}

/// Suspends and leaves its handle behind, so that the test resumes it.
struct Gate {
  std::coroutine_handle<> waiter;
  struct Awaiter {
    Gate* gate;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> self) const noexcept { gate->waiter = self; }
    void await_resume() const noexcept {}
  };
  Awaiter operator co_await() noexcept { return Awaiter{this}; }
};

Task<int> recursive_to(Gate* gate, int depth) {
  if (depth == 0) {
    co_await *gate;
    co_return 0;
  }
  const int below = co_await recursive_to(gate, depth - 1);
  co_return below + 1;
}

Task<void> store(Task<int> child, int* out) { *out = co_await std::move(child); }

/// Drives a Task<void> that must finish without help.
void finish(Task<void> task) {
  const auto handle = task.release();
  detail::drive(handle);
  REQUIRE(handle.done());
  const auto exception = handle.promise().exception();
  handle.destroy();
  if (exception) std::rethrow_exception(exception);
}

}  // namespace

TEST_CASE("task: it does nothing until it is awaited, then yields its value") {
  int out = 0;
  Task<void> task = store(answer(), &out);
  CHECK(out == 0);
  finish(std::move(task));
  CHECK(out == 42);
}

TEST_CASE("task: an exception travels to whoever awaits") {
  auto outer = [](std::string* what) -> Task<void> {
    try {
      (void)co_await fails();
    } catch (const std::runtime_error& e) {
      *what = e.what();
    }
  };
  std::string what;
  finish(outer(&what));
  CHECK(what == "no");
}

TEST_CASE("task: a moved-only value passes through") {
  auto make = []() -> Task<std::unique_ptr<int>> { co_return std::make_unique<int>(7); };
  auto outer = [](Task<std::unique_ptr<int>> child, int* out) -> Task<void> {
    const std::unique_ptr<int> value = co_await std::move(child);
    *out = *value;
  };
  int out = 0;
  finish(outer(make(), &out));
  CHECK(out == 7);
}

TEST_CASE("task: a million children in a row need no stack") {
  auto loop = [](long* sum) -> Task<void> {
    for (int i = 0; i < 1'000'000; ++i) *sum += co_await answer();
  };
  long sum = 0;
  finish(loop(&sum));
  CHECK(sum == 42'000'000);
}

TEST_CASE("task: a recursion of 100000 frames starts and ends without overflowing the stack") {
  int out = 0;
  finish(store(recursive(100'000), &out));
  CHECK(out == 100'000);
}

TEST_CASE("task: a deep recursion that was suspended at its bottom unwinds without overflowing the stack") {
  Gate gate;
  int out = 0;
  Task<void> task = store(recursive_to(&gate, 100'000), &out);
  const auto handle = task.release();
  detail::drive(handle);
  REQUIRE(gate.waiter);
  REQUIRE_FALSE(handle.done());
  detail::drive(gate.waiter);
  CHECK(handle.done());
  CHECK(out == 100'000);
  handle.destroy();
}

TEST_CASE("task: destroying a suspended task destroys the whole chain it awaits") {
  struct Count {
    int* n;
    ~Count() { ++*n; }
  };
  auto inner = [](Gate* gate, int* n) -> Task<void> {
    const Count count{n};
    co_await *gate;
  };
  auto outer = [](Task<void> child, int* n) -> Task<void> {
    const Count count{n};
    co_await std::move(child);
  };
  Gate gate;
  int destroyed = 0;
  {
    Task<void> task = outer(inner(&gate, &destroyed), &destroyed);
    const auto handle = task.release();
    detail::drive(handle);
    CHECK(destroyed == 0);
    const Task<void> owner(handle);
  }
  CHECK(destroyed == 2);
}

TEST_CASE("task: drives nest, as when an actor's call drives another executor") {
  auto nested = [](int* out) -> Task<void> {
    int inner = 0;
    finish(store(recursive(100), &inner));
    *out = inner + co_await recursive(100);
  };
  int out = 0;
  finish(nested(&out));
  CHECK(out == 200);
}

}  // namespace spillway::runtime
