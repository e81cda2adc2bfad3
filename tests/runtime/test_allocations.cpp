// SPDX-License-Identifier: Apache-2.0
// Counts every call of operator new in this program; a binary of its own, since it replaces it.
#include <atomic>
#include <cstdlib>
#include <new>

#include "runtime/pool.hpp"
#include "tests/runtime/probe.hpp"
#include "tests/support/catch.hpp"

static_assert(!SPILLWAY_POOL_BYPASS, "a sanitizer bypasses the pool that this counts: build it without");

namespace {
std::atomic<std::uint64_t> allocations{0};
}  // namespace

void* operator new(std::size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  const auto align = static_cast<std::size_t>(alignment);
  if (void* memory = std::aligned_alloc(align, (bytes + align - 1) / align * align)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace spillway::runtime {
namespace {

using namespace probe;
using namespace std::chrono_literals;

struct Go {};

Task<int> nested_ask(Address<ProbeMessage> to, int i) {
  const Result<int> answer = co_await ask<int>(to, make_get(i), Duration(60s));
  co_return answer.ok() ? *answer : -1;
}

/// A round is a send, an ask with a deadline in a nested task, and a timer set and cancelled.
Task<void> worker_loop(ActorContext<Go>& self, Address<ProbeMessage> to, int rounds, Reply<std::uint64_t> done) {
  std::uint64_t before = 0;
  for (int i = 0; i < 2 * rounds; ++i) {
    if (i == rounds) before = allocations.load();
    (void)co_await to.send(Put{-1});
    (void)co_await nested_ask(to, i);
    const TimerId timer = self.send_after(1h, Go{});
    self.cancel_timer(timer);
  }
  done.send(allocations.load() - before);
}

Task<void> answer_only(ActorContext<ProbeMessage>& self) {
  while (auto message = co_await self.receive()) {
    if (auto* get = std::get_if<Get>(&*message)) get->reply.send(get->value);
  }
}

}  // namespace

TEST_CASE("allocations: none a message in steady state, on one worker and between two") {
  for (const std::uint32_t workers : {1U, 2U}) {
    ThreadExecutor threads(ThreadOptions{.workers = workers, .pin = false});
    const auto to = threads.spawn<ProbeMessage>({.worker = workers - 1}, answer_only);
    detail::BlockingSlotOwner<std::uint64_t> slot;
    threads.spawn<Go>({.worker = 0}, worker_loop, to, 3000, Reply<std::uint64_t>(slot.share()));
    CHECK(slot.wait(threads, kNoDeadline).value() == 0);
  }
}

TEST_CASE("allocations: the counter counts") {
  const std::uint64_t before = allocations.load();
  const auto value = std::make_unique<std::vector<int>>(100);
  CHECK(allocations.load() - before == 2);
}

}  // namespace spillway::runtime
