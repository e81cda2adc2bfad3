// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/host_device.hpp"

#include <chrono>
#include <limits>
#include <string>
#include <thread>

#include "tests/gpu/host_runner.hpp"
#include "tests/gpu/reference_file.hpp"

namespace spillway::gpu::host {
namespace {

const std::string kModels = std::string(SPW_SOURCE_ROOT) + "/tests/data/models/";

const model::Model& small_model() {
  static const model::Model model = load_or_fail(kModels + "llama-gqa");
  return model;
}

/// One sequence of `tokens` from position 0 in the first blocks.
StepPlan prompt_plan(std::vector<TokenId> tokens, bool samples = true) {
  StepPlan plan;
  SequenceStep s;
  s.token_count = static_cast<std::uint32_t>(tokens.size());
  s.block_count = (s.token_count + 15) / 16;
  s.samples = samples;
  for (std::uint32_t b = 0; b < s.block_count; ++b) plan.block_table.push_back(BlockId{b});
  plan.tokens = std::move(tokens);
  plan.sequences.push_back(s);
  plan.row_inits.push_back({RowId{0}, Request::greedy_params(), 0, {}, {}});
  return plan;
}

HostOptions two_threads() {
  HostOptions host;
  host.threads = 2;
  return host;
}

/// Records the order of completions.
class Recorder : public CompletionSink {
 public:
  void on_step_complete(Ticket ticket) noexcept override { add('s', ticket); }
  void on_copy_complete(Ticket ticket) noexcept override { add('c', ticket); }
  void wait_for(std::size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return events.size() >= count; });
  }
  std::vector<std::pair<char, Ticket>> events;

 private:
  void add(char kind, Ticket ticket) noexcept {
    const std::lock_guard lock(mutex_);
    events.emplace_back(kind, ticket);
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
};

std::unique_ptr<Device> make_device(const DeviceOptions& options, const HostOptions& host) {
  Result<std::unique_ptr<Device>> device =
      HostDevice::create(small_model().spec(), small_model().weights(), options, host);
  if (!device) FAIL(device.error().message);
  return std::move(*device);
}

}  // namespace

TEST_CASE("host device: reports its name, block size and block count") {
  HostOptions host = two_threads();
  host.cpu_target = CpuTarget::kScalar;
  const std::unique_ptr<Device> device = make_device(small_device(), host);
  CHECK(device->info().name == "host (scalar, 2 threads)");
  CHECK(device->info().kv_block_bytes == 2 * 2 * 2 * 16 * 16 * 4);
  CHECK(device->info().num_blocks == (64u << 20) / device->info().kv_block_bytes);
  CHECK_FALSE(device->info().needs_polling);
  host.mode = ExecutionMode::kPerformance;
  CHECK(make_device(small_device(), host)->info().name == "host (scalar, 2 threads)");  // knows one way
  if (detect_cpu_target() < CpuTarget::kAvx512Vnni) return;
  host.cpu_target = CpuTarget::kAvx512Vnni;
  CHECK(make_device(small_device(), host)->info().name ==
        "host (AVX-512 VNNI, 8-bit activations, 2 threads)");
}

