// SPDX-License-Identifier: Apache-2.0
// Steps of a CUDA device on a model of a named shape with random weights, each beside the time that its bytes or its
// products take at the card's own measured rates. One JSON line a figure.
//
//   bench_cuda_device [--shape llama-7b|llama-3-8b|smollm2|opt-1.3b] [--only decode|prefill|copies] [--seqs 1,8] [--no-graphs]
//                     [--weights bf16|q8_0|q4_0|q4_1|q5_0|q5_1] [--tensor-parallel-size N]
//   bench_cuda_device --upload MODEL        how fast a model's weights reach the GPU, beside what the link takes

#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gpu/cuda/open_device.hpp"
#include "model/loader.hpp"

namespace spillway::bench {
namespace {

using Clock = std::chrono::steady_clock;
using namespace gpu;

constexpr std::uint32_t kBlock = 16, kFilled = 1024;  // slots a block; context that is written once and then read
constexpr int kRepeats = 40;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

void check(cudaError_t code) {
  if (code == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(code));
  std::exit(1);
}

/// Bytes read and written a second by a large copy within the device.
double copy_rate() {
  constexpr std::size_t kBytes = std::size_t{4} << 30;
  void *from = nullptr, *to = nullptr;
  cudaStream_t stream = nullptr;
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  check(cudaMalloc(&from, kBytes));
  check(cudaMalloc(&to, kBytes));
  check(cudaMemsetAsync(from, 0x5b, kBytes, stream));
  std::vector<double> rates;
  for (int i = 0; i < 10; ++i) {
    check(cudaEventRecord(begin, stream));
    check(cudaMemcpyAsync(to, from, kBytes, cudaMemcpyDeviceToDevice, stream));
    check(cudaEventRecord(end, stream));
    check(cudaEventSynchronize(end));
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end));
    rates.push_back(2.0 * kBytes / (ms * 1e-3));
  }
  check(cudaFree(from));
  check(cudaFree(to));
  check(cudaEventDestroy(begin));
  check(cudaEventDestroy(end));
  check(cudaStreamDestroy(stream));
  return median(rates);
}

model::ModelSpec shape_of(std::string_view name) {
  model::ModelSpec spec;
  spec.architecture = "llama";
  spec.name = name;
  spec.vocab_size = 32000;
  spec.hidden_size = 4096;
  spec.intermediate_size = 11008;
  spec.num_layers = 32;
  spec.num_heads = spec.num_kv_heads = 32;
  spec.head_dim = 128;
  spec.max_position = 16384;
  if (name == "llama-3-8b") {
    spec.vocab_size = 128256;
    spec.intermediate_size = 14336;
    spec.num_kv_heads = 8;
  } else if (name == "smollm2") {
    spec.vocab_size = 49152;
    spec.hidden_size = 576;
    spec.intermediate_size = 1536;
    spec.num_layers = 30;
    spec.num_heads = 9;
    spec.num_kv_heads = 3;
    spec.head_dim = 64;
  } else if (name == "opt-1.3b") {
    spec.vocab_size = 50272;
    spec.hidden_size = 2048;
    spec.intermediate_size = 8192;
    spec.num_layers = 24;
    spec.head_dim = 64;
    spec.norm = model::NormKind::kLayer;
    spec.position = model::PositionKind::kLearned;
    spec.position_offset = 2;
    spec.mlp = model::MlpKind::kPlain;
    spec.activation = model::Activation::kRelu;
    spec.tied_embeddings = true;
  } else if (name != "llama-7b") {
    std::fprintf(stderr, "unknown shape\n");
    std::exit(2);
  }
  spec.embedding_size = spec.hidden_size;
  spec.attention_scale = 1.0f / std::sqrt(static_cast<float>(spec.head_dim));
  if (spec.position == model::PositionKind::kRotary) {
    spec.rope.rotary_dim = spec.head_dim;
    for (int i = 0; i < spec.head_dim / 2; ++i)
      spec.rope.inv_freq.push_back(std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(spec.head_dim)));
  }
  return spec;
}

