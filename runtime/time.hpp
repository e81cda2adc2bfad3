// SPDX-License-Identifier: Apache-2.0
#pragma once

// Time as the executor tells it. A TimePoint means nothing outside the executor that gave it: real nanoseconds under
// ThreadExecutor (monotonic), virtual ones under SimExecutor. Nothing else in the house reads a clock.

#include <chrono>
#include <cstdint>

namespace spillway::runtime {

using Duration = std::chrono::nanoseconds;

/// Tag that keeps an executor's time apart from every other clock; has no now() on purpose.
struct ExecutorClock {
  using duration = Duration;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<ExecutorClock, Duration>;
  static constexpr bool is_steady = true;
};

using TimePoint = ExecutorClock::time_point;

/// As a deadline: never.
inline constexpr TimePoint kNoDeadline = TimePoint::max();

[[nodiscard]] constexpr std::int64_t to_ns(TimePoint point) noexcept { return point.time_since_epoch().count(); }

/// `start + delay` that stops at kNoDeadline instead of overflowing.
[[nodiscard]] constexpr TimePoint saturating_add(TimePoint start, Duration delay) noexcept {
  return delay > kNoDeadline - start && start.time_since_epoch().count() >= 0 ? kNoDeadline : start + delay;
}

}  // namespace spillway::runtime