TEST_CASE("host device: refuses plans that break a limit, and says which") {
  HostRunner runner(small_model().spec(), small_model().weights(), small_device(), two_threads());
  const auto refused = [&](StepPlan plan, const std::string& part) {
    const Result<Ticket> ticket = runner.device().submit(std::move(plan));
    REQUIRE_FALSE(ticket.ok());
    CHECK(ticket.error().code == Errc::kInvalidArgument);
    INFO(ticket.error().message);
    CHECK(ticket.error().message.find(part) != std::string::npos);
  };
  refused({}, "no sequences");
  refused(prompt_plan(std::vector<TokenId>(513, 5)), "max_num_batched_tokens");
  refused(prompt_plan({5, 128}), "token 128 is outside the vocabulary");
  refused(prompt_plan({5, -1}), "outside the vocabulary");
  StepPlan plan = prompt_plan({5, 6});
  plan.sequences[0].first_position = 399;
  refused(plan, "max_model_len");
  plan = prompt_plan({5, 6});
  plan.sequences[0].first_position = 15;
  refused(plan, "blocks do not cover");
  plan = prompt_plan({5, 6});
  plan.block_table[0] = BlockId{1u << 30};
  refused(plan, "block");
  plan = prompt_plan({5, 6});
  plan.sequences[0].row = RowId{40};
  refused(plan, "row");
  plan = prompt_plan({5, 6});
  plan.sequences[0].token_from_row = true;
  refused(plan, "token_from_row");
  plan = prompt_plan({5, 6});
  plan.wait_for_copy = 1;
  refused(plan, "waits for copy");
  plan = prompt_plan({5, 6});
  plan.sequences[0].block_offset = std::numeric_limits<std::uint32_t>::max();
  refused(plan, "blocks do not cover");
}

TEST_CASE("host device: a step that fails says so, and the next one works") {
  HostOptions host = two_threads();
  int steps = 0;
  host.fail_step = [&steps](const StepPlan&) { return ++steps == 1; };
  HostRunner runner(small_model().spec(), small_model().weights(), small_device(), host);
  const StepResult first = runner.step(prompt_plan({5, 6, 7}));
  CHECK(first.failed);
  CHECK(first.message.find("injected") != std::string::npos);
  CHECK(first.tokens.empty());
  const StepResult second = runner.step(prompt_plan({5, 6, 7}));
  CHECK_FALSE(second.failed);
  CHECK(second.tokens.size() == 1);
  CHECK(second.step == 2);
}

TEST_CASE("host device: weights that are not numbers fail the step with a message") {
  model::Weights weights = small_model().weights();
  std::vector<float> norm(static_cast<std::size_t>(small_model().spec().hidden_size), std::nanf(""));
  weights.final_norm.data = {reinterpret_cast<const std::byte*>(norm.data()), norm.size() * sizeof(float)};
  HostRunner runner(small_model().spec(), weights, small_device(), two_threads());
  const StepResult result = runner.step(prompt_plan({5, 6, 7}));
  CHECK(result.failed);
  CHECK(result.message.find("not finite") != std::string::npos);
}

TEST_CASE("host device: more steps than allowed in flight are refused, and taken again once one is done") {
  DeviceOptions options = small_device();
  options.max_steps_in_flight = 2;
  HostOptions host = two_threads();
  std::atomic<bool> go{false};
  host.fail_step = [&go](const StepPlan&) {
    while (!go.load()) std::this_thread::yield();
    return false;
  };
  Recorder sink;
  const std::unique_ptr<Device> device = make_device(options, host);
  device->set_sink(&sink);
  REQUIRE(device->submit(prompt_plan({5, 6})).ok());
  REQUIRE(device->submit(prompt_plan({5, 6})).ok());
  const Result<Ticket> third = device->submit(prompt_plan({5, 6}));
  REQUIRE_FALSE(third.ok());
  CHECK(third.error().code == Errc::kQueueFull);
  go = true;
  sink.wait_for(1);
  CHECK(device->submit(prompt_plan({5, 6})).ok());
  sink.wait_for(3);
  CHECK(sink.events == std::vector<std::pair<char, Ticket>>{{'s', 1}, {'s', 2}, {'s', 3}});
  CHECK(device->take(1).tokens[0].token == device->take(3).tokens[0].token);
}