model::DType weights_of(std::string_view name) {
  for (const auto& [known, type] : {std::pair{"bf16", model::DType::kBF16}, {"q8_0", model::DType::kQ8_0},
                                    {"q4_0", model::DType::kQ4_0}, {"q4_1", model::DType::kQ4_1},
                                    {"q5_0", model::DType::kQ5_0}, {"q5_1", model::DType::kQ5_1}})
    if (name == known) return type;
  std::fprintf(stderr, "unknown type of weights\n");
  std::exit(2);
}

/// Elements of the matrices that every token is multiplied with; of the vocabulary's apart.
double layer_elements(const model::ModelSpec& spec) {
  const double hidden = spec.hidden_size, q = static_cast<double>(spec.q_size()), kv = static_cast<double>(spec.kv_size());
  const double mlp = (spec.mlp == model::MlpKind::kGated ? 3.0 : 2.0) * hidden * spec.intermediate_size;
  return spec.num_layers * (hidden * (q + 2 * kv) + q * hidden + mlp);
}
double vocabulary_elements(const model::ModelSpec& spec) { return double(spec.hidden_size) * spec.vocab_size; }

class Runner {
 public:
  Runner(Device& device, std::uint32_t vocab) : device_(device), vocab_(vocab) {}

  /// Blocks of sequence `index`, which holds up to kFilled tokens and a few more.
  void add(StepPlan& plan, std::uint32_t index, std::uint32_t first, std::uint32_t tokens, bool samples, bool from_row) {
    SequenceStep s;
    s.row = RowId{index};
    s.first_position = first;
    s.token_count = tokens;
    s.token_offset = static_cast<std::uint32_t>(plan.tokens.size());
    s.block_offset = static_cast<std::uint32_t>(plan.block_table.size());
    s.block_count = (first + tokens + kBlock - 1) / kBlock;
    s.token_from_row = from_row;
    s.samples = samples;
    s.output_index = first;
    for (std::uint32_t i = 0; i < tokens; ++i)
      plan.tokens.push_back(static_cast<model::TokenId>((index * 7919 + (first + i) * 104729) % vocab_));
    // Scattered: neighbours in a sequence are far apart in the pool.
    const std::uint32_t blocks = device_.info().num_blocks, stride = 7919;
    const std::uint64_t base = std::uint64_t{index} * (kFilled / kBlock);
    for (std::uint32_t b = 0; b < s.block_count; ++b)
      plan.block_table.push_back(BlockId{static_cast<std::uint32_t>((base + b) * stride % blocks)});
    if (first == 0) {
      RowInit init;
      init.row = s.row;
      init.params.temperature = 0;
      plan.row_inits.push_back(std::move(init));
    }
    plan.sequences.push_back(s);
  }

  /// Runs `count` copies of a step, two in flight; device times, and the host's time for all of them.
  struct Times {
    double device_ms = 0, wall_ms = 0;
  };
  Times run(const StepPlan& plan, int count) {
    std::vector<double> device_ms;
    int submitted = 0, taken = 0;
    Clock::time_point begin = Clock::now();
    const int warm = std::min(4, count - 1);
    while (taken < count) {
      while (submitted < count && submitted - taken < 2) {
        StepPlan copy = plan;
        copy.step = ++step_;
        if (submitted > 0) copy.row_inits.clear();
        Result<Ticket> ticket = device_.submit(std::move(copy));
        if (!ticket) fail(ticket.error().message);
        tickets_.push_back(*ticket);
        ++submitted;
      }
      while (done_ < tickets_.front()) (void)device_.poll();
      StepResult result = device_.take(tickets_.front());
      if (result.failed) fail(result.message);
      tickets_.erase(tickets_.begin());
      if (++taken == warm) begin = Clock::now();
      if (taken > warm) device_ms.push_back(static_cast<double>(result.device_ns) * 1e-6);
    }
    const double wall = std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
    return {median(device_ms), wall / std::max(1, count - warm)};
  }

