// SPDX-License-Identifier: Apache-2.0
#pragma once

// ThreadTeam: the host device's own threads. The caller of run() is member 0, the others wait for the next
// run spinning for a while (a decode loop calls again within microseconds) and then parked. Every wait spins
// a bounded time, then yields, then sleeps, so that a team on a crowded machine loses its share and no more;
// where yielding was seen to cost time slices it sleeps sooner.
//
// One thread at a time calls run(). Functions given to run() must not throw.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "runtime/check.hpp"

namespace spillway::gpu::host {

class ThreadTeam;

/// One member's handle within a run. All members must call barrier() and for_chunks() in the same order.
class TeamMember {
 public:
  TeamMember(const TeamMember&) = delete;
  TeamMember& operator=(const TeamMember&) = delete;

  [[nodiscard]] std::uint32_t index() const noexcept { return index_; }
  [[nodiscard]] std::uint32_t size() const noexcept { return size_; }

  /// Returns once every member has arrived; what they wrote before is visible.
  void barrier() noexcept;

  /// Calls f(i) for each i in [0, chunks), each exactly once in the whole team. A member works through its
  /// own contiguous share first and then helps the others with theirs. No barrier at the end. At most
  /// kLoopsPerBarrier loops may run between two barriers.
  template <class F>
  void for_chunks(std::uint32_t chunks, F&& f) {
    const std::uint32_t loop = loops_since_barrier_++;
    SPW_CHECK(loop < kLoopsPerBarrier);
    for (std::uint32_t i = 0; i < size_; ++i) {
      const std::uint32_t owner = index_ + i < size_ ? index_ + i : index_ + i - size_;
      const std::uint32_t begin = share_begin(chunks, owner);
      const std::uint32_t count = share_begin(chunks, owner + 1) - begin;
      for (std::uint32_t next; (next = claim(owner, loop, count)) < count;) f(begin + next);
    }
  }

  /// This member's share of [0, items) when the split is fixed: the range [first, second).
  [[nodiscard]] std::pair<std::uint32_t, std::uint32_t> share(std::uint32_t items) const noexcept {
    return {share_begin(items, index_), share_begin(items, index_ + 1)};
  }

  static constexpr std::uint32_t kLoopsPerBarrier = 16;

 private:
  friend class ThreadTeam;
  TeamMember(ThreadTeam& team, std::uint32_t index, std::uint32_t size) noexcept
      : team_(team), index_(index), size_(size) {}

  [[nodiscard]] std::uint32_t share_begin(std::uint32_t items, std::uint32_t member) const noexcept {
    return static_cast<std::uint32_t>(std::uint64_t{items} * member / size_);
  }
  /// The next unclaimed index of `owner`'s share; >= count when none is left.
  [[nodiscard]] std::uint32_t claim(std::uint32_t owner, std::uint32_t loop, std::uint32_t count) noexcept;

  ThreadTeam& team_;
  const std::uint32_t index_;
  const std::uint32_t size_;
  std::uint32_t loops_since_barrier_ = 0;
};

class ThreadTeam {
 public:
  /// Starts threads - 1 threads; 1 needs none. Requires threads >= 1.
  explicit ThreadTeam(std::uint32_t threads);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  [[nodiscard]] std::uint32_t size() const noexcept { return size_; }

  /// Runs f(TeamMember&) on every member and returns when all have finished. Allocates nothing.
  template <class F>
  void run(F&& f) {
    using Function = std::remove_reference_t<F>;
    run_erased([](void* function, TeamMember& member) { (*static_cast<Function*>(function))(member); },
               const_cast<void*>(static_cast<const void*>(std::addressof(f))));
  }

 private:
  friend class TeamMember;
  using Call = void (*)(void*, TeamMember&);

  /// A word that members wait on: spin, yield, sleep.
  struct alignas(64) Gate {
    std::atomic<std::uint32_t> epoch{0};
    std::atomic<std::uint32_t> sleepers{0};
    void wait_while(std::uint32_t old, std::chrono::microseconds patience) noexcept;
    void advance() noexcept;
  };
  struct alignas(64) MemberState {
    std::atomic<std::uint32_t> claimed[TeamMember::kLoopsPerBarrier] = {};  // of its share, by loop
    std::unique_ptr<TeamMember> member;
    std::thread thread;
  };

  void run_erased(Call call, void* function);
  void work(std::uint32_t index) noexcept;
  void barrier(TeamMember& member) noexcept;

  const std::uint32_t size_;
  Call call_ = nullptr;
  void* function_ = nullptr;
  bool stopping_ = false;
  Gate start_;
  Gate barrier_;
  alignas(64) std::atomic<std::uint32_t> arrived_{0};
  std::unique_ptr<MemberState[]> members_;
};

inline void TeamMember::barrier() noexcept { team_.barrier(*this); }

inline std::uint32_t TeamMember::claim(std::uint32_t owner, std::uint32_t loop,
                                       std::uint32_t count) noexcept {
  std::atomic<std::uint32_t>& claimed = team_.members_[owner].claimed[loop];
  // Looking first keeps late helpers from pulling the line away from its owner.
  const std::uint32_t seen = claimed.load(std::memory_order_relaxed);
  if (seen >= count) return seen;
  return claimed.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace spillway::gpu::host
