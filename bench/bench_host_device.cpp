// SPDX-License-Identifier: Apache-2.0

// The host device alone, without actors: time to first token and decode rate of a model file, and where the
// time goes. One JSON line a case. The limit beside a decode line is the packed weight bytes read once a step
// at the bandwidth given (GB/s, measured elsewhere), 0: none printed.
//
// bench_host_device MODEL [--threads N] [--cpu-target T] [--execution-mode M] [--kv fp32|fp16|bf16|q8_0] [--only SUBSTRING]
// [--gbps X] [--sparse METHOD]
//
// --sparse measures decode steps of sparsified sequences (one token in, one out, as many live ones as the
// context says) beside exact steps over as many tokens, in turn; blocks then carry positions and scores in
// both.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "gpu/host/host_device.hpp"
#include "model/loader.hpp"

namespace {

using namespace spillway;
using namespace spillway::gpu;
using namespace spillway::gpu::host;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Waiter : public CompletionSink {
 public:
  void on_step_complete(Ticket ticket) noexcept override { done_.store(ticket), done_.notify_all(); }
  void on_copy_complete(Ticket) noexcept override {}
  void wait(Ticket ticket) {
    for (Ticket seen = done_.load(); seen < ticket; seen = done_.load()) done_.wait(seen);
  }

 private:
  std::atomic<Ticket> done_{0};
};

struct Bench {
  HostDevice& device;
  Waiter& waiter;
  std::uint32_t block_size, max_batched;
  std::uint64_t step = 0;

  void run(StepPlan plan) {
    plan.step = ++step;
    Result<Ticket> ticket = device.submit(std::move(plan));
    if (!ticket) {
      std::fprintf(stderr, "%s\n", ticket.error().message.c_str());
      std::exit(1);
    }
    waiter.wait(*ticket);
    const StepResult result = device.take(*ticket);
    if (result.failed) {
      std::fprintf(stderr, "%s\n", result.message.c_str());
      std::exit(1);
    }
  }

  /// Sparsifies the sequence added last: a prompt that fills the budget, or a token that takes the place of
  /// another.
  void sparsify(StepPlan& plan, model::SparseKvParams params, std::uint32_t context) {
    SequenceStep& s = plan.sequences.back();
    const bool in_prompt = s.first_position < context;
    const std::uint32_t end = s.first_position + s.token_count;
    SparseStep sparse;
    sparse.params = params;
    sparse.params.budget = context;
    sparse.prompt_length = context;
    sparse.span = std::min(end, context);
    sparse.reuse = !in_prompt;
    sparse.evict = end >= context ? 1 : 0;
    sparse.live = sparse.span - sparse.evict;
    s.sparse = static_cast<std::uint32_t>(plan.sparse.size());
    plan.sparse.push_back(sparse);
  }

  void add_sequence(StepPlan& plan, std::uint32_t row, std::uint32_t position, std::uint32_t count,
                    bool samples, std::uint32_t blocks_each) {
    SequenceStep s;
    s.row = RowId{row};
    s.first_position = position;
    s.token_count = count;
    s.token_offset = static_cast<std::uint32_t>(plan.tokens.size());
    s.block_offset = static_cast<std::uint32_t>(plan.block_table.size());
    s.block_count = (position + count + block_size - 1) / block_size;
    s.prompt_count = count > 1 ? count : 0;
    s.samples = samples;
    for (std::uint32_t i = 0; i < count; ++i)
      plan.tokens.push_back(static_cast<TokenId>((position + i) * 7 % 1000 + row));
    for (std::uint32_t b = 0; b < s.block_count; ++b)
      plan.block_table.push_back(BlockId{row * blocks_each + b});
    if (position == 0) {
      RowInit init;
      init.row = s.row;
      init.params.temperature = 0;
      plan.row_inits.push_back(init);
    }
    plan.sequences.push_back(s);
  }

