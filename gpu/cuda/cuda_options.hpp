// SPDX-License-Identifier: Apache-2.0
#pragma once

// What a CUDA device takes beside DeviceOptions, and the one function its module exports. Plain C++: included
// by the program that loads the module and by the module itself, which are built together.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "gpu/device.hpp"
#include "gpu/ranks/rank_peers.hpp"
#include "model/spec.hpp"
#include "model/tensor.hpp"

namespace spillway::gpu::cuda {

struct CudaOptions {
  int ordinal = 0;                     // of the devices the driver shows
  std::uint32_t tensor_parallel_size = 1;  // GPUs, from `ordinal` on, that share the model
  ranks::RankPeers* peers = nullptr;       // nodes that have some of them; outlives the device; null: all are here
  double gpu_memory_utilization = 0.9;  // share of the card for weights, step and pool; used when
                                       // DeviceOptions::kv_cache_memory_bytes is 0
  bool dummy_weights = false;          // random weights of the spec's shape, made on the device
  model::DType dummy_dtype = model::DType::kBF16;  // a quantized type: random matrices are quantized
  bool dequantize = false;             // quantized matrices are dequantized at load, to compare with
  bool graphs = true;                  // replay decode steps as CUDA graphs

  bool trace_kernels = false;          // with on_span: every kernel too, by its name
  std::uint64_t fault_at_step = 0;     // for tests: the n-th step's kernels fault, as broken hardware would; 0: none

  /// A step ("step"), a copy ("copy") or a kernel as the device timed it, in ns of the steady clock; from poll().
  std::function<void(const char* name, std::int64_t begin_ns, std::int64_t end_ns)> on_span;

  /// For tests: the raw logits [vocab] of each sequence that samples, from poll(). Steps are then serial.
  std::function<void(const StepPlan&, std::uint32_t sequence_index, std::span<const float> logits)> on_logits;
  /// For tests: positions and scores [layers * kv_heads, slots] of each sparsified sequence behind a step, in the blocks
  /// that it packed them to; from poll(). Steps are then serial.
  std::function<void(const StepPlan&, std::uint32_t sequence_index, std::span<const float> positions,
                     std::span<const float> scores)>
      on_slots;
};

struct CreateArgs {
  const model::ModelSpec* spec = nullptr;
  const model::Weights* weights = nullptr;
  const DeviceOptions* options = nullptr;
  const CudaOptions* cuda = nullptr;
  const std::function<void(const model::TensorView&)>* on_uploaded = nullptr;  // may be null
};

/// The module's entry point, by the name kCreateSymbol. Errors as open_cuda_device's.
using CreateFn = void (*)(const CreateArgs& args, Result<std::unique_ptr<Device>>* result);
inline constexpr char kCreateSymbol[] = "spillway_cuda_create";

}  // namespace spillway::gpu::cuda
