// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/cuda_device.hpp"

#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "gpu/cuda/block_copies.hpp"
#include "gpu/cuda/decode_graphs.hpp"
#include "gpu/cuda/forward.hpp"
#include "gpu/cuda/kernel_trace.hpp"
#include "gpu/cuda/launch.hpp"
#include "gpu/cuda/pinned_copy.hpp"
#include "gpu/cuda/sparse_results.hpp"
#include "gpu/cuda/tensor_parallel.hpp"
#include "gpu/plan_limits.hpp"
#include "runtime/check.hpp"

namespace spillway::gpu::cuda {
namespace {

Error another_failed() { return {Errc::kCancelled, "another rank of the group failed"}; }

constexpr std::size_t kReserveBytes = std::size_t{512} << 20;  // left to the driver, graphs and the library

/// Bytes from one block to the next. An H100's memory is five stacks: of blocks a multiple of five times 128 KiB apart the
/// same layer lies in few of them, and a decode step of 64 sequences of 1024 tokens took 16% longer
/// (bench/results/sparse-cuda.json).
std::size_t block_stride(std::size_t bytes) {
  constexpr std::size_t kPiece = std::size_t{32} << 10, kLargest = std::size_t{1} << 20;
  return bytes >= kLargest && bytes % (5 * kPiece) == 0 ? bytes + kPiece : bytes;
}

std::uint32_t divide_up(std::uint32_t a, std::uint32_t b) { return (a + b - 1) / b; }

/// What one step in flight holds.
struct StepSlot {
  Memory inputs;            // pinned
  StepInputs host;
  Memory arrived_inputs;    // the same on the device
  StepInputs arrived;
  Memory left_results;      // on the device, on their way to `results`
  Memory results;           // pinned
  SampledRow* rows = nullptr;
  std::int32_t* top_tokens = nullptr;
  float* top_logprobs = nullptr;
  Memory emptied;           // pinned; [table entries] only where sequences may be sparsified
  std::vector<float> logits;  // only for the tests' hook
  cudaEvent_t begin = nullptr, end = nullptr;  // of the computation
  cudaEvent_t inputs_there = nullptr, done = nullptr;  // done: the results are in pinned memory

  Ticket ticket = 0;
  StepPlan plan;            // keeps what pageable copies read
  std::vector<std::uint32_t> sampled;
  std::vector<std::int32_t> logprobs;  // [sampled]
};

class CudaDevice final : public RankDevice {
 public:
  CudaDevice(const DeviceOptions& options, CudaOptions cuda, const Rank& rank)
      : options_(options), cuda_(std::move(cuda)), rank_(rank) {}
  ~CudaDevice() override;

  [[nodiscard]] Result<void> start(const CreateArgs& args);

  const DeviceInfo& info() const noexcept override { return info_; }
  void set_sink(CompletionSink* sink) noexcept override { sink_ = sink; }
  Result<Ticket> submit(StepPlan plan) override;
  StepResult take(Ticket ticket) override;
  Result<Ticket> copy(CopyPlan plan) override;
  bool poll() noexcept override;
  Result<void> admits(const StepPlan& plan) const override;
  Result<void> admits(const CopyPlan& plan) const override;
  void fail(const Error& why) override {
    if (collective_ != nullptr) collective_->abort();
    lose(why);
  }

 private:
  Result<void> open(const model::ModelSpec& spec);
  Result<void> size_step(const model::ModelSpec& spec);
  Result<void> allocate_pool(const model::ModelSpec& spec);
  Result<void> make_slots();
  Result<void> warm_up();

  /// A step's kernels, behind its inputs.
  void enqueue(StepSlot& slot, const StepShape& shape, std::uint32_t bucket);
  void lose(const Error& why);
  void tell_span(const char* name, cudaEvent_t begin, cudaEvent_t end);
  StepResult collect(StepSlot& slot);

  const DeviceOptions options_;
  const CudaOptions cuda_;
  Rank rank_;
  std::unique_ptr<KernelTrace> kernel_trace_;
  std::unique_ptr<Collective> collective_;  // null: the only rank
  DeviceInfo info_;
  PlanLimits limits_;
  CompletionSink* sink_ = nullptr;
  cudaDeviceProp properties_{};
  Element element_{};
  std::uint32_t vocab_ = 0;

  cudaStream_t compute_ = nullptr;
  cudaStream_t inputs_stream_ = nullptr, results_stream_ = nullptr;  // over the link, beside computation

