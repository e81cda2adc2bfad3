// SPDX-License-Identifier: Apache-2.0

// What a device asks of the driver while it serves, counted by the driver's own tracing, libraries included.

#include <cuda.h>
#include <cupti.h>

#include <map>
#include <string>
#include <string_view>

#include "gpu/cuda/cuda_device.hpp"
#include "tests/gpu/cuda/gpu.hpp"
#include "tests/gpu/host_runner.hpp"
#include "tests/gpu/reference_file.hpp"

namespace spillway::gpu::cuda {
namespace {

/// Calls of a kind that a serving device does not make, by name, while an object of this lives.
class ForbiddenCalls {
 public:
  ForbiddenCalls() {
    REQUIRE(cuptiSubscribe(&subscriber_, reinterpret_cast<CUpti_CallbackFunc>(&seen), this) == CUPTI_SUCCESS);
    REQUIRE(cuptiEnableDomain(1, subscriber_, CUPTI_CB_DOMAIN_DRIVER_API) == CUPTI_SUCCESS);
  }
  ~ForbiddenCalls() { (void)cuptiUnsubscribe(subscriber_); }
  ForbiddenCalls(const ForbiddenCalls&) = delete;
  ForbiddenCalls& operator=(const ForbiddenCalls&) = delete;

  [[nodiscard]] const std::map<std::string, int>& all() const { return calls_; }
  [[nodiscard]] int launches() const { return launches_; }

 private:
  static void CUPTIAPI seen(void* self, CUpti_CallbackDomain, CUpti_CallbackId id, const CUpti_CallbackData* data) {
    if (data->callbackSite != CUPTI_API_ENTER) return;
    auto& counts = *static_cast<ForbiddenCalls*>(self);
    const std::string_view name = data->functionName;
    for (const char* begin : {"cuMemAlloc", "cuMemFree", "cuMemHostAlloc", "cuMemCreate", "cuCtxSynchronize",
                              "cuStreamSynchronize", "cuEventSynchronize", "cuStreamCreate", "cuEventCreate",
                              "cuModuleLoad", "cuGraphInstantiate", "cuMemcpyHtoD_v2", "cuMemcpyDtoH_v2", "cuMemcpy_"})
      if (name.starts_with(begin)) ++counts.calls_[data->functionName];
    const void* stream = &counts;
    if (id == CUPTI_DRIVER_TRACE_CBID_cuLaunchKernel) {
      stream = static_cast<const cuLaunchKernel_params*>(data->functionParams)->hStream;
    } else if (id == CUPTI_DRIVER_TRACE_CBID_cuLaunchKernelEx) {
      stream = static_cast<const cuLaunchKernelEx_params*>(data->functionParams)->config->hStream;
    } else if (id == CUPTI_DRIVER_TRACE_CBID_cuGraphLaunch) {
      stream = static_cast<const cuGraphLaunch_params*>(data->functionParams)->hStream;
    } else {
      return;
    }
    ++counts.launches_;
    if (stream == nullptr || stream == CU_STREAM_LEGACY || stream == CU_STREAM_PER_THREAD)
      ++counts.calls_["a launch on the default stream"];
  }

  CUpti_SubscriberHandle subscriber_ = nullptr;
  std::map<std::string, int> calls_;
  int launches_ = 0;
};

}  // namespace

TEST_CASE("cuda device: once started it allocates nothing, waits for nothing and leaves the default stream alone") {
  SPW_NEEDS_GPU();
  const std::string folder = std::string(SPW_SOURCE_ROOT) + "/tests/data/models/llama-gqa";
  const model::Model model = host::load_or_fail(folder);
  const host::ReferenceCase reference = host::read_reference(folder + "/reference.txt").back();
  DeviceOptions options = host::small_device(KvDType::kF16);
  options.host_pool_bytes = options.kv_cache_memory_bytes;
  host::HostRunner device(options, [&](host::HostRunner::LogitsHook) {  // without the hook, which serializes
    const CudaOptions cuda;
    return create_cuda_device({&model.spec(), &model.weights(), &options, &cuda, nullptr});
  });
  std::vector<host::Request> batch;
  for (std::uint32_t i = 0; i < 12; ++i) {
    host::Request request;
    request.prompt.assign(reference.prompt.begin(), reference.prompt.begin() + 3 + i);
    request.max_tokens = 20;
    request.chunk = 1 + i % 5;
    request.start_after = i % 4;
    request.params.temperature = i % 2 == 0 ? 0.0f : 0.8f;
    request.params.logprobs = i % 3 == 0 ? 5 : -1;
    if (i % 5 == 0) request.params.repetition_penalty = 1.2f;
    batch.push_back(std::move(request));
  }
  (void)device.run(batch);  // kernels that no start-up met are loaded now
  ForbiddenCalls calls;
  (void)device.run(batch);
  const Result<Ticket> copied =
      device.device().copy({CopyPlan::Direction::kDeviceToHost, {{BlockId{1}, BlockId{0}}, {BlockId{5}, BlockId{3}}}, 0});
  REQUIRE(copied.ok());
  device.wait_for_copy(*copied);
  CHECK(calls.launches() > 20);
  for (const auto& [name, count] : calls.all()) FAIL_CHECK(name << ", " << count << " times");
}

}  // namespace spillway::gpu::cuda
