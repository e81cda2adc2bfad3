// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/thread_team.hpp"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>

namespace spillway::gpu::host {

namespace {

// A pause takes 40 to 140 cycles, so this is 5 to 10 us: long enough for a barrier between equal shares.
// Beyond it, whoever we wait for may be queued behind us on this very core (spinning on would cost it a time
// slice), so members yield; on an idle core that returns at once and is as quick as spinning. They sleep
// late: a core that went idle takes 10 us to wake, and milliseconds where it is a virtual one.
constexpr std::uint32_t kSpins = 300;
constexpr std::chrono::microseconds kPatienceInBarrier{4000};
constexpr std::chrono::microseconds kPatienceBetweenRuns{2000};
// A yield gives the core to another program for a whole time slice, however low its priority. Where a quarter
// of the time was lost so, members spin longer and then sleep instead, for a while (decision 017).
constexpr std::chrono::microseconds kLongYield{100};
constexpr std::chrono::milliseconds kWindow{20};
constexpr std::chrono::milliseconds kLostInWindow{5};
constexpr std::chrono::seconds kCrowded{1};
constexpr std::uint32_t kSpinsWhenCrowded = 3000;  // 50-100 us

void pause() noexcept { __builtin_ia32_pause(); }

void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected) noexcept {
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr,
          0);
}

void futex_wake_all(std::atomic<std::uint32_t>& word) noexcept {
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr,
          0);
}

using Clock = std::chrono::steady_clock;

/// What other programs took from one thread while it yielded.
class LostTime {
 public:
  [[nodiscard]] bool crowded(Clock::time_point now) const noexcept { return now < crowded_until_; }
  void add(Clock::time_point from, Clock::time_point to) noexcept {
    if (to - from < kLongYield) return;
    if (to - window_begin_ > kWindow) window_begin_ = from, lost_ = {};
    lost_ += to - from;
    if (lost_ >= kLostInWindow) crowded_until_ = to + kCrowded;
  }

 private:
  Clock::time_point window_begin_, crowded_until_;
  Clock::duration lost_{};
};

}  // namespace

void ThreadTeam::Gate::wait_while(std::uint32_t old, std::chrono::microseconds patience) noexcept {
  thread_local LostTime lost;
  const auto advanced = [&] { return epoch.load(std::memory_order_acquire) != old; };
  const auto spin = [&](std::uint32_t spins) {
    for (; spins > 0 && !advanced(); --spins) pause();
    return advanced();
  };
  if (spin(kSpins)) return;
  auto now = Clock::now();
  if (lost.crowded(now) && spin(kSpinsWhenCrowded)) return;
  for (const auto until = now + patience; now < until && !lost.crowded(now);) {
    if (advanced()) return;
    sched_yield();
    const auto before = std::exchange(now, Clock::now());
    lost.add(before, now);
  }
  // seq_cst on both words: either advance() sees this sleeper, or we see its new epoch before sleeping.
  sleepers.fetch_add(1, std::memory_order_seq_cst);
  while (epoch.load(std::memory_order_seq_cst) == old) futex_wait(epoch, old);
  sleepers.fetch_sub(1, std::memory_order_relaxed);
}

void ThreadTeam::Gate::advance() noexcept {
  epoch.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers.load(std::memory_order_seq_cst) != 0) futex_wake_all(epoch);
}

ThreadTeam::ThreadTeam(std::uint32_t threads) : size_(threads) {
  SPW_CHECK(threads >= 1);
  members_ = std::make_unique<MemberState[]>(threads);
  for (std::uint32_t i = 0; i < threads; ++i) {
    members_[i].member.reset(new TeamMember(*this, i, threads));
  }
  for (std::uint32_t i = 1; i < threads; ++i) {
    members_[i].thread = std::thread([this, i] { work(i); });
  }
}

ThreadTeam::~ThreadTeam() {
  stopping_ = true;
  start_.advance();
  for (std::uint32_t i = 1; i < size_; ++i) members_[i].thread.join();
}

void ThreadTeam::run_erased(Call call, void* function) {
  call_ = call;
  function_ = function;
  if (size_ > 1) start_.advance();
  call(function, *members_[0].member);
  barrier(*members_[0].member);
}

void ThreadTeam::work(std::uint32_t index) noexcept {
  // Counting runs here, rather than reading the gate, keeps a late starter from missing the first run.
  for (std::uint32_t runs_seen = 0;; ++runs_seen) {
    start_.wait_while(runs_seen, kPatienceBetweenRuns);
    if (stopping_) return;
    call_(function_, *members_[index].member);
    barrier(*members_[index].member);
  }
}

void ThreadTeam::barrier(TeamMember& member) noexcept {
  const std::uint32_t loops = std::exchange(member.loops_since_barrier_, 0);
  const std::uint32_t epoch = barrier_.epoch.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < size_) {
    barrier_.wait_while(epoch, kPatienceInBarrier);
    return;
  }
  // The last to arrive: nobody is in a loop now, so the claims can start again from zero.
  arrived_.store(0, std::memory_order_relaxed);
  for (std::uint32_t i = 0; i < size_; ++i) {
    for (std::uint32_t loop = 0; loop < loops; ++loop) {
      members_[i].claimed[loop].store(0, std::memory_order_relaxed);
    }
  }
  if (size_ > 1) barrier_.advance();
}

}  // namespace spillway::gpu::host
