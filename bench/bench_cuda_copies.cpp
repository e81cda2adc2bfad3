// SPDX-License-Identifier: Apache-2.0
// Copies of KV blocks between a CUDA device and the host, alone and beside decode steps of 32 sequences
// (Llama-7B's shape, random weights), and beside the same steps plain copies of 256 MB, which know nothing of
// the engine: what a step loses to those, it loses to the memory. One JSON line a figure.
//
//   bench_cuda_copies [--seconds 1.5]

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "bench/cuda/card.hpp"
#include "bench/shapes.hpp"
#include "bench/cuda/step_runner.hpp"
#include "gpu/cuda/open_device.hpp"

namespace spillway::bench {
namespace {

using Clock = std::chrono::steady_clock;
using namespace gpu;

constexpr std::uint32_t kSequences = 32, kContext = 128;
constexpr std::uint32_t kCopied = 64;  // blocks a copy

/// Which ways copies go.
struct Ways {
  const char* name;
  bool to_host, to_device;
};
constexpr Ways kWays[] = {{"both", true, true}, {"to_host", true, false}, {"to_device", false, true}};

/// Copies that are kept under way.
class Traffic {
 public:
  virtual ~Traffic() = default;
  /// Starts new ones where old ones are done, unless `ends`; whether any is under way.
  virtual bool keep_up(bool ends) = 0;
  /// Of each way, of all copies so far.
  [[nodiscard]] virtual double bytes() const = 0;
};

/// Blocks by the device's own copies. The ways use halves of both pools and do not wait for each other.
class BlockTraffic final : public Traffic {
 public:
  BlockTraffic(StepRunner& runner, const Ways& ways) : runner_(runner), ways_(ways) {}
  bool keep_up(bool ends) override {
    const std::uint32_t at_once = ways_.to_host && ways_.to_device ? 8 : 4;
    while (!ends && last_ < runner_.copied() + at_once) {
      if (ways_.to_host) start(CopyPlan::Direction::kDeviceToHost, 0);
      if (ways_.to_device) start(CopyPlan::Direction::kHostToDevice, kCopied);
      bytes_ += static_cast<double>(kCopied) * static_cast<double>(runner_.device().info().kv_block_bytes);
    }
    return last_ > runner_.copied();
  }
  [[nodiscard]] double bytes() const override { return bytes_; }

 private:
  void start(CopyPlan::Direction direction, std::uint32_t base) {
    CopyPlan plan;
    plan.direction = direction;
    for (std::uint32_t i = 0; i < kCopied; ++i)
      plan.blocks.push_back({BlockId{base + i * 7919 % kCopied}, BlockId{base + i * 104729 % kCopied}});
    last_ = runner_.copy(std::move(plan));
  }
  StepRunner& runner_;
  Ways ways_;
  Ticket last_ = 0;
  double bytes_ = 0;
};

/// cudaMemcpyAsync between memory of its own; made before the device, which takes what is left.
class PlainTraffic final : public Traffic {
 public:
  PlainTraffic() {
    for (Way& way : ways_) {
      check(cudaMallocHost(&way.host, kBytes));
      check(cudaMalloc(&way.device, kBytes));
      check(cudaStreamCreateWithFlags(&way.stream, cudaStreamNonBlocking));
      for (cudaEvent_t& event : way.ends) check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    }
  }
  /// Only between two times at which nothing is under way.
  void choose(const Ways& ways) {
    ways_[0].on = ways.to_host;
    ways_[1].on = ways.to_device;
    done_ = 0;
  }
  bool keep_up(bool ends) override {
    bool any = false;
    for (Way& way : ways_) {
      if (!way.on) continue;
      while (way.done < way.started && is_over(way.ends[way.done % kAtOnce])) {
        ++way.done;
        ++done_;
      }
      while (!ends && way.started < way.done + kAtOnce) {
        const bool out = &way == &ways_[0];
        check(cudaMemcpyAsync(out ? way.host : way.device, out ? way.device : way.host, kBytes,
                              out ? cudaMemcpyDeviceToHost : cudaMemcpyHostToDevice, way.stream));
        check(cudaEventRecord(way.ends[way.started++ % kAtOnce], way.stream));
      }
      any |= way.done < way.started;
    }
    return any;
  }
  [[nodiscard]] double bytes() const override {
    return static_cast<double>(done_) * kBytes / (ways_[0].on && ways_[1].on ? 2 : 1);
  }

 private:
  static constexpr std::size_t kBytes = std::size_t{256} << 20, kAtOnce = 2;
  struct Way {
    void *host = nullptr, *device = nullptr;
    cudaStream_t stream = nullptr;
    cudaEvent_t ends[kAtOnce] = {};
    std::size_t started = 0, done = 0;
    bool on = false;
  };
  static bool is_over(cudaEvent_t event) {
    const cudaError_t code = cudaEventQuery(event);
    if (code == cudaErrorNotReady) return (void)cudaGetLastError(), false;
    check(code);
    return true;
  }
  Way ways_[2];
  std::size_t done_ = 0;
};

/// Bytes a second of each way; steps of `plan`, if given, run meanwhile, and their times go to `steps`.
double drive(StepRunner& runner, Traffic& traffic, double seconds, const StepPlan* plan,
             StepRunner::Times* steps) {
  const Clock::time_point begin = Clock::now();
  const auto passed = [&] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
  std::deque<Ticket> open;
  std::vector<double> device_ms;
  double last_step = 0;
  bool under_way = true;
  while (passed() < seconds || under_way || !open.empty()) {
    const bool ends = passed() >= seconds;
    under_way = traffic.keep_up(ends);
    while (plan != nullptr && !ends && open.size() < 2) {
      StepPlan step = *plan;
      step.row_inits.clear();
      open.push_back(runner.submit(std::move(step)));
    }
    (void)runner.device().poll();
    while (!open.empty() && runner.is_done(open.front())) {
      device_ms.push_back(runner.take(open.front()));
      open.pop_front();
      last_step = passed();
    }
  }
  if (steps != nullptr)
    *steps = {median(device_ms),
              last_step * 1e3 / static_cast<double>(std::max<std::size_t>(1, device_ms.size()))};
  return traffic.bytes() / passed();
}

/// Copies as the device timed them, in ns.
struct Spans {
  struct Span {
    std::int64_t begin, end;
  };
  std::vector<Span> steps, copies;