TEST_CASE("host device: the next step reads the token the one before it drew, without a round trip") {
  Recorder sink;
  const std::unique_ptr<Device> device = make_device(small_device(), two_threads());
  device->set_sink(&sink);
  const std::vector<ReferenceCase> references = read_reference(kModels + "llama-gqa/reference.txt");
  StepPlan decode = prompt_plan({0});
  decode.row_inits.clear();
  decode.sequences[0].token_from_row = true;
  const auto size = static_cast<std::uint32_t>(references[1].prompt.size());
  decode.sequences[0].first_position = size;
  REQUIRE(device->submit(prompt_plan(references[1].prompt)).ok());
  REQUIRE(device->submit(std::move(decode)).ok());
  sink.wait_for(2);
  CHECK(device->take(1).tokens[0].token == references[1].greedy[0]);
  CHECK(device->take(2).tokens[0].token == references[1].greedy[1]);
}

TEST_CASE("host device: fences hold copies and steps in the order they ask for") {
  DeviceOptions options = small_device();
  options.host_pool_bytes = std::size_t{1} << 20;
  options.max_steps_in_flight = 8;
  Recorder sink;
  const std::unique_ptr<Device> device = make_device(options, two_threads());
  device->set_sink(&sink);
  const std::vector<ReferenceCase> references = read_reference(kModels + "llama-gqa/reference.txt");
  const ReferenceCase& reference = references[2];  // 33 tokens: three blocks
  // The prompt's blocks leave for the host pool, are overwritten by another prompt, and come back elsewhere.
  REQUIRE(*device->submit(prompt_plan(reference.prompt)) == 1);
  CopyPlan out;
  out.direction = CopyPlan::Direction::kDeviceToHost;
  for (std::uint32_t b = 0; b < 3; ++b) out.blocks.push_back({BlockId{b}, BlockId{b + 4}});
  out.wait_for_step = 1;
  REQUIRE(*device->copy(std::move(out)) == 1);
  StepPlan other = prompt_plan(references[3].prompt);
  other.sequences[0].row = RowId{1};
  other.row_inits[0].row = RowId{1};
  other.wait_for_copy = 1;
  REQUIRE(*device->submit(std::move(other)) == 2);
  CopyPlan back;
  back.direction = CopyPlan::Direction::kHostToDevice;
  for (std::uint32_t b = 0; b < 3; ++b) back.blocks.push_back({BlockId{b + 4}, BlockId{b + 20}});
  REQUIRE(*device->copy(std::move(back)) == 2);
  CopyPlan within;
  for (std::uint32_t b = 0; b < 3; ++b) within.blocks.push_back({BlockId{b + 20}, BlockId{b + 30}});
  REQUIRE(*device->copy(std::move(within)) == 3);
  StepPlan decode = prompt_plan({0});
  decode.row_inits.clear();
  decode.sequences[0].token_from_row = true;
  decode.sequences[0].first_position = 33;
  decode.sequences[0].block_count = 3;
  decode.block_table = {BlockId{30}, BlockId{31}, BlockId{32}};
  decode.wait_for_copy = 3;
  REQUIRE(*device->submit(std::move(decode)) == 3);
  sink.wait_for(6);
  CHECK(sink.events ==
        std::vector<std::pair<char, Ticket>>{{'s', 1}, {'c', 1}, {'c', 2}, {'c', 3}, {'s', 2}, {'s', 3}});
  CHECK(device->take(3).tokens[0].token == reference.greedy[1]);
}

TEST_CASE("host device: copies outside the pools are refused") {
  const std::unique_ptr<Device> device = make_device(small_device(), two_threads());
  CopyPlan plan;
  plan.direction = CopyPlan::Direction::kDeviceToHost;
  plan.blocks.push_back({BlockId{0}, BlockId{0}});
  const Result<Ticket> ticket = device->copy(std::move(plan));
  REQUIRE_FALSE(ticket.ok());
  CHECK(ticket.error().code == Errc::kInvalidArgument);
}

TEST_CASE("host device: its destructor waits for what is in flight") {
  Recorder sink;
  {
    DeviceOptions options = small_device();
    options.max_steps_in_flight = 4;
    const std::unique_ptr<Device> device = make_device(options, two_threads());
    device->set_sink(&sink);
    for (int i = 0; i < 4; ++i) REQUIRE(device->submit(prompt_plan(std::vector<TokenId>(100, 5))).ok());
  }
  CHECK(sink.events.size() == 4);
}