  /// Copies `count` blocks there and back at once, again and again, until `seconds` have passed; bytes a second of
  /// each direction. Steps of `plan` run meanwhile, if it has any; their times go to `steps`.
  double copy(std::uint32_t count, double seconds, const StepPlan& plan, Times* steps) {
    Ticket last = 0;
    std::uint64_t bytes = 0;
    std::vector<double> device_ms;
    const Clock::time_point begin = Clock::now();
    double passed = 0, last_step = 0;  // seconds
    std::vector<Ticket> open;
    while (passed < seconds || last > copied_ || !open.empty()) {
      while (passed < seconds && last < copied_ + 8) {
        for (const auto direction : {CopyPlan::Direction::kDeviceToHost, CopyPlan::Direction::kHostToDevice}) {
          // Halves of both pools, so that the directions do not wait for each other.
          CopyPlan copy;
          copy.direction = direction;
          const std::uint32_t base = direction == CopyPlan::Direction::kDeviceToHost ? 0 : count;
          for (std::uint32_t i = 0; i < count; ++i)
            copy.blocks.push_back({BlockId{base + (i * 7919) % count}, BlockId{base + (i * 104729) % count}});
          Result<Ticket> ticket = device_.copy(std::move(copy));
          if (!ticket) fail(ticket.error().message);
          last = *ticket;
        }
        bytes += std::uint64_t{count} * device_.info().kv_block_bytes;
      }
      while (steps != nullptr && passed < seconds && open.size() < 2) {
        StepPlan step = plan;
        step.step = ++step_;
        step.row_inits.clear();
        Result<Ticket> ticket = device_.submit(std::move(step));
        if (!ticket) fail(ticket.error().message);
        open.push_back(*ticket);
      }
      (void)device_.poll();
      while (!open.empty() && done_ >= open.front()) {
        device_ms.push_back(static_cast<double>(device_.take(open.front()).device_ns) * 1e-6);
        open.erase(open.begin());
        last_step = std::chrono::duration<double>(Clock::now() - begin).count();
      }
      passed = std::chrono::duration<double>(Clock::now() - begin).count();
    }
    const auto steps_done = static_cast<double>(std::max<std::size_t>(1, device_ms.size()));
    if (steps != nullptr) *steps = {median(device_ms), last_step * 1e3 / steps_done};
    return static_cast<double>(bytes) / passed;
  }

  struct Sink final : CompletionSink {
    Sink(Ticket& done, Ticket& copied) : done(done), copied(copied) {}
    void on_step_complete(Ticket ticket) noexcept override { done = ticket; }
    void on_copy_complete(Ticket ticket) noexcept override { copied = ticket; }
    Ticket &done, &copied;
  };
  Sink sink{done_, copied_};

 private:
  [[noreturn]] static void fail(const std::string& message) {
    std::fprintf(stderr, "%s\n", message.c_str());
    std::exit(1);
  }
  Device& device_;
  std::uint32_t vocab_;
  std::uint64_t step_ = 0;
  Ticket done_ = 0, copied_ = 0;
  std::vector<Ticket> tickets_;
};

/// Steps and copies as the device timed them, in ns.
struct Spans {
  struct Span {
    std::int64_t begin, end;
  };
  std::vector<Span> steps, copies;

  void add(std::string_view name, std::int64_t begin, std::int64_t end) {
    if (name == "step") steps.push_back({begin, end});
    if (name == "copy") copies.push_back({begin, end});
  }
  void clear() { *this = {}; }
  /// Copies that ran beside a step for some time, and the share of the steps' time beside at least one copy.
  [[nodiscard]] std::pair<std::size_t, double> overlap() const {
    std::size_t beside = 0;
    for (const Span& copy : copies)
      beside += std::any_of(steps.begin(), steps.end(), [&](const Span& s) { return s.begin < copy.end && copy.begin < s.end; });
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
    return {beside, static_cast<double>(covered) / static_cast<double>(std::max<std::int64_t>(1, all))};
  }
};

