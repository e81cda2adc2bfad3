// SPDX-License-Identifier: Apache-2.0
#pragma once

// ThreadExecutor: pinned worker threads, one inbox each. An actor lives on one worker for good.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/executor.hpp"

namespace spillway::runtime {

/// What a worker without work does. Parking and waking costs about 50 us, spinning under 0.5 us but a whole core.
struct SpinPolicy {
  enum class Kind : std::uint8_t { kPark, kSpin, kSpinThenPark };
  Kind kind = Kind::kPark;
  std::uint32_t spin_us = 0;  // kSpinThenPark

  static constexpr SpinPolicy park() noexcept { return {}; }
  static constexpr SpinPolicy spin() noexcept { return {Kind::kSpin, 0}; }
  static constexpr SpinPolicy spin_then_park(std::uint32_t microseconds) noexcept {
    return {Kind::kSpinThenPark, microseconds};
  }
};

struct ThreadOptions {
  std::uint32_t workers = 1;
  SpinPolicy spin;
  bool pin = true;                  // worker i to the i-th core this process may use
  std::uint32_t first_core = 0;     // ... counted from this one
  std::uint32_t budget = 64;        // messages an actor may take before it goes to the back
  std::uint64_t seed = 1;           // of self.random()
  std::string name = "worker";      // threads are called name-0, name-1, ...
  Tracer* tracer = nullptr;         // null: no tracing. Outlives the executor
};

class ThreadExecutor final : public Executor {
 public:
  explicit ThreadExecutor(ThreadOptions options = {});
  ~ThreadExecutor() override;  // shutdown(0) if it was not called

  [[nodiscard]] TimePoint now() const override;
  [[nodiscard]] std::uint32_t worker_count() const noexcept override;
  void add_poller(std::uint32_t worker, Poller* poller) override;
  void remove_poller(std::uint32_t worker, Poller* poller) override;
  ShutdownReport shutdown(Duration drain) override;
  void wait_flag(std::atomic<std::uint32_t>& flag, TimePoint deadline) override;

 protected:
  detail::WorkerCore& worker_core(std::uint32_t index) noexcept override;
  void schedule_call(std::uint32_t worker, TimePoint when, detail::Envelope* call) override;

 private:
  class Worker;

  ThreadOptions options_;
  std::vector<std::unique_ptr<Worker>> workers_;
  ShutdownReport report_;
  bool shut_down_ = false;
};

}  // namespace spillway::runtime
