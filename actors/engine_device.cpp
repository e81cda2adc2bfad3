// SPDX-License-Identifier: Apache-2.0
#include "actors/engine_device.hpp"

#include <unistd.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "actors/engine.hpp"
#include "gpu/cuda/open_device.hpp"
#include "gpu/host/available_memory.hpp"
#include "gpu/host/host_device.hpp"
#include "gpu/ranks/lead_peers.hpp"
#include "gpu/sim/sim_device.hpp"

namespace spillway {

/// The device's spans as tracks of the trace.
class DeviceTrack final : public gpu::host::SpanHook {
 public:
  explicit DeviceTrack(runtime::Tracer& tracer)
      : tracer_(tracer),
        steps_(tracer.add_track("device 0", "steps")),
        phases_(tracer.add_track("device 0", "kernels")),
        copies_(tracer.add_track("device 0", "copies")) {}

  void on_span(const char* name, std::int64_t begin_ns, std::int64_t end_ns) noexcept override {
    const std::string_view what(name);
    const runtime::TrackId track = what == "step" ? steps_ : what == "copy" ? copies_ : phases_;
    tracer_.trace_span(track, what, runtime::TimePoint(runtime::Duration(begin_ns)),
                       runtime::TimePoint(runtime::Duration(end_ns)));
  }

 private:
  runtime::Tracer& tracer_;
  runtime::TrackId steps_, phases_, copies_;
};

EngineDevice::EngineDevice() = default;
EngineDevice::EngineDevice(EngineDevice&&) noexcept = default;
EngineDevice& EngineDevice::operator=(EngineDevice&&) noexcept = default;
EngineDevice::~EngineDevice() = default;

namespace {

class DevicePoller final : public runtime::Poller {
 public:
  explicit DevicePoller(gpu::Device& device) : device_(device) {}
  bool poll() noexcept override { return device_.poll(); }

 private:
  gpu::Device& device_;
};

gpu::KvDType kv_dtype_for(KvCacheDType wanted, model::DType weights, bool on_gpu) {
  switch (wanted) {
    case KvCacheDType::kF32:
      return gpu::KvDType::kF32;
    case KvCacheDType::kF16:
      return gpu::KvDType::kF16;
    case KvCacheDType::kBF16:
      return gpu::KvDType::kBF16;
    case KvCacheDType::kQ8_0:
      return gpu::KvDType::kQ8_0;
    case KvCacheDType::kAuto:
      break;
  }
  if (on_gpu && weights == model::DType::kBF16) return gpu::KvDType::kBF16;
  return weights == model::DType::kF32 ? gpu::KvDType::kF32 : gpu::KvDType::kF16;
}

std::size_t machine_memory_bytes() {
  return static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGE_SIZE));
}

gpu::DeviceOptions device_options(const EngineOptions& set, const model::Model& model,
                                  std::uint32_t max_model_len, bool on_gpu) {
  const std::uint32_t seqs = set.max_num_seqs != 0 ? set.max_num_seqs : on_gpu ? 256 : 64;
  const std::uint32_t usual_tokens = on_gpu ? 8192 : 512;
  const model::DType weights =
      set.load_format == model::LoadFormat::kDummy ? model::DType::kBF16 : model.dominant_dtype();
  return {.kv_dtype = kv_dtype_for(set.kv_cache_dtype, weights, on_gpu),
          .block_size = set.block_size,
          .kv_cache_memory_bytes = set.kv_cache_memory_bytes,
          .max_num_seqs = seqs,
          .max_num_batched_tokens =
              set.max_num_batched_tokens != 0 ? set.max_num_batched_tokens : std::max(seqs, usual_tokens),
          .max_model_len = max_model_len,
          .max_steps_in_flight = set.async_submit,
          .sparse_kv = set.sparse_kv.on() || set.sparse_kv_per_request};
}

/// Gives a tensor's pages back once the device has its values, and tells how far that is.
std::function<void(const model::TensorView&)> weights_listener(const EngineOptions& set, const model::Model& model) {
  return [&, done_bytes = std::uint64_t{0}](const model::TensorView& tensor) mutable {
    model.release_pages(tensor);
    done_bytes += tensor.data.size();
    if (set.on_weights) set.on_weights(done_bytes, model.weight_bytes());
  };
}

