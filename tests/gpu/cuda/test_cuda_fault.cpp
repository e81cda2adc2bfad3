// SPDX-License-Identifier: Apache-2.0

// A device that faults. The process cannot use its GPU afterwards, so this is a program of its own.

#include <chrono>
#include <string>

#include "gpu/cuda/cuda_device.hpp"
#include "tests/gpu/cuda/gpu.hpp"
#include "tests/gpu/host_runner.hpp"

namespace spillway::gpu::cuda {
namespace {

struct Sink final : CompletionSink {
  void on_step_complete(Ticket ticket) noexcept override { step = ticket; }
  void on_copy_complete(Ticket ticket) noexcept override { copy = ticket; }
  Ticket step = 0, copy = 0;
};

}  // namespace

TEST_CASE("cuda fault: steps and copies under way fail by name, later ones are refused, and the device can be dropped") {
  SPW_NEEDS_GPU();
  const model::Model model = host::load_or_fail(std::string(SPW_SOURCE_ROOT) + "/tests/data/models/llama-gqa");
  DeviceOptions options = host::small_device(KvDType::kF16);
  options.host_pool_bytes = options.kv_cache_memory_bytes;
  CudaOptions cuda;
  cuda.fault_at_step = 2;
  Result<std::unique_ptr<Device>> device = create_cuda_device({&model.spec(), &model.weights(), &options, &cuda, nullptr});
  REQUIRE(device.ok());
  Sink sink;
  (*device)->set_sink(&sink);
  const auto step = [&](std::uint64_t number) {
    StepPlan plan;
    plan.step = number;
    plan.row_inits.push_back({RowId{0}, host::Request::greedy_params(), 0, {}, {}});
    plan.tokens = {1, 2, 3};
    plan.block_table = {BlockId{4}};
    plan.sequences.push_back({RowId{0}, 0, 3, 0, 0, 1, 3, false, true, 0});
    return (*device)->submit(std::move(plan));
  };
  const auto wait_for = [&](const Ticket& reached, Ticket wanted) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (reached < wanted && std::chrono::steady_clock::now() < until) (void)(*device)->poll();
    REQUIRE(reached == wanted);
  };
  REQUIRE(step(1).ok());
  wait_for(sink.step, 1);
  CHECK_FALSE((*device)->take(1).failed);

  REQUIRE(step(2).ok());
  REQUIRE((*device)->copy({CopyPlan::Direction::kDeviceToHost, {{BlockId{4}, BlockId{0}}}, 2}).ok());
  wait_for(sink.step, 2);
  wait_for(sink.copy, 1);
  const StepResult lost = (*device)->take(2);
  CHECK(lost.failed);
  CHECK(lost.step == 2);
  CHECK(lost.message.find("failed: ") != std::string::npos);
  CHECK(lost.message.find((*device)->info().name) == 0);
  CHECK(lost.tokens.empty());
  const Result<Ticket> refused = step(3);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == Errc::kDeviceFailed);
  CHECK(refused.error().message == lost.message);
  CHECK_FALSE((*device)->copy({CopyPlan::Direction::kDeviceToHost, {{BlockId{4}, BlockId{0}}}, 0}).ok());
  CHECK_FALSE((*device)->poll());
  device->reset();  // ends
}

}  // namespace spillway::gpu::cuda