  CudaModel model_;
  StepGeometry geometry_;
  StepLimits step_limits_;
  std::unique_ptr<Forward> forward_;
  std::unique_ptr<SparseMemory> sparse_;  // only where sequences may be sparsified
  std::unique_ptr<DecodeGraphs> graphs_, sparse_graphs_;
  Memory device_inputs_;
  StepInputs inputs_;
  Memory pool_, host_pool_;
  PoolView pool_view_;
  std::vector<BlockPart> block_parts_;

  std::vector<RowParams> rows_;
  std::vector<StepSlot> slots_;
  std::unique_ptr<BlockCopies> copies_;
  std::deque<std::pair<Ticket, StepResult>> results_;
  Ticket last_step_ = 0, done_step_ = 0;
  std::string lost_;  // why the device no longer works
  cudaEvent_t origin_ = nullptr;  // only for spans: passed when the steady clock read origin_ns_
  std::int64_t origin_ns_ = 0;
};

CudaDevice::~CudaDevice() {
  for (const cudaStream_t stream : {compute_, results_stream_})
    if (stream != nullptr) (void)cudaStreamSynchronize(stream);
  if (kernel_trace_ != nullptr) kernel_trace_->finish(cuda_.on_span);
  copies_.reset();
  graphs_.reset();
  sparse_graphs_.reset();
  for (StepSlot& slot : slots_) {
    if (slot.begin != nullptr) (void)cudaEventDestroy(slot.begin);
    if (slot.end != nullptr) (void)cudaEventDestroy(slot.end);
    if (slot.inputs_there != nullptr) (void)cudaEventDestroy(slot.inputs_there);
    if (slot.done != nullptr) (void)cudaEventDestroy(slot.done);
  }
  if (origin_ != nullptr) (void)cudaEventDestroy(origin_);
  for (const cudaStream_t stream : {compute_, inputs_stream_, results_stream_})
    if (stream != nullptr) (void)cudaStreamDestroy(stream);
}

Result<void> CudaDevice::open(const model::ModelSpec& spec) {
  int count = 0;
  if (const cudaError_t code = cudaGetDeviceCount(&count); code != cudaSuccess || count == 0) {
    const char* why = code == cudaSuccess                  ? "the driver shows none"
                      : code == cudaErrorInsufficientDriver ? "there is no NVIDIA driver, or one older than CUDA 13.0's"
                                                            : cudaGetErrorString(code);
    return Error{Errc::kNotFound, std::string("no CUDA device: ") + why};
  }
  if (cuda_.ordinal < 0 || cuda_.ordinal >= count) {
    return Error{Errc::kNotFound, "no CUDA device " + std::to_string(cuda_.ordinal) + ": the driver shows " +
                                      std::to_string(count) + ", counted from 0"};
  }
  if (Result<void> done = check_cuda(cudaSetDevice(cuda_.ordinal), "cudaSetDevice"); !done) return done;
  if (Result<void> done = check_cuda(cudaGetDeviceProperties(&properties_, cuda_.ordinal), "device properties"); !done)
    return done;
  if (properties_.major < 8) {
    return Error{Errc::kUnsupported, std::string(properties_.name) + " has compute capability " +
                                         std::to_string(properties_.major) + "." + std::to_string(properties_.minor) +
                                         "; 8.0 is the least supported"};
  }
  const std::uint32_t block = options_.block_size;
  if (block != 8 && block != 16 && block != 32 && block != 64) {
    return Error{Errc::kInvalidArgument,
                 "block size " + std::to_string(block) + " is not supported: use 8, 16, 32 or 64"};
  }
  switch (options_.kv_dtype) {
    case KvDType::kF32:
      element_ = Element::kF32;
      break;
    case KvDType::kF16:
      element_ = Element::kF16;
      break;
    case KvDType::kBF16:
      element_ = Element::kBF16;
      break;
    case KvDType::kQ8_0:
      return Error{Errc::kUnsupported, "--kv-cache-dtype q8_0 is not supported on CUDA: use bf16, fp16 or fp32"};
  }
  if (spec.head_dim > 256)
    return Error{Errc::kUnsupported, "head_dim " + std::to_string(spec.head_dim) + "; CUDA attention takes up to 256"};
  if (options_.sparse_kv && rank_.shard.size > 1) {
    return Error{Errc::kUnsupported,
                 "sparsified sequences (sparse_kv_cache) and tensor_parallel_size above 1 do not go together: heads of other "
                 "GPUs would have to be asked who goes"};
  }
  if (options_.sparse_kv && spec.num_heads / spec.num_kv_heads > kMostQueries) {
    return Error{Errc::kUnsupported, std::to_string(spec.num_heads / spec.num_kv_heads) +
                                         " queries a KV head; sparsified sequences on CUDA take up to " +
                                         std::to_string(kMostQueries)};
  }
  int lowest = 0, highest = 0;
  (void)cudaDeviceGetStreamPriorityRange(&lowest, &highest);
  for (cudaStream_t* stream : {&compute_, &inputs_stream_, &results_stream_}) {
    const int priority = stream == &compute_ ? lowest : highest;
    if (Result<void> done = check_cuda(cudaStreamCreateWithPriority(stream, cudaStreamNonBlocking, priority), "stream"); !done)
      return done;
  }
  return {};
}

Result<void> CudaDevice::size_step(const model::ModelSpec& spec) {
  geometry_.block_size = options_.block_size;
  geometry_.kv_heads = static_cast<std::uint32_t>(spec.num_kv_heads);
  geometry_.window = static_cast<std::uint32_t>(spec.sliding_window);
  geometry_.fast_decode = has_fast_decode(element_, spec.head_dim, spec.num_heads, spec.num_kv_heads);
  geometry_.fast_prefill = has_fast_prefill(element_, spec.head_dim);
  geometry_.multiprocessors = static_cast<std::uint32_t>(properties_.multiProcessorCount);
  const std::uint32_t padded_seqs = DecodeGraphs::bucket_for(options_.max_num_seqs);
  step_limits_.max_tokens = std::max(options_.max_num_batched_tokens, padded_seqs);
  step_limits_.max_seqs = padded_seqs;
  step_limits_.max_items = decode_items_for(padded_seqs, geometry_);
  step_limits_.max_tiles = options_.max_num_seqs + divide_up(options_.max_num_batched_tokens, kPrefillTile);
  step_limits_.table_entries = options_.max_num_seqs * divide_up(limits_.max_model_len, options_.block_size);
  if (options_.sparse_kv) {
    step_limits_.max_sparse = padded_seqs;
    step_limits_.table_entries *= 2;  // blocks to copy to
  }
  Result<Memory> inputs = Memory::device(StepInputs::bytes_needed(step_limits_), "a step's inputs");
  if (!inputs) return inputs.error();
  device_inputs_ = std::move(*inputs);
  if (Result<void> done = check_cuda(cudaMemset(device_inputs_.data(), 0, device_inputs_.bytes()), "a step's inputs"); !done)
    return done;
  inputs_ = StepInputs::at(device_inputs_.data(), step_limits_);
  Result<std::unique_ptr<Forward>> forward =
      Forward::create(model_, step_limits_, options_.max_num_seqs, geometry_, collective_.get());
  if (!forward) return forward.error();
  forward_ = std::move(*forward);
  return {};
}

Result<void> CudaDevice::allocate_pool(const model::ModelSpec& spec) {
  pool_view_.layer_elements = std::int64_t{2} * spec.num_kv_heads * options_.block_size * spec.head_dim;
  pool_view_.block_elements = pool_view_.layer_elements * spec.num_layers;
  const std::size_t kv_bytes = block_stride(static_cast<std::size_t>(pool_view_.block_elements) * bytes_of(element_));
  pool_view_.block_elements = static_cast<std::int64_t>(kv_bytes / bytes_of(element_));
  const std::size_t metadata_bytes = options_.sparse_kv ? SparseMemory::metadata_bytes(spec, options_.block_size) : 0;
  info_.kv_block_bytes = kv_bytes + metadata_bytes;
  std::size_t free_bytes = 0, total_bytes = 0;
  if (Result<void> done = check_cuda(cudaMemGetInfo(&free_bytes, &total_bytes), "memory info"); !done) return done;
  std::size_t bytes = options_.kv_cache_memory_bytes;
  const std::string used = gigabytes(model_.weight_bytes) + " of weights and " + gigabytes(forward_->bytes()) +
                           " for the largest step";
  if (bytes == 0) {
    const auto wanted = static_cast<std::size_t>(static_cast<double>(total_bytes) * cuda_.gpu_memory_utilization);
    const std::size_t taken = total_bytes - free_bytes + kReserveBytes;
    if (wanted < taken + info_.kv_block_bytes) {
      return Error{Errc::kOutOfMemory,
                   "no room for a KV cache: " + gigabytes(taken) + " of the GPU's " + gigabytes(total_bytes) +
                       " are taken (" + used + "), --gpu-memory-utilization allows " + gigabytes(wanted) +
                       "; raise it, lower --max-num-batched-tokens, or use a smaller model"};
    }
    bytes = wanted - taken;
  } else if (bytes > free_bytes) {
    return Error{Errc::kOutOfMemory, "--kv-cache-memory-bytes is " + gigabytes(bytes) + ", but only " +
                                         gigabytes(free_bytes) + " of the GPU's " + gigabytes(total_bytes) +
                                         " are free beside " + used};
  }
  const std::size_t scratch = options_.sparse_kv ? SparseMemory::scratch_bytes(spec, options_.block_size) : 0;
  std::uint64_t blocks =
      std::min<std::size_t>(bytes / (info_.kv_block_bytes + scratch), 0x7fffffff / options_.block_size);
  if (rank_.group != nullptr && !rank_.group->smallest(blocks)) return another_failed();
  info_.num_blocks = static_cast<std::uint32_t>(blocks);
  Result<Memory> pool = Memory::device(blocks * kv_bytes, "the KV cache (--kv-cache-memory-bytes)");
  if (!pool) return pool.error();
  pool_ = std::move(*pool);
  pool_view_.data = pool_.data();
  // Finite numbers: a masked key's weight is zero, and zero times what lies in fresh memory might be no number.
  if (Result<void> done = check_cuda(cudaMemset(pool_.data(), 0, pool_.bytes()), "clearing the KV cache"); !done)
    return done;
  if (options_.sparse_kv) {
    Result<std::unique_ptr<SparseMemory>> sparse = SparseMemory::create(
        spec, {pool_.data(), kv_bytes, info_.num_blocks, options_.block_size, options_.max_num_seqs}, step_limits_);
    if (!sparse) return sparse.error();
    sparse_ = std::move(*sparse);
    pool_view_.sparse = sparse_.get();
  }
  info_.num_host_blocks = static_cast<std::uint32_t>(options_.host_pool_bytes / info_.kv_block_bytes);
  if (info_.num_host_blocks > 0) {
    Result<Memory> host = Memory::pinned(info_.num_host_blocks * info_.kv_block_bytes, "the host's KV pool");
    if (!host) return host.error();
    host_pool_ = std::move(*host);
  }
  block_parts_.push_back({pool_.as<char>(), host_pool_.as<char>(), kv_bytes});
  if (sparse_ != nullptr)
    block_parts_.push_back({sparse_->metadata(), host_pool_.as<char>() + info_.num_host_blocks * kv_bytes,
                            metadata_bytes / static_cast<std::size_t>(spec.num_layers), static_cast<std::size_t>(spec.num_layers)});
  return {};
}

Result<void> CudaDevice::make_slots() {
  slots_.resize(options_.max_steps_in_flight);
  const std::size_t seqs = step_limits_.max_seqs;
  for (StepSlot& slot : slots_) {
    Result<Memory> inputs = Memory::pinned(StepInputs::bytes_needed(step_limits_), "a step's inputs");
    if (!inputs) return inputs.error();
    slot.inputs = std::move(*inputs);
    slot.host = StepInputs::at(slot.inputs.data(), step_limits_);
    Result<Memory> arrived = Memory::device(StepInputs::bytes_needed(step_limits_), "a step's inputs");
    if (!arrived) return arrived.error();
    slot.arrived_inputs = std::move(*arrived);
    slot.arrived = StepInputs::at(slot.arrived_inputs.data(), step_limits_);
    const std::size_t row_bytes = (seqs * sizeof(SampledRow) + 15) / 16 * 16;
    Result<Memory> results = Memory::pinned(row_bytes + seqs * kTopMax * 8, "a step's results");
    if (!results) return results.error();
    slot.results = std::move(*results);
    Result<Memory> left = Memory::device(slot.results.bytes(), "a step's results");
    if (!left) return left.error();
    slot.left_results = std::move(*left);
    slot.rows = slot.results.as<SampledRow>();
    slot.top_tokens = reinterpret_cast<std::int32_t*>(slot.results.as<char>() + row_bytes);
    slot.top_logprobs = reinterpret_cast<float*>(slot.top_tokens + seqs * kTopMax);
    if (cuda_.on_logits) slot.logits.resize(seqs * vocab_);
    if (options_.sparse_kv) {
      Result<Memory> emptied = Memory::pinned(step_limits_.table_entries, "blocks that ran empty");
      if (!emptied) return emptied.error();
      slot.emptied = std::move(*emptied);
    }
    for (cudaEvent_t* event : {&slot.begin, &slot.end})
      if (Result<void> done = check_cuda(cudaEventCreate(event), "event"); !done) return done;
    for (cudaEvent_t* event : {&slot.inputs_there, &slot.done})
      if (Result<void> done = check_cuda(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "event"); !done) return done;
  }
  Result<std::unique_ptr<BlockCopies>> copies =
      BlockCopies::create({block_parts_, info_.num_blocks, info_.num_host_blocks}, static_cast<bool>(cuda_.on_span));
  if (!copies) return copies.error();
  copies_ = std::move(*copies);
  if (!cuda_.on_span) return {};
  if (Result<void> done = check_cuda(cudaEventCreate(&origin_), "event"); !done) return done;
  if (Result<void> done = check_cuda(cudaEventRecord(origin_, compute_), "event"); !done) return done;
  if (Result<void> done = check_cuda(cudaEventSynchronize(origin_), "event"); !done) return done;
  origin_ns_ = std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
                   .count();
  return {};
}

Result<void> CudaDevice::warm_up() {
  // What was cleared and copied at start went through the default stream, which our streams do not wait for.
  if (Result<void> done = check_cuda(cudaDeviceSynchronize(), "start"); !done) return done;
  // Zero inputs are a valid padded step: no item counts, no slot is written, nothing is drawn.
  StepSlot& slot = slots_.front();
  StepPlan nothing;
  std::vector<std::uint32_t> sampled;
  (void)fill_inputs(nothing, rows_, geometry_, step_limits_.max_seqs, slot.host, sampled);
  if (Result<void> done = check_cuda(cudaMemcpyAsync(device_inputs_.data(), slot.inputs.data(), slot.host.head_bytes,
                                                     cudaMemcpyHostToDevice, compute_),
                                     "a step's inputs");
      !done)
    return done;
  if (cuda_.graphs && geometry_.fast_decode) {
    Result<std::unique_ptr<DecodeGraphs>> graphs =
        DecodeGraphs::capture(*forward_, inputs_, pool_view_, geometry_, options_.max_num_seqs, false, compute_);
    if (!graphs) return graphs.error();
    graphs_ = std::move(*graphs);
    if (options_.sparse_kv) {
      Result<std::unique_ptr<DecodeGraphs>> sparse =
          DecodeGraphs::capture(*forward_, inputs_, pool_view_, geometry_, options_.max_num_seqs, true, compute_);
      if (!sparse) return sparse.error();
      sparse_graphs_ = std::move(*sparse);
    }
  }
  if (Result<void> done = check_cuda(cudaStreamSynchronize(compute_), "warm-up"); !done) return done;
  return forward_->status();
}

Result<void> CudaDevice::start(const CreateArgs& args) {
  const model::ModelSpec& whole = *args.spec;
  const model::ModelSpec spec = shard_of(whole, rank_.shard);
  vocab_ = static_cast<std::uint32_t>(spec.vocab_size);
  limits_.max_num_seqs = options_.max_num_seqs;
  limits_.max_num_batched_tokens = options_.max_num_batched_tokens;
  limits_.max_model_len =
      options_.max_model_len != 0 ? options_.max_model_len : static_cast<std::uint32_t>(spec.max_position);
  limits_.block_size = options_.block_size;
  limits_.vocab_size = vocab_;
  limits_.sparse_kv = options_.sparse_kv;
  rows_.resize(options_.max_num_seqs);
  if (Result<void> done = open(spec); !done) return done;
  if (rank_.group != nullptr) {
    if (!rank_.group->meet()) return another_failed();
    Result<std::unique_ptr<Collective>> joined = Collective::join(rank_.group->id(), rank_.shard.rank, rank_.shard.size);
    if (!joined) return joined.error();
    collective_ = std::move(*joined);
  }
  static const std::function<void(const model::TensorView&)> kNobody;
  const bool packs = element_ != Element::kF32 && overlaps_launches() && !cuda_.dequantize;
  Result<CudaModel> model =
      cuda_.dummy_weights
          ? CudaModel::random(whole, element_, packs ? cuda_.dummy_dtype : model::DType::kBF16, rank_.shard, compute_)
          : CudaModel::upload(whole, *args.weights, element_, packs, rank_.shard,
                              args.on_uploaded != nullptr ? *args.on_uploaded : kNobody, compute_);
  if (!model) return model.error();
  model_ = std::move(*model);
  if (Result<void> done = size_step(spec); !done) return done;
  if (Result<void> done = allocate_pool(spec); !done) return done;
  limits_.num_blocks = info_.num_blocks;
  if (Result<void> done = make_slots(); !done) return done;
  if (rank_.group != nullptr && !rank_.group->meet()) return another_failed();
  if (Result<void> done = warm_up(); !done) return done;
  if (cuda_.trace_kernels && cuda_.on_span) {
    Result<std::unique_ptr<KernelTrace>> trace = KernelTrace::start();
    if (!trace) return trace.error();
    kernel_trace_ = std::move(*trace);
  }
  if (rank_.group != nullptr && !rank_.group->meet()) return another_failed();
  info_.name = std::string("cuda:") + std::to_string(cuda_.ordinal) + " (" + properties_.name + ", " +
               (element_ == Element::kBF16  ? "bf16"
                : element_ == Element::kF16 ? "fp16"
                                            : "fp32") +
               ")";
  info_.needs_polling = true;
  return {};
}

void CudaDevice::lose(const Error& why) {
  if (lost_.empty()) lost_ = info_.name + " failed: " + why.message;
}

Result<void> CudaDevice::admits(const StepPlan& plan) const {
  if (!lost_.empty()) return Error{Errc::kDeviceFailed, lost_};
  if (Result<void> valid = validate_plan(plan, limits_); !valid) return valid;
  if (sparse_ != nullptr) {
    if (const std::string wrong = unsupported_sparse(plan, sparse_->slots_max()); !wrong.empty())
      return Error{Errc::kInvalidArgument, "step " + std::to_string(plan.step) + ": " + wrong};
  }
  for (const RowInit& init : plan.row_inits) {
    if (init.params.logprobs > kTopMax) {
      return Error{Errc::kInvalidArgument, "logprobs is " + std::to_string(init.params.logprobs) +
                                               "; a CUDA device gives up to " + std::to_string(kTopMax)};
    }
  }
  if (last_step_ - done_step_ >= slots_.size())
    return Error{Errc::kQueueFull, std::to_string(slots_.size()) + " steps are in flight, the most allowed"};
  if (plan.wait_for_copy > copies_->last()) {
    return Error{Errc::kInvalidArgument, "step " + std::to_string(plan.step) + " waits for copy " +
                                             std::to_string(plan.wait_for_copy) + ", the last one submitted is " +
                                             std::to_string(copies_->last())};
  }
  return {};
}

Result<Ticket> CudaDevice::submit(StepPlan plan) {
  if (Result<void> good = admits(plan); !good) return good.error();
  (void)cudaSetDevice(cuda_.ordinal);
  const Ticket ticket = ++last_step_;
  StepSlot& slot = slots_[ticket % slots_.size()];
  slot.ticket = ticket;
  slot.plan = std::move(plan);
  const StepPlan& p = slot.plan;
  nvtxRangePushA(("step " + std::to_string(p.step)).c_str());

  copies_->hold(compute_, p.wait_for_copy);
  for (const RowInit& init : p.row_inits) {
    const auto row = static_cast<std::uint32_t>(init.row);
    rows_[row] = {init.params, init.choice};
    if (init.params.has_penalties()) forward_->reset_penalties(row, init.prompt_tokens, init.output_tokens, compute_);
  }
  const bool decodes = std::all_of(p.sequences.begin(), p.sequences.end(),
                                   [](const SequenceStep& s) { return s.token_count == 1; });
  const auto sequences = static_cast<std::uint32_t>(p.sequences.size());
  const std::uint32_t bucket = decodes && graphs_ != nullptr ? DecodeGraphs::bucket_for(sequences) : 0;
  const StepShape shape = fill_inputs(p, rows_, geometry_, bucket, slot.host, slot.sampled);
  slot.logprobs.clear();
  bool wants_top = false;
  for (const std::uint32_t index : slot.sampled) {
    const auto row = static_cast<std::uint32_t>(p.sequences[index].row);
    slot.logprobs.push_back(rows_[row].params.logprobs);
    wants_top |= slot.logprobs.back() > 0;
  }

  launch_pinned_copies(copies_of(slot.host, slot.arrived, shape), inputs_stream_);
  (void)cudaEventRecord(slot.inputs_there, inputs_stream_);
  (void)cudaStreamWaitEvent(compute_, slot.inputs_there, 0);
  (void)cudaEventRecord(slot.begin, compute_);
  launch_pinned_copies(copies_of(slot.arrived, inputs_, shape), compute_);
  if (ticket == cuda_.fault_at_step) launch_fault(compute_);
  enqueue(slot, shape, bucket);
  const std::size_t samples = slot.sampled.size();
  const std::size_t tops = wants_top ? samples * kTopMax * 4 : 0;
  const auto left = [&slot](const void* pinned) {  // the same place on the device
    return slot.left_results.as<char>() + (static_cast<const char*>(pinned) - slot.results.as<char>());
  };
  launch_pinned_copies(std::array<PinnedCopy, 3>{{{forward_->results(), left(slot.rows), samples * sizeof(SampledRow)},
                                                  {forward_->top_tokens(), left(slot.top_tokens), tops},
                                                  {forward_->top_logprobs(), left(slot.top_logprobs), tops}}},
                       compute_);
  if (cuda_.on_logits && samples > 0) {
    (void)cudaMemcpyAsync(slot.logits.data(), forward_->logits(), samples * vocab_ * 4, cudaMemcpyDeviceToHost,
                          compute_);
  }
  (void)cudaEventRecord(slot.end, compute_);
  (void)cudaStreamWaitEvent(results_stream_, slot.end, 0);
  launch_pinned_copies(std::array<PinnedCopy, 3>{{{left(slot.rows), slot.rows, samples * sizeof(SampledRow)},
                                                  {left(slot.top_tokens), slot.top_tokens, tops},
                                                  {left(slot.top_logprobs), slot.top_logprobs, tops}}},
                       results_stream_);
  (void)cudaEventRecord(slot.done, results_stream_);
  nvtxRangePop();
  if (Result<void> good = forward_->status(); !good) {
    // The step counts as submitted: poll() ends it, failed, with all that are under way.
    lose(good.error());
  }
  return ticket;
}

void CudaDevice::enqueue(StepSlot& slot, const StepShape& shape, std::uint32_t bucket) {
  const bool sparse = shape.sparse.sequences > 0;
  if (sparse) {
    (void)cudaMemcpyAsync(inputs_.num_sparse, slot.host.num_sparse, slot.host.sparse_bytes, cudaMemcpyHostToDevice, compute_);
    sparse_->begin(inputs_, shape.sparse, compute_);
  }
  if (bucket != 0) {
    (sparse ? sparse_graphs_ : graphs_)->launch(bucket, compute_);
  } else {
    forward_->enqueue(shape, inputs_, pool_view_, false, compute_);
  }
  if (!sparse) return;
  const model::ModelSpec& spec = model_.spec;
  sparse_->finish(inputs_, shape.sparse, spec.head_dim * static_cast<int>(bytes_of(element_)), compute_);
  if (shape.sparse.freed_blocks > 0) {
    (void)cudaMemcpyAsync(slot.emptied.data(), sparse_->emptied(), shape.table_entries, cudaMemcpyDeviceToHost, compute_);
  }
}

void CudaDevice::tell_span(const char* name, cudaEvent_t begin, cudaEvent_t end) {
  if (!cuda_.on_span || !lost_.empty()) return;
  float from_ms = 0, to_ms = 0;
  (void)cudaEventElapsedTime(&from_ms, origin_, begin);
  (void)cudaEventElapsedTime(&to_ms, origin_, end);
  const auto ns = [this](float ms) { return origin_ns_ + static_cast<std::int64_t>(static_cast<double>(ms) * 1e6); };
  cuda_.on_span(name, ns(from_ms), ns(to_ms));
}

StepResult CudaDevice::collect(StepSlot& slot) {
  StepResult result;
  result.step = slot.plan.step;
  if (!lost_.empty()) {
    result.failed = true;
    result.message = lost_;
    return result;
  }
  float ms = 0;
  (void)cudaEventElapsedTime(&ms, slot.begin, slot.end);
  result.device_ns = static_cast<std::int64_t>(static_cast<double>(ms) * 1e6);
  if (sparse_ != nullptr) collect_emptied(slot.plan, slot.host, slot.emptied.as<std::uint8_t>(), options_.block_size, result);
  if (cuda_.on_slots && sparse_ != nullptr) tell_slots(slot.plan, slot.host, sparse_->slots(inputs_, {}), cuda_.on_slots);
  for (std::size_t i = 0; i < slot.sampled.size(); ++i) {
    const SampledRow& row = slot.rows[i];
    if (cuda_.on_logits) {
      cuda_.on_logits(slot.plan, slot.sampled[i], std::span<const float>(slot.logits.data() + i * vocab_, vocab_));
    }
    if (row.bad != 0) {
      result.failed = true;
      result.message = "step " + std::to_string(result.step) + ", sequence " + std::to_string(slot.sampled[i]) +
                       ": the model's logits are not finite numbers (damaged weights or KV cache)";
      result.tokens.clear();
      return result;
    }
    SampledToken token{slot.sampled[i], row.token, row.logprob, {}};
    const std::int32_t top = std::min(slot.logprobs[i], static_cast<std::int32_t>(vocab_));
    for (std::int32_t k = 0; k < top; ++k) {
      const std::size_t at = i * kTopMax + static_cast<std::size_t>(k);
      token.top.push_back({slot.top_tokens[at], slot.top_logprobs[at]});
    }
    result.tokens.push_back(std::move(token));
  }
  return result;
}

StepResult CudaDevice::take(Ticket ticket) {
  const auto found =
      std::find_if(results_.begin(), results_.end(), [ticket](const auto& entry) { return entry.first == ticket; });
  SPW_CHECK(found != results_.end());  // not completed, or taken before
  StepResult result = std::move(found->second);
  results_.erase(found);
  return result;
}

Result<void> CudaDevice::admits(const CopyPlan& plan) const {
  if (!lost_.empty()) return Error{Errc::kDeviceFailed, lost_};
  if (plan.wait_for_step > last_step_) {
    return Error{Errc::kInvalidArgument, "a copy waits for step ticket " + std::to_string(plan.wait_for_step) +
                                             ", the last one submitted is " + std::to_string(last_step_)};
  }
  return copies_->check(plan);
}

Result<Ticket> CudaDevice::copy(CopyPlan plan) {
  if (Result<void> good = admits(plan); !good) return good.error();
  (void)cudaSetDevice(cuda_.ordinal);
  const bool waits = plan.wait_for_step > done_step_;
  nvtxRangePushA("copy of blocks");
  Result<Ticket> ticket = copies_->copy(plan, waits ? slots_[plan.wait_for_step % slots_.size()].end : nullptr);
  nvtxRangePop();
  if (Result<void> good = check_cuda(cudaPeekAtLastError(), "block copy"); !good) lose(good.error());
  return ticket;
}

bool CudaDevice::poll() noexcept {
  if (done_step_ == last_step_ && copies_->done() == copies_->last()) return false;
  if (kernel_trace_ != nullptr) kernel_trace_->drain(cuda_.on_span);
  (void)cudaSetDevice(cuda_.ordinal);
  const auto passed = [this](cudaEvent_t event) {
    if (!lost_.empty()) return true;
    const cudaError_t code = cudaEventQuery(event);
    if (code == cudaErrorNotReady) {
      (void)cudaGetLastError();
      return false;
    }
    if (code != cudaSuccess) lose(cuda_error(code, "a step or copy"));
    return true;
  };
  while (copies_->done() < copies_->last()) {
    const BlockCopies::Events events = copies_->events(copies_->done() + 1);
    if (!passed(events.end)) break;
    copies_->finish_oldest();
    if (events.begin != nullptr) tell_span("copy", events.begin, events.end);
    if (sink_ != nullptr) sink_->on_copy_complete(copies_->done());
  }
  while (done_step_ < last_step_) {
    StepSlot& slot = slots_[(done_step_ + 1) % slots_.size()];
    if (!passed(slot.done)) break;
    results_.emplace_back(slot.ticket, collect(slot));
    tell_span("step", slot.begin, slot.end);
    ++done_step_;
    if (sink_ != nullptr) sink_->on_step_complete(done_step_);
  }
  return done_step_ != last_step_ || copies_->done() != copies_->last();
}

}  // namespace

Result<std::unique_ptr<RankDevice>> create_rank_device(const CreateArgs& args, const Rank& rank) {
  const DeviceOptions& options = *args.options;
  const auto refuse = [](std::string what) { return Error{Errc::kInvalidArgument, std::move(what)}; };
  if (options.max_num_seqs == 0) return refuse("max_num_seqs must be at least 1");
  if (options.max_num_batched_tokens == 0) return refuse("max_num_batched_tokens must be at least 1");
  if (options.max_steps_in_flight == 0) return refuse("max_steps_in_flight must be at least 1");
  const model::ModelSpec& spec = *args.spec;
  if (spec.position == model::PositionKind::kLearned && !args.cuda->dummy_weights) {
    const std::uint64_t rows = args.weights->position_embedding.rows();
    const auto offset = static_cast<std::uint64_t>(spec.position_offset);
    const std::uint32_t length =
        options.max_model_len != 0 ? options.max_model_len : static_cast<std::uint32_t>(spec.max_position);
    if (length + offset > rows) {
      return refuse("max_model_len = " + std::to_string(length) + " is more than the " +
                    std::to_string(rows > offset ? rows - offset : 0) + " positions the model has embeddings for");
    }
  }
  auto device = std::make_unique<CudaDevice>(options, *args.cuda, rank);
  if (Result<void> started = device->start(args); !started) {
    if (rank.group != nullptr) rank.group->give_up();
    return started.error();
  }
  return std::unique_ptr<RankDevice>(std::move(device));
}

Result<std::unique_ptr<Device>> create_cuda_device(const CreateArgs& args) {
  if (args.cuda->tensor_parallel_size > 1) return create_tensor_parallel_device(args);
  Result<std::unique_ptr<RankDevice>> device = create_rank_device(args, {});
  if (!device) return device.error();
  return std::unique_ptr<Device>(std::move(*device));
}

}  // namespace spillway::gpu::cuda

extern "C" __attribute__((visibility("default"))) void spillway_cuda_create(
    const spillway::gpu::cuda::CreateArgs& args,
    spillway::Result<std::unique_ptr<spillway::gpu::Device>>* result) {
  *result = spillway::gpu::cuda::create_cuda_device(args);
}