/// Waits for the other nodes and tells them what to do.
Result<std::unique_ptr<gpu::ranks::LeadPeers>> gather_nodes(const EngineOptions& set, const model::Model& model,
                                                            const gpu::DeviceOptions& options) {
  gpu::ranks::LeadOptions lead{.host = set.nodes.master_addr,
                               .port = set.nodes.master_port,
                               .timeout = set.nodes.timeout,
                               .on_note = set.nodes.on_note};
  if (!set.nodes.key_file.empty()) {
    Result<std::string> key = gpu::ranks::read_key(set.nodes.key_file);
    if (!key.ok()) return std::move(key).error();
    lead.key = *std::move(key);
  }
  Result<std::unique_ptr<gpu::ranks::LeadPeers>> peers = gpu::ranks::LeadPeers::listen(std::move(lead));
  if (!peers.ok()) return peers;
  const gpu::ranks::Welcome welcome{.options = {.nodes = set.nodes.nodes,
                                                .tensor_parallel_size = set.tensor_parallel_size,
                                                .device = options,
                                                .gpu_memory_utilization = set.gpu_memory_utilization,
                                                .dummy_weights = set.load_format == model::LoadFormat::kDummy},
                                    .model = gpu::ranks::fingerprint(model.spec(), model.tensors())};
  if (Result<void> all = (*peers)->gather(welcome); !all.ok()) return std::move(all).error();
  return peers;
}

Result<std::unique_ptr<gpu::Device>> open_cuda(const EngineOptions& set, const model::Model& model, EngineDevice& opened) {
  const gpu::DeviceOptions& options = opened.options;
  DeviceTrack* const track = opened.track.get();
  gpu::cuda::CudaOptions cuda;
  cuda.tensor_parallel_size = set.tensor_parallel_size;
  cuda.gpu_memory_utilization = set.gpu_memory_utilization;
  cuda.fault_at_step = set.inject_device_fault;
  cuda.dummy_weights = set.load_format == model::LoadFormat::kDummy;
  cuda.trace_kernels = set.trace_kernels;
  if (set.nodes.nodes > 1) {
    Result<std::unique_ptr<gpu::ranks::LeadPeers>> peers = gather_nodes(set, model, options);
    if (!peers.ok()) return std::move(peers).error();
    opened.peers = *std::move(peers);
    cuda.peers = opened.peers.get();
  }
  if (track != nullptr) {
    cuda.on_span = [track](const char* name, std::int64_t begin_ns, std::int64_t end_ns) {
      track->on_span(name, begin_ns, end_ns);
    };
  }
  Result<std::unique_ptr<gpu::Device>> device =
      gpu::cuda::open_cuda_device(model.spec(), model.weights(), options, cuda, weights_listener(set, model));
  if (!device.ok() && opened.peers != nullptr) opened.peers->give_up(device.error());
  return device;
}

Result<std::unique_ptr<gpu::Device>> open_host(const EngineOptions& set, const model::Model& model,
                                               EngineDevice& opened) {
  gpu::DeviceOptions& options = opened.options;
  if (set.load_format == model::LoadFormat::kDummy) {
    return Error{Errc::kInvalidArgument,
                 "--load-format dummy makes random weights on a GPU; the host device has none"};
  }
  std::size_t usual_bytes = options.kv_cache_memory_bytes;
  if (options.kv_cache_memory_bytes == 0) {
    options.kv_cache_memory_bytes = usual_bytes =
        default_kv_cache_bytes(model.spec(), options.kv_dtype, options.max_model_len, machine_memory_bytes());
    if (set.kv_cache_grows) {
      options.kv_cache_memory_bytes =
          grown_kv_cache_bytes(model.spec(), options.kv_dtype, options.max_model_len, options.max_num_seqs,
                               usual_bytes, gpu::host::available_memory_bytes());
    }
  }
  gpu::host::HostOptions host{.threads = set.threads,
                              .mode = set.execution_mode,
                              .span_hook = opened.track.get(),
                              .resident_kv_bytes = set.populate_kv_cache ? usual_bytes : 0};
  if (!set.cpu_target.empty()) {
    Result<gpu::host::CpuTarget> target = gpu::host::parse_cpu_target(set.cpu_target);
    if (!target.ok()) return std::move(target).error();
    host.cpu_target = *target;
  }
  Result<std::unique_ptr<gpu::Device>> device = gpu::host::HostDevice::create(
      model.spec(), model.weights(), options, host, weights_listener(set, model));
  if (device.ok() && usual_bytes < options.kv_cache_memory_bytes)
    opened.usual_blocks = static_cast<std::uint32_t>(usual_bytes / (*device)->info().kv_block_bytes);
  return device;
}

}  // namespace

