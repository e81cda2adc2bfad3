// SPDX-License-Identifier: Apache-2.0
#pragma once

// Device: what executes steps. Written for an asynchronous accelerator with streams and events and for the
// host CPU alike: submit never blocks, results are taken after their completion was reported to the sink.
//
// Owner: one decoder actor submits and takes; the transfer engine copies through the same actor's worker.
// All calls except the sink's come from that one worker thread.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "gpu/step_plan.hpp"
#include "runtime/result.hpp"

namespace spillway::gpu {

enum class KvDType : std::uint8_t { kF32, kF16, kBF16, kQ8_0 };

/// Hears of completions. The host device calls it from its own thread, an accelerator from poll(), the
/// simulated device when the virtual clock gets there. Tickets of one kind complete in order. Must not block
/// or throw.
class CompletionSink {
 public:
  virtual ~CompletionSink() = default;
  virtual void on_step_complete(Ticket ticket) noexcept = 0;
  virtual void on_copy_complete(Ticket ticket) noexcept = 0;
};

struct DeviceOptions {
  KvDType kv_dtype = KvDType::kF16;
  std::uint32_t block_size = 16;               // slots (tokens) a block
  std::size_t kv_cache_memory_bytes = 0;       // pool size; the device rounds down to whole blocks
  std::size_t host_pool_bytes = 0;             // pinned pool for copies to host memory; 0: none
  std::uint32_t max_num_seqs = 64;             // rows
  std::uint32_t max_num_batched_tokens = 512;  // tokens in one step
  std::uint32_t max_model_len = 0;             // longest sequence, tokens
  std::uint32_t max_steps_in_flight = 2;
  bool sparse_kv = false;  // sequences may be sparsified: blocks carry positions and scores
};

struct DeviceInfo {
  std::string name;                // "host (AVX-512 VNNI, 2 threads)"
  std::size_t kv_block_bytes = 0;  // one block over all layers, K and V
  std::uint32_t num_blocks = 0;
  std::uint32_t num_host_blocks = 0;
  bool rotates_to_cache = false;  // SparseKvParams::rotate_to_cache is understood
  bool needs_polling = false;     // true: the decoder's worker must call poll() and not park meanwhile
};

class Device {
 public:
  virtual ~Device() = default;  // waits for everything in flight

  [[nodiscard]] virtual const DeviceInfo& info() const noexcept = 0;

  /// Called once, before the first submit. The sink outlives the device.
  virtual void set_sink(CompletionSink* sink) noexcept = 0;

  /// Enqueues a step behind all earlier ones. Errors: kQueueFull when max_steps_in_flight are in flight,
  /// kInvalidArgument when the plan breaks a limit (names it), kDeviceFailed when the device is lost.
  [[nodiscard]] virtual Result<Ticket> submit(StepPlan plan) = 0;

  /// The result of a completed step; each ticket is taken exactly once.
  [[nodiscard]] virtual StepResult take(Ticket ticket) = 0;

  /// Enqueues block copies on the copy stream. Errors as submit.
  [[nodiscard]] virtual Result<Ticket> copy(CopyPlan plan) = 0;

  /// Looks at the oldest outstanding event of each stream; true while anything is under way. A no-op unless
  /// info().needs_polling.
  virtual bool poll() noexcept { return false; }
};

}  // namespace spillway::gpu