  void add(std::string_view name, std::int64_t begin, std::int64_t end) {
    if (name == "step") steps.push_back({begin, end});
    if (name == "copy") copies.push_back({begin, end});
  }
  /// The share of the steps' time beside at least one copy.
  [[nodiscard]] double share_beside() const {
    std::vector<Span> sorted = copies;
    std::sort(sorted.begin(), sorted.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });
    std::int64_t covered = 0, all = 0;
    for (const Span& step : steps) {
      all += step.end - step.begin;
      std::int64_t at = step.begin;
      for (const Span& copy : sorted) {
        const std::int64_t from = std::max(at, copy.begin), to = std::min(step.end, copy.end);
        if (from < to) covered += to - from, at = to;
      }
    }
    return static_cast<double>(covered) / static_cast<double>(std::max<std::int64_t>(1, all));
  }
};

int run(int argc, char** argv) {
  double seconds = 1.5;
  if (argc == 3 && std::string_view(argv[1]) == "--seconds")
    seconds = std::atof(argv[2]);
  else if (argc != 1)
    return std::fprintf(stderr, "usage: bench_cuda_copies [--seconds X]\n"), 2;
  int gpus = 0;
  if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus == 0)
    return std::fprintf(stderr, "bench_cuda_copies: no GPU here, nothing measured\n"), 0;
  const double memory = copy_rate();
  const LinkRate link = link_rate();
  PlainTraffic plain;
  Spans spans;
  cuda::CudaOptions cuda;
  cuda.dummy_weights = true;
  cuda.on_span = [&spans](const char* name, std::int64_t begin, std::int64_t end) {
    spans.add(name, begin, end);
  };
  DeviceOptions options;
  options.kv_dtype = KvDType::kBF16;
  options.block_size = kBlock;
  options.max_num_seqs = 64;
  options.max_num_batched_tokens = 4 * kFilled;
  options.max_model_len = 2048;
  options.host_pool_bytes = std::size_t{2} << 30;
  const model::ModelSpec spec = shape_of("llama-7b");
  Result<std::unique_ptr<Device>> opened = cuda::open_cuda_device(spec, {}, options, cuda);
  if (!opened) return std::fprintf(stderr, "%s\n", opened.error().message.c_str()), 1;
  StepRunner runner(**opened, static_cast<std::uint32_t>(spec.vocab_size));
  StepPlan prompts, plan;
  for (std::uint32_t i = 0; i < kSequences; ++i) {
    runner.add(prompts, i, 0, kContext, true, false);
    runner.add(plan, i, kContext - 1, 1, true, true);
  }
  // The copies take the pool's first blocks; the sequences keep what lies behind them.
  for (StepPlan* each : {&prompts, &plan})
    for (std::size_t b = 0; b < each->block_table.size(); ++b)
      each->block_table[b] = BlockId{static_cast<std::uint32_t>(2 * kCopied + b)};
  (void)runner.run(prompts);
  for (const Ways& ways : kWays) {
    const double limit = (ways.to_host && ways.to_device ? link.both
                          : ways.to_host                 ? link.to_host
                                                         : link.to_device);
    const StepRunner::Times before = runner.run(plan, 160);
    BlockTraffic alone(runner, ways), beside(runner, ways);
    const double alone_rate = drive(runner, alone, seconds, nullptr, nullptr);
    spans = {};
    StepRunner::Times steps, plain_steps;
    const double rate = drive(runner, beside, seconds, &plan, &steps);
    const double share = spans.share_beside();
    plain.choose(ways);
    const double plain_rate = drive(runner, plain, seconds, &plan, &plain_steps);
    const StepRunner::Times after = runner.run(plan, 160);
    const double quiet_ms = (before.wall_ms + after.wall_ms) / 2;
    std::printf(
        "{\"figure\":\"copies\",\"ways\":\"%s\",\"memory_gb_s\":%.0f,\"link_gb_s\":%.1f,\"alone_gb_s\":%.1f,"
        "\"of_link\":%.3f,\"decode_ms\":[%.3f,%.3f],\"beside_gb_s\":%.1f,\"decode_beside_ms\":%.3f,"
        "\"slower\":%.4f,\"steps_time_beside_copies\":%.3f,\"plain_beside_gb_s\":%.1f,"
        "\"decode_beside_plain_ms\":%.3f,\"slower_beside_plain\":%.4f}\n",
        ways.name, memory * 1e-9, limit * 1e-9, alone_rate * 1e-9, alone_rate / limit, before.wall_ms,
        after.wall_ms, rate * 1e-9, steps.wall_ms, steps.wall_ms / quiet_ms - 1, share, plain_rate * 1e-9,
        plain_steps.wall_ms, plain_steps.wall_ms / quiet_ms - 1);
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace spillway::bench

int main(int argc, char** argv) { return spillway::bench::run(argc, argv); }