/// Bytes a second of one large pinned copy at a time, and of both directions at once (each).
struct LinkRate {
  double to_host = 0, to_device = 0, both = 0;
};
LinkRate link_rate() {
  constexpr std::size_t kBytes = std::size_t{1} << 30;
  void *host[2] = {}, *device[2] = {};
  cudaStream_t streams[2] = {};
  for (int i = 0; i < 2; ++i) {
    check(cudaMallocHost(&host[i], kBytes));
    check(cudaMalloc(&device[i], kBytes));
    check(cudaStreamCreateWithFlags(&streams[i], cudaStreamNonBlocking));
  }
  const auto measure = [&](bool out, bool in) {
    std::vector<double> rates;
    for (int repeat = 0; repeat < 5; ++repeat) {
      const Clock::time_point begin = Clock::now();
      if (out) check(cudaMemcpyAsync(host[0], device[0], kBytes, cudaMemcpyDeviceToHost, streams[0]));
      if (in) check(cudaMemcpyAsync(device[1], host[1], kBytes, cudaMemcpyHostToDevice, streams[1]));
      for (const cudaStream_t stream : streams) check(cudaStreamSynchronize(stream));
      rates.push_back(kBytes / std::chrono::duration<double>(Clock::now() - begin).count());
    }
    return median(rates);
  };
  const LinkRate rate{measure(true, false), measure(false, true), measure(true, true)};
  for (int i = 0; i < 2; ++i) {
    check(cudaFreeHost(host[i]));
    check(cudaFree(device[i]));
    check(cudaStreamDestroy(streams[i]));
  }
  return rate;
}

/// From the first tensor that has arrived to the last.
int upload(const std::string& path) {
  const LinkRate link = link_rate();
  Result<model::Model> model = model::Model::load(path);
  if (!model) return std::fprintf(stderr, "%s\n", model.error().message.c_str()), 1;
  DeviceOptions options;
  options.kv_dtype = KvDType::kBF16;
  options.kv_cache_memory_bytes = std::size_t{1} << 30;
  options.max_model_len = 1024;
  for (const char* pages : {"cold", "warm"}) {
    std::size_t bytes = 0;
    Clock::time_point first{}, last{};
    Result<std::unique_ptr<Device>> device = cuda::open_cuda_device(
        model->spec(), model->weights(), options, {}, [&](const model::TensorView& tensor) {
          last = Clock::now();
          if (first == Clock::time_point{}) first = last;
          else bytes += tensor.data.size();
        });
    if (!device) return std::fprintf(stderr, "%s\n", device.error().message.c_str()), 1;
    const double seconds = std::chrono::duration<double>(last - first).count(), rate = static_cast<double>(bytes) / seconds;
    std::printf("{\"figure\":\"upload\",\"file\":\"%s\",\"gb\":%.2f,\"seconds\":%.3f,\"gb_s\":%.1f,\"link_gb_s\":%.1f,"
                "\"of_link\":%.3f}\n",
                pages, static_cast<double>(bytes) * 1e-9, seconds, rate * 1e-9, link.to_device * 1e-9, rate / link.to_device);
  }
  return 0;
}

std::vector<std::uint32_t> parse_list(const char* text) {
  std::vector<std::uint32_t> values;
  for (char* end = nullptr; *text != 0; text = *end == ',' ? end + 1 : end)
    values.push_back(static_cast<std::uint32_t>(std::strtoul(text, &end, 10)));
  return values;
}