  /// Gives rows [1, batch) the KV of row 0, so that only one prompt needs computing.
  void copy_row(std::uint32_t batch, std::uint32_t blocks, std::uint32_t blocks_each) {
    for (std::uint32_t row = 1; row < batch; ++row) {
      CopyPlan plan;
      for (std::uint32_t b = 0; b < blocks; ++b)
        plan.blocks.push_back({BlockId{b}, BlockId{row * blocks_each + b}});
      if (!device.copy(std::move(plan)).ok()) std::exit(1);
    }
  }

  void prefill(std::uint32_t row, std::uint32_t tokens, std::uint32_t blocks_each,
               const model::SparseKvParams* sparse = nullptr, std::uint32_t context = 0) {
    for (std::uint32_t done = 0; done < tokens;) {
      const std::uint32_t count = std::min(max_batched, tokens - done);
      StepPlan plan;
      add_sequence(plan, row, done, count, done + count == tokens, blocks_each);
      if (sparse != nullptr) sparsify(plan, *sparse, context);
      run(std::move(plan));
      done += count;
    }
  }
};

/// Decode steps with `context` live tokens a row, exact and sparsified in turn: medians, ms.
void compare_sparse(Bench& bench, const model::SparseKvParams& params, std::uint32_t batch,
                    std::uint32_t context) {
  constexpr std::uint32_t kSteps = 40;
  const std::uint32_t size = bench.block_size, blocks = (context + kSteps) / size + 2;
  const std::uint32_t exact_first = context - kSteps / 2;
  // Exact rows first, sparsified ones behind them in the pool.
  bench.prefill(0, exact_first, blocks);
  bench.copy_row(batch, blocks, blocks);
  bench.prefill(batch, context, blocks, &params, context);
  for (std::uint32_t row = 1; row < batch; ++row) {
    CopyPlan copy;
    for (std::uint32_t b = 0; b < blocks; ++b)
      copy.blocks.push_back({BlockId{batch * blocks + b}, BlockId{(batch + row) * blocks + b}});
    if (!bench.device.copy(std::move(copy)).ok()) std::exit(1);
  }
  std::vector<double> exact, sparse;
  for (std::uint32_t i = 0; i < kSteps; ++i) {
    for (const bool sparsified : {false, true}) {
      StepPlan plan;
      for (std::uint32_t row = 0; row < batch; ++row) {
        bench.add_sequence(plan, sparsified ? batch + row : row, (sparsified ? context : exact_first) + i, 1,
                           true, blocks);
        if (sparsified) bench.sparsify(plan, params, context);
      }
      const double begin = now_s();
      bench.run(std::move(plan));
      (sparsified ? sparse : exact).push_back((now_s() - begin) * 1e3);
    }
  }
  std::ranges::nth_element(exact, exact.begin() + kSteps / 2);
  std::ranges::nth_element(sparse, sparse.begin() + kSteps / 2);
  std::printf(
      "{\"case\": \"sparse decode batch %u context %u\", \"method\": \"%s\", \"exact_ms\": %.3f, "
      "\"sparse_ms\": %.3f, \"ratio\": %.3f}\n",
      batch, context, std::string(model::name_of(params.method)).c_str(), exact[kSteps / 2],
      sparse[kSteps / 2], sparse[kSteps / 2] / exact[kSteps / 2]);
  std::fflush(stdout);
}

std::string phases(const std::array<std::int64_t, kPhases>& before,
                   const std::array<std::int64_t, kPhases>& after, double per) {
  std::string out = "{";
  for (std::size_t i = 0; i < kPhases; ++i) {
    char text[64];
    std::snprintf(text, sizeof text, "%s\"%s\": %.3f", i == 0 ? "" : ", ", to_string(static_cast<Phase>(i)),
                  static_cast<double>(after[i] - before[i]) * 1e-6 / per);
    out += text;
  }
  return out + "}";
}

/// Steps of 16 sequences that decode at context 256 and a chunk of a prompt behind `before` of its tokens:
/// what a chunk adds to the step. Medians, ms.
void decode_beside_prompt(Bench& bench, std::uint32_t before) {
  constexpr std::uint32_t kBatch = 16, kContext = 256, kSteps = 12, kBlocks = (4096 + 256) / 16;
  for (std::uint32_t row = 0; row < kBatch; ++row) bench.prefill(row, row == 0 ? kContext : 1, kBlocks);
  bench.copy_row(kBatch, kContext / bench.block_size, kBlocks);
  if (before > 0) bench.prefill(kBatch, before, kBlocks);
  for (const std::uint32_t chunk : {0u, 4u, 8u, 16u, 32u, 64u, 128u, 256u}) {
    std::vector<double> times;
    const auto sums = bench.device.phase_sums_ns();
    for (std::uint32_t i = 0; i < kSteps; ++i) {
      StepPlan plan;
      for (std::uint32_t row = 0; row < kBatch; ++row)
        bench.add_sequence(plan, row, kContext + i, 1, true, kBlocks);
      if (chunk > 0) bench.add_sequence(plan, kBatch, before, chunk, false, kBlocks);
      const double begin = now_s();
      bench.run(std::move(plan));
      times.push_back((now_s() - begin) * 1e3);
    }
    std::ranges::nth_element(times, times.begin() + kSteps / 2);
    std::printf("{\"case\": \"beside prompt %u\", \"chunk\": %u, \"step_ms\": %.3f, \"phase_ms\": %s}\n",
                before, chunk, times[kSteps / 2], phases(sums, bench.device.phase_sums_ns(), kSteps).c_str());
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  HostOptions host;
  host.phase_sums = true;
  DeviceOptions options;
  std::string model_path, only;
  double gbps = 0;
  model::SparseKvParams sparse;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const auto value = [&] { return std::string(i + 1 < argc ? argv[++i] : ""); };
    if (arg == "--threads")
      host.threads = static_cast<std::uint32_t>(std::stoul(value()));
    else if (arg == "--only")
      only = value();
    else if (arg == "--gbps")
      gbps = std::stod(value());
    else if (arg == "--sparse") {
      Result<model::SparseMethod> method = model::parse_sparse_method(value());
      if (!method) return std::fprintf(stderr, "%s\n", method.error().message.c_str()), 2;
      sparse.method = *method;
      options.sparse_kv = true;
      options.max_num_seqs = 128;
    } else if (arg == "--cpu-target") {
      Result<CpuTarget> target = parse_cpu_target(value());
      if (!target) return std::fprintf(stderr, "%s\n", target.error().message.c_str()), 2;
      host.cpu_target = *target;
    } else if (arg == "--execution-mode") {
      const std::string mode = value();
      if (mode != "accuracy" && mode != "performance")
        return std::fprintf(stderr, "--execution-mode is accuracy or performance\n"), 2;
      host.mode = mode == "performance" ? ExecutionMode::kPerformance : ExecutionMode::kAccuracy;
    } else if (arg == "--kv") {
      const std::string kv = value();
      options.kv_dtype = kv == "fp32"   ? KvDType::kF32
                         : kv == "bf16" ? KvDType::kBF16
                         : kv == "q8_0" ? KvDType::kQ8_0
                                        : KvDType::kF16;
    } else if (arg == "--block-size")
      options.block_size = static_cast<std::uint32_t>(std::stoul(value()));
    else
      model_path = arg;
  }
  if (model_path.empty()) return std::fprintf(stderr, "usage: bench_host_device MODEL [options]\n"), 2;
  Result<model::Model> model = model::Model::load(model_path);
  if (!model) return std::fprintf(stderr, "%s\n", model.error().message.c_str()), 2;
  options.kv_cache_memory_bytes = std::size_t{3} << 30;
  options.max_model_len = 8192;
  const double load_begin = now_s();
  Result<std::unique_ptr<Device>> created =
      HostDevice::create(model->spec(), model->weights(), options, host,
                         [&](const model::TensorView& view) { model->release_pages(view); });
  if (!created) return std::fprintf(stderr, "%s\n", created.error().message.c_str()), 2;
  auto& device = static_cast<HostDevice&>(**created);
  Waiter waiter;
  device.set_sink(&waiter);
  std::printf("{\"device\": \"%s\", \"load_ms\": %.0f, \"weight_mb\": %.1f, \"activation_mb\": %.1f}\n",
              device.info().name.c_str(), (now_s() - load_begin) * 1e3,
              static_cast<double>(device.weight_bytes()) * 1e-6,
              static_cast<double>(device.activation_bytes()) * 1e-6);
  Bench bench{device, waiter, options.block_size, options.max_num_batched_tokens};
  const auto wanted = [&](const std::string& name) { return name.find(only) != std::string::npos; };

  if (sparse.on()) {
    sparse.budget = 64;
    sparse = *model::resolve(sparse, 64);
    for (const auto& [batch, context] : std::vector<std::pair<std::uint32_t, std::uint32_t>>{
             {1, 256}, {1, 1024}, {16, 256}, {16, 1024}, {64, 256}})
      compare_sparse(bench, sparse, batch, context);
    return 0;
  }
  for (const std::uint32_t tokens : {512u, 2048u}) {
    const std::string name = "prefill " + std::to_string(tokens);
    if (!wanted(name)) continue;
    double best = 1e30;
    std::string split;
    for (int repeat = 0; repeat < 3; ++repeat) {
      const auto before = device.phase_sums_ns();
      const double begin = now_s();
      bench.prefill(0, tokens, tokens / options.block_size);
      const double seconds = now_s() - begin;
      if (seconds >= best) continue;
      best = seconds;
      split = phases(before, device.phase_sums_ns(), 1);
    }
    std::printf("{\"case\": \"%s\", \"ttft_ms\": %.1f, \"tok_per_s\": %.0f, \"phase_ms\": %s}\n",
                name.c_str(), best * 1e3, tokens / best, split.c_str());
    std::fflush(stdout);
  }
  for (const auto& [batch, context] : std::vector<std::pair<std::uint32_t, std::uint32_t>>{
           {1, 64}, {1, 1024}, {4, 64}, {16, 64}, {16, 1024}, {64, 64}, {64, 256}}) {
    const std::string name = "decode batch " + std::to_string(batch) + " context " + std::to_string(context);
    if (!wanted(name)) continue;
    const std::uint32_t steps = batch == 1    ? 64
                                : batch <= 16 ? 16
                                              : 8,
                        blocks = (context + steps + 15) / 16 + 1;
    for (std::uint32_t row = 0; row < batch; ++row) bench.prefill(row, row == 0 ? context : 1, blocks);
    bench.copy_row(batch, (context + options.block_size - 1) / options.block_size, blocks);
    double total = 1e30;
    std::string split;
    for (int repeat = 0; repeat < 3; ++repeat) {
      const auto before = device.phase_sums_ns();
      const double begin = now_s();
      for (std::uint32_t i = 0; i < steps; ++i) {
        StepPlan plan;
        for (std::uint32_t row = 0; row < batch; ++row)
          bench.add_sequence(plan, row, context + i, 1, true, blocks);
        for (SequenceStep& s : plan.sequences) s.token_from_row = true;
        bench.run(std::move(plan));
      }
      const double seconds = now_s() - begin;
      if (seconds >= total) continue;
      total = seconds;
      split = phases(before, device.phase_sums_ns(), steps);
    }
    const double step_ms = total / steps * 1e3;
    std::printf("{\"case\": \"%s\", \"step_ms\": %.3f, \"tok_per_s\": %.1f, \"phase_ms\": %s", name.c_str(),
                step_ms, batch * steps / total, split.c_str());
    if (gbps > 0)
      std::printf(", \"share_of_weight_limit\": %.2f",
                  static_cast<double>(device.weight_bytes()) / (gbps * 1e6) / step_ms);
    std::printf("}\n");
    std::fflush(stdout);
  }
  for (const std::uint32_t before : {0u, 2048u, 4000u})
    if (wanted("beside prompt " + std::to_string(before))) decode_beside_prompt(bench, before);
  return 0;
}
