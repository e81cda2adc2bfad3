// SPDX-License-Identifier: Apache-2.0
#pragma once

// Metrics: counters, gauges and histograms in Prometheus' text form; own names (spillway_*), and vLLM's (vllm:*) as
// aliases, so that dashboards and routers made for it work. Owned by the I/O thread.

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "actors/messages.hpp"
#include "actors/serving.hpp"
#include "runtime/time.hpp"

namespace spillway::net {

/// Counts by upper bound; for the page, which draws them itself.
struct LiveHistogram {
  static constexpr std::array<double, 12> kBoundsS = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05,
                                                      0.1,   0.2,   0.5,   1.0,  2.0,  5.0};
  std::array<std::uint64_t, 13> counts{};
  void add(double seconds);
};

class Metrics {
 public:
  Metrics();
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  void name_model(const std::string& name);

  void count_connection(int change);
  void count_refused();
  void count_http(int status);
  void observe_ttft(double seconds);
  /// `gaps` tokens that came together after `seconds`.
  void observe_itl(double seconds, std::uint32_t gaps);
  void count_tokens(std::size_t tokens);
  /// A choice whose client went away before its end.
  void count_abandoned();
  void observe_end(double e2e_s, double prefill_s, double decode_s, const actors::Usage& usage,
                   std::string_view reason);

  /// The whole page of /metrics; null: before the engine is there.
  [[nodiscard]] std::string text(const actors::EngineSnapshot* snapshot);

  [[nodiscard]] const LiveHistogram& ttft() const noexcept { return ttft_; }
  [[nodiscard]] const LiveHistogram& itl() const noexcept { return itl_; }

 private:
  struct State;
  std::unique_ptr<State> state_;
  LiveHistogram ttft_, itl_;
};

/// Tells the metrics how one choice goes.
class ChoiceClock {
 public:
  explicit ChoiceClock(runtime::TimePoint arrival) : arrival_(arrival) {}
  void on_tokens(Metrics& metrics, std::size_t tokens, runtime::TimePoint now);
  void on_end(Metrics& metrics, const actors::Usage& usage, std::string_view reason, runtime::TimePoint now);
  [[nodiscard]] bool ended() const noexcept { return ended_; }

 private:
  runtime::TimePoint arrival_, first_{}, last_{};
  bool ended_ = false;
};

}  // namespace spillway::net