Result<EngineDevice> open_engine_device(const EngineOptions& set, const model::Model& model,
                                        std::uint32_t max_model_len, runtime::Tracer* tracer) {
  EngineDevice opened;
  if (tracer != nullptr) opened.track = std::make_unique<DeviceTrack>(*tracer);
  Result<std::unique_ptr<gpu::Device>> device = Error{Errc::kNotFound, ""};
  const DeviceKind wanted = set.device.value_or(DeviceKind::kAuto);
  if (wanted != DeviceKind::kHost) {
    opened.options = device_options(set, model, max_model_len, true);
    device = open_cuda(set, model, opened);
    // What a GPU here refuses for a reason of its own (memory, a broken file) is no reason to compute
    // elsewhere.
    const bool absent =
        !device.ok() && set.nodes.nodes == 1 &&
        (device.error().code == Errc::kNotFound ||
         (device.error().code == Errc::kUnsupported && wanted == DeviceKind::kAuto));
    if (!device.ok() && (wanted == DeviceKind::kCuda || !absent)) return std::move(device).error();
    if (!device.ok()) opened.why_host = device.error().message;
  }
  if (!device.ok() && set.tensor_parallel_size > 1) {
    const std::string why = opened.why_host.empty() ? "--device host is one" : opened.why_host;
    return Error{Errc::kInvalidArgument, "--tensor-parallel-size " + std::to_string(set.tensor_parallel_size) +
                                             " needs as many GPUs: " + why};
  }
  if (!device.ok()) {
    opened.options = device_options(set, model, max_model_len, false);
    device = open_host(set, model, opened);
  }
  if (!device.ok()) return std::move(device).error();
  opened.device = *std::move(device);
  const gpu::DeviceInfo& info = opened.device->info();
  if (info.num_blocks == 0) {
    return Error{Errc::kInvalidArgument,
                 "--kv-cache-memory-bytes is " + std::to_string(opened.options.kv_cache_memory_bytes) +
                     ", less than one block of " + std::to_string(info.kv_block_bytes) + " bytes"};
  }
  if (info.needs_polling) opened.poller = std::make_unique<DevicePoller>(*opened.device);
  return opened;
}

Result<EngineDevice> open_simulated_device(const EngineOptions& set, const model::Model& model,
                                           std::uint32_t max_model_len, std::uint32_t worker,
                                           std::function<runtime::Executor&()> executor) {
  EngineDevice opened;
  opened.options = device_options(set, model, max_model_len, false);
  if (opened.options.kv_cache_memory_bytes == 0) {
    opened.options.kv_cache_memory_bytes = default_kv_cache_bytes(
        model.spec(), opened.options.kv_dtype, opened.options.max_model_len, machine_memory_bytes());
  }
  gpu::SimEnvironment environment{
      .now_ns = [executor] { return runtime::to_ns(executor().now()); },
      .call_at =
          [executor, worker](std::int64_t at_ns, std::function<void()> done) {
            executor().call_at(worker, runtime::TimePoint(runtime::Duration(at_ns)), std::move(done));
          },
      .random = [] { return std::uint64_t{0}; }};
  const gpu::TimingProfile instant{.step_ns = std::chrono::nanoseconds(set.simulated_step).count(),
                                   .prefill_token_ns = 0,
                                   .decode_sequence_ns = 0,
                                   .attended_token_ns = 0,
                                   .copy_block_ns = 0};
  opened.device = std::make_unique<gpu::SimDevice>(
      opened.options, kv_bytes_per_token(model.spec(), opened.options.kv_dtype), model.spec().vocab_size,
      instant, gpu::SimFaults{}, std::move(environment));
  return opened;
}

}  // namespace spillway
