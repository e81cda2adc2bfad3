// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the host device's time went to. Member 0 marks where a phase ends; the others' marks are ignored.

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "gpu/host/thread_team.hpp"

namespace spillway::gpu::host {

enum class Phase : std::uint8_t { kMatmul, kLmHead, kAttention, kRows, kSampling };
inline constexpr std::size_t kPhases = 5;

[[nodiscard]] constexpr const char* to_string(Phase phase) noexcept {
  switch (phase) {
    case Phase::kMatmul:
      return "matmul";
    case Phase::kLmHead:
      return "lm_head";
    case Phase::kAttention:
      return "attention";
    case Phase::kRows:
      return "rows";
    case Phase::kSampling:
      return "sampling";
  }
  return "?";
}

/// Nanoseconds of a monotonic clock.
using ClockFn = std::function<std::int64_t()>;

/// Hears of spans, from the device's thread. Must not block or throw.
class SpanHook {
 public:
  virtual ~SpanHook() = default;
  /// A whole step ("step"), a copy ("copy") or a phase of a step; times of the device's clock.
  virtual void on_span(const char* name, std::int64_t begin_ns, std::int64_t end_ns) noexcept = 0;
};

/// Sums per phase and, with a hook, a span per phase. Costs one branch a mark when neither is wanted.
class PhaseTimer {
 public:
  PhaseTimer(const ClockFn& clock, SpanHook* hook, bool sums)
      : clock_(clock), hook_(hook), on_(sums || hook != nullptr) {}

  void start(const TeamMember& member) {
    if (on_ && member.index() == 0) last_ns_ = clock_();
  }
  /// The time since the last mark belongs to `phase`.
  void mark(const TeamMember& member, Phase phase) {
    if (!on_ || member.index() != 0) return;
    const std::int64_t now_ns = clock_();
    sums_ns_[static_cast<std::size_t>(phase)] += now_ns - last_ns_;
    if (hook_ != nullptr) hook_->on_span(to_string(phase), last_ns_, now_ns);
    last_ns_ = now_ns;
  }
  [[nodiscard]] const std::array<std::int64_t, kPhases>& sums_ns() const noexcept { return sums_ns_; }

 private:
  const ClockFn& clock_;
  SpanHook* hook_;
  bool on_;
  std::int64_t last_ns_ = 0;
  std::array<std::int64_t, kPhases> sums_ns_{};
};

}  // namespace spillway::gpu::host