TEST_CASE("host device: sampling rows keep their own parameters, and a restart continues the same draws") {
  HostRunner runner(small_model().spec(), small_model().weights(), small_device(), two_threads());
  Request request;
  request.prompt = {5, 6, 7, 8};
  request.max_tokens = 10;
  request.params.temperature = 0.8f;
  request.params.seed = 11;
  request.params.repetition_penalty = 1.3f;
  request.params.frequency_penalty = 0.4f;
  request.params.logprobs = 3;
  const Answer alone = runner.run_one(request);
  CHECK(alone.sampled[0].top.size() == 3);
  Request greedy = request;
  greedy.params = Request::greedy_params();
  Request other = request;
  other.params.seed = 12;
  const std::vector<Answer> together = runner.run({other, request, greedy});
  CHECK(together[1].tokens == alone.tokens);
  CHECK(together[2].tokens == runner.run_one(greedy).tokens);
  CHECK(together[2].sampled[0].top.empty());

  // A preempted request comes back with what it had written as part of its prefill.
  StepPlan plan = prompt_plan(request.prompt);
  plan.tokens.insert(plan.tokens.end(), alone.tokens.begin(), alone.tokens.begin() + 4);
  plan.sequences[0].token_count = 8;
  plan.sequences[0].output_index = 4;
  plan.row_inits[0] = {
      RowId{0}, request.params, 0, request.prompt, {alone.tokens.begin(), alone.tokens.begin() + 4}};
  const StepResult resumed = runner.step(std::move(plan));
  CHECK(resumed.tokens[0].token == alone.tokens[4]);
  CHECK(resumed.tokens[0].logprob == alone.sampled[4].logprob);
}

TEST_CASE("host device: spans and phases add up, on the clock it was given") {
  struct Hook : SpanHook {
    std::int64_t steps = 0, phases_ns = 0, step_ns = 0;
    void on_span(const char* name, std::int64_t begin_ns, std::int64_t end_ns) noexcept override {
      if (std::string(name) == "step") {
        ++steps;
        step_ns += end_ns - begin_ns;
      } else {
        phases_ns += end_ns - begin_ns;
      }
    }
  };
  Hook hook;
  HostOptions host = two_threads();
  std::int64_t now = 0;
  host.clock = [&now] { return now += 10; };
  host.span_hook = &hook;
  host.phase_sums = true;
  HostRunner runner(small_model().spec(), small_model().weights(), small_device(), host);
  const StepResult result = runner.step(prompt_plan({5, 6, 7}));
  CHECK(hook.steps == 1);
  CHECK(hook.step_ns == result.device_ns);
  CHECK(hook.phases_ns > 0);
  CHECK(hook.phases_ns < hook.step_ns);
  std::int64_t sum = 0;
  for (const std::int64_t ns : static_cast<HostDevice&>(runner.device()).phase_sums_ns()) sum += ns;
  CHECK(sum == hook.phases_ns);
}

TEST_CASE("host device: options it cannot serve are refused at creation, by name") {
  const auto refused = [](DeviceOptions options, const std::string& part) {
    const Result<std::unique_ptr<Device>> device =
        HostDevice::create(small_model().spec(), small_model().weights(), options, two_threads());
    REQUIRE_FALSE(device.ok());
    INFO(device.error().message);
    CHECK(device.error().message.find(part) != std::string::npos);
  };
  DeviceOptions options = small_device();
  options.block_size = 20;
  refused(options, "block size 20");
  options = small_device(KvDType::kQ8_0);  // head_dim 16
  refused(options, "q8_0");
  options = small_device();
  options.kv_cache_memory_bytes = 100;
  refused(options, "kv_cache_memory_bytes");
  options = small_device();
  options.max_num_seqs = 0;
  refused(options, "max_num_seqs");
}

}  // namespace spillway::gpu::host