int run(int argc, char** argv) {
  std::string shape = "llama-7b", only;
  std::vector<std::uint32_t> batches{1, 8, 32, 64, 128, 256}, contexts{128, 1024}, prompts{512, 2048, 8192};
  double matrix_tflops = 790;
  cuda::CudaOptions cuda;
  cuda.dummy_weights = true;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    const auto value = [&] { return i + 1 < argc ? argv[++i] : ""; };
    if (name == "--shape") shape = value();
    else if (name == "--only") only = value();
    else if (name == "--seqs") batches = parse_list(value());
    else if (name == "--contexts") contexts = parse_list(value());
    else if (name == "--prompts") prompts = parse_list(value());
    else if (name == "--matrix-tflops") matrix_tflops = std::atof(value());
    else if (name == "--tensor-parallel-size") cuda.tensor_parallel_size = parse_list(value()).front();
    else if (name == "--upload") return upload(value());
    else if (name == "--weights") cuda.dummy_dtype = weights_of(value());
    else if (name == "--no-graphs") cuda.graphs = false;
    else return std::fprintf(stderr, "unknown option %s\n", argv[i]), 2;
  }
  int gpus = 0;
  if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus == 0)
    return std::fprintf(stderr, "bench_cuda_device: no GPU here, nothing measured\n"), 0;
  const double rate = copy_rate();
  cudaDeviceProp card{};
  check(cudaGetDeviceProperties(&card, 0));
  std::printf("{\"figure\":\"card\",\"name\":\"%s\",\"sm\":%d,\"copy_gb_s\":%.0f}\n", card.name, card.multiProcessorCount,
              rate * 1e-9);
  const model::ModelSpec spec = shape_of(shape);
  DeviceOptions options;
  options.kv_dtype = cuda.dummy_dtype == model::DType::kBF16 ? KvDType::kBF16 : KvDType::kF16;
  options.block_size = kBlock;
  options.max_num_seqs = std::max(256u, *std::max_element(batches.begin(), batches.end()));
  options.max_num_batched_tokens = 8192;
  options.max_model_len = 16384;
  constexpr std::uint32_t kCopied = 64;  // blocks a copy
  LinkRate link;
  Spans spans;
  if (only == "copies") {
    link = link_rate();
    cuda.on_span = [&spans](const char* name, std::int64_t begin, std::int64_t end) { spans.add(name, begin, end); };
    options.host_pool_bytes = std::size_t{2} << 30;
  }
  const Clock::time_point begin = Clock::now();
  Result<std::unique_ptr<Device>> opened = cuda::open_cuda_device(spec, {}, options, cuda);
  if (!opened) return std::fprintf(stderr, "%s\n", opened.error().message.c_str()), 1;
  Device& device = **opened;
  std::printf("{\"figure\":\"start\",\"shape\":\"%s\",\"seconds\":%.2f,\"blocks\":%u}\n", shape.c_str(),
              std::chrono::duration<double>(Clock::now() - begin).count(), device.info().num_blocks);
  Runner runner(device, static_cast<std::uint32_t>(spec.vocab_size));
  device.set_sink(&runner.sink);

  const double element_bytes = static_cast<double>(model::block_bytes(cuda.dummy_dtype)) /
                               static_cast<double>(model::block_elements(cuda.dummy_dtype));
  const double weight_bytes = element_bytes * (layer_elements(spec) + vocabulary_elements(spec));
  const double kv_token_bytes = static_cast<double>(device.info().kv_block_bytes) / kBlock;
  const std::uint32_t capacity = device.info().num_blocks / (kFilled / kBlock);
  if (only.empty() || only == "prefill") {
    for (const std::uint32_t tokens : prompts) {
      StepPlan plan;
      runner.add(plan, 0, 0, tokens, true, false);
      const Runner::Times times = runner.run(plan, 8);
      const double attention = 2.0 * spec.num_layers * static_cast<double>(spec.q_size()) * tokens * tokens;  // causal
      const double tflop = (2 * layer_elements(spec) * tokens + attention + 2 * vocabulary_elements(spec)) * 1e-12;
      const double achieved = tflop / (times.device_ms * 1e-3);
      std::printf("{\"figure\":\"prefill\",\"tokens\":%u,\"device_ms\":%.2f,\"tflop_s\":%.0f,\"of_matrix_rate\":%.3f}\n", tokens,
                  times.device_ms, achieved, achieved / matrix_tflops);
      std::fflush(stdout);
    }
  }
  if (!only.empty() && only != "decode" && only != "copies") return 0;

  // Contexts with real keys and values: four sequences a step.
  const std::uint32_t most = *std::max_element(batches.begin(), batches.end());
  const std::uint32_t longest = *std::max_element(contexts.begin(), contexts.end());
  const std::uint32_t filled = std::min(capacity, longest > 128 ? std::min(most, 160u) : most / 8 + 1);
  for (std::uint32_t first = 0; first < filled; first += 4) {
    StepPlan plan;
    for (std::uint32_t i = first; i < std::min(filled, first + 4); ++i) runner.add(plan, i, 0, kFilled, true, false);
    (void)runner.run(plan, 1);
  }
  if (only == "copies") {
    StepPlan plan;
    for (std::uint32_t i = 0; i < 32; ++i) runner.add(plan, i, 127, 1, true, true);
    // The copies take the pool's first blocks; the sequences keep what lies behind them.
    for (std::size_t b = 0; b < plan.block_table.size(); ++b)
      plan.block_table[b] = BlockId{static_cast<std::uint32_t>(2 * kCopied + b)};
    const Runner::Times quiet = runner.run(plan, 8 * kRepeats);
    const double alone_ms = quiet.wall_ms;
    const double alone = runner.copy(kCopied, 1.5, plan, nullptr);
    Runner::Times steps;
    spans.clear();
    const double together = runner.copy(kCopied, 1.5, plan, &steps);
    const auto [beside, share] = spans.overlap();
    std::printf("{\"figure\":\"copies\",\"block_bytes\":%zu,\"blocks_a_copy\":%u,\"plain_gb_s\":"
                "{\"to_host\":%.1f,\"to_device\":%.1f,"
                "\"both_each\":%.1f},\"both_each_gb_s\":%.1f,\"of_plain\":%.3f,\"beside_decode_gb_s\":%.1f,\"decode_ms\":%.3f,"
                "\"decode_beside_copies_ms\":%.3f,\"slower\":%.4f,\"device_ms\":[%.3f,%.3f],"
                "\"copies\":%zu,\"beside_steps\":%zu,\"steps\":%zu,\"steps_time_beside_copies\":%.3f}\n",
                device.info().kv_block_bytes, kCopied, link.to_host * 1e-9, link.to_device * 1e-9, link.both * 1e-9, alone * 1e-9,
                alone / link.both, together * 1e-9, alone_ms, steps.wall_ms, steps.wall_ms / alone_ms - 1,
                quiet.device_ms, steps.device_ms, spans.copies.size(), beside, spans.steps.size(), share);
    return 0;
  }
  for (const std::uint32_t context : contexts) {
    for (const std::uint32_t batch : batches) {
      if (std::uint64_t{batch} * context > std::uint64_t{filled} * kFilled) continue;
      StepPlan plan;
      for (std::uint32_t i = 0; i < batch; ++i) {
        runner.add(plan, i, context - 1, 1, true, true);
        if (context >= kFilled) continue;
        SequenceStep& s = plan.sequences.back();  // the filled blocks, cut into short sequences
        for (std::uint32_t b = 0; b < s.block_count; ++b)
          plan.block_table[s.block_offset + b] =
              BlockId{static_cast<std::uint32_t>((std::uint64_t{i} * s.block_count + b) * 7919 % device.info().num_blocks)};
      }
      const Runner::Times times = runner.run(plan, kRepeats);
      const double floor_ms = (weight_bytes + kv_token_bytes * batch * context) / (rate * cuda.tensor_parallel_size) * 1e3;
      std::printf("{\"figure\":\"decode\",\"batch\":%u,\"context\":%u,\"device_ms\":%.3f,\"wall_ms\":%.3f,\"floor_ms\":%.3f,"
                  "\"of_floor\":%.3f,\"idle\":%.4f}\n",
                  batch, context, times.device_ms, times.wall_ms, floor_ms, floor_ms / times.wall_ms,
                  1 - times.device_ms / times.wall_ms);
      std::fflush(stdout);
    }
  }
  return 0;
}

}  // namespace
}  // namespace spillway::bench

int main(int argc, char** argv) { return spillway::bench::run(argc, argv); }
