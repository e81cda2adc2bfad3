// SPDX-License-Identifier: Apache-2.0
#pragma once

// HostDevice: the processor as a Device. One thread of its own executes steps and copies in the order of
// their submission, as member 0 of a thread team; the submitting worker only pushes to a bounded queue and
// takes results. The completion sink is called from the device's thread.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "gpu/device.hpp"
#include "gpu/host/cpu.hpp"
#include "gpu/host/execution_mode.hpp"
#include "gpu/host/phase_timer.hpp"
#include "model/spec.hpp"

namespace spillway::gpu::host {

struct HostOptions {
  std::uint32_t threads = 0;               // the team's size; 0: one per available core
  CpuTarget cpu_target = CpuTarget::kAmx;  // at most this
  ExecutionMode mode = ExecutionMode::kAccuracy;
  ClockFn clock;                           // ns, monotonic; empty: the system's steady clock
  SpanHook* span_hook = nullptr;           // outlives the device; may be null
  bool phase_sums = false;                 // keep phase_sums_ns()
  std::size_t resident_kv_bytes = 0;       // of the KV pool's memory: made resident at once, in the background;
                                           // what steps need beyond that, shortly before. 0: nothing is

  // For tests and calibration.
  std::function<bool(const StepPlan&)> fail_step;  // true: the step fails before it writes anything
  /// Sees the raw logits [vocab] of each sequence that samples, on the device's thread, before sampling.
  std::function<void(const StepPlan&, std::uint32_t sequence_index, std::span<const float> logits)> on_logits;
};

class HostDevice : public Device {
 public:
  /// Packs the weights (all threads work on it) and maps the KV pools. on_packed is called for each tensor
  /// when nothing refers to its view any more. Errors: kInvalidArgument and kUnsupported for options,
  /// kBadFile for tensors, kOutOfMemory.
  [[nodiscard]] static Result<std::unique_ptr<Device>> create(
      const model::ModelSpec& spec, const model::Weights& weights, const DeviceOptions& options,
      const HostOptions& host_options, const std::function<void(const model::TensorView&)>& on_packed = {});

  /// Nanoseconds per phase since the device was made; only with HostOptions::phase_sums, and only when no
  /// step is in flight.
  [[nodiscard]] virtual const std::array<std::int64_t, kPhases>& phase_sums_ns() const noexcept = 0;
  /// Bytes of packed weights and of activations.
  [[nodiscard]] virtual std::size_t weight_bytes() const noexcept = 0;
  [[nodiscard]] virtual std::size_t activation_bytes() const noexcept = 0;
};

}  // namespace spillway::gpu::host
