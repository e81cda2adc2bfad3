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
#include "gpu/cuda/device_limits.hpp"
#include "gpu/cuda/forward.hpp"
#include "gpu/cuda/kernel_trace.hpp"
#include "gpu/cuda/kv_pool.hpp"
#include "gpu/cuda/launch.hpp"
#include "gpu/cuda/pinned_copy.hpp"
#include "gpu/cuda/sparse_results.hpp"
#include "gpu/cuda/step_slot.hpp"
#include "gpu/cuda/tensor_parallel.hpp"
#include "gpu/plan_limits.hpp"
#include "runtime/check.hpp"

namespace spillway::gpu::cuda {
namespace {

std::uint32_t divide_up(std::uint32_t a, std::uint32_t b) { return (a + b - 1) / b; }

class CudaDevice final : public ranks::RankDevice {
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
  Result<void> make_pool(const model::ModelSpec& spec);
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
  std::unique_ptr<DecodeGraphs> graphs_, sparse_graphs_;
  Memory device_inputs_;
  StepInputs inputs_;
  std::unique_ptr<KvPool> pool_;

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
  slots_.clear();
  if (origin_ != nullptr) (void)cudaEventDestroy(origin_);
  for (const cudaStream_t stream : {compute_, inputs_stream_, results_stream_})
    if (stream != nullptr) (void)cudaStreamDestroy(stream);
}

Result<void> CudaDevice::open(const model::ModelSpec& spec) {
  Result<cudaDeviceProp> gpu = find_gpu(cuda_.ordinal);
  if (!gpu) return gpu.error();
  properties_ = *gpu;
  if (Result<void> good = check_shape(options_, spec, rank_.shard.size); !good) return good;
  element_ = element_of(options_.kv_dtype);
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
  geometry_.grouped_decode = has_grouped_decode(spec.head_dim, spec.num_heads, spec.num_kv_heads);
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

Result<void> CudaDevice::make_pool(const model::ModelSpec& spec) {
  Result<std::unique_ptr<KvPool>> pool =
      KvPool::create(spec, {options_, cuda_.gpu_memory_utilization, element_, step_limits_, rank_.group,
                            gigabytes(model_.weight_bytes) + " of weights and " + gigabytes(forward_->bytes()) +
                                " for the largest step"});
  if (!pool) return pool.error();
  pool_ = std::move(*pool);
  info_.kv_block_bytes = pool_->block_bytes();
  info_.num_blocks = pool_->num_blocks();
  info_.num_host_blocks = pool_->num_host_blocks();
  return {};
}

Result<void> CudaDevice::make_slots() {
  slots_ = std::vector<StepSlot>(options_.max_steps_in_flight);
  for (StepSlot& slot : slots_)
    if (Result<void> done = slot.allocate(step_limits_, cuda_.on_logits ? vocab_ : 0); !done) return done;
  Result<std::unique_ptr<BlockCopies>> copies =
      BlockCopies::create(pool_->blocks(), static_cast<bool>(cuda_.on_span));
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
        DecodeGraphs::capture(*forward_, inputs_, pool_->view(), geometry_, options_.max_num_seqs, false, compute_);
    if (!graphs) return graphs.error();
    graphs_ = std::move(*graphs);
    if (options_.sparse_kv) {
      Result<std::unique_ptr<DecodeGraphs>> sparse =
          DecodeGraphs::capture(*forward_, inputs_, pool_->view(), geometry_, options_.max_num_seqs, true, compute_);
      if (!sparse) return sparse.error();
      sparse_graphs_ = std::move(*sparse);
    }
  }
  forward_->tune(options_.max_num_batched_tokens, compute_);
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
    if (!rank_.group->meet()) return ranks::another_failed();
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
  if (Result<void> done = make_pool(spec); !done) return done;
  limits_.num_blocks = info_.num_blocks;
  if (Result<void> done = make_slots(); !done) return done;
  if (rank_.group != nullptr && !rank_.group->meet()) return ranks::another_failed();
  if (Result<void> done = warm_up(); !done) return done;
  if (cuda_.trace_kernels && cuda_.on_span) {
    Result<std::unique_ptr<KernelTrace>> trace = KernelTrace::start();
    if (!trace) return trace.error();
    kernel_trace_ = std::move(*trace);
  }
  if (rank_.group != nullptr && !rank_.group->meet()) return ranks::another_failed();
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
  if (pool_->sparse() != nullptr) {
    if (const std::string wrong = unsupported_sparse(plan, pool_->sparse()->slots_max()); !wrong.empty())
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
  launch_pinned_copies(std::array<PinnedCopy, 3>{{{forward_->results(), slot.left(slot.rows), samples * sizeof(SampledRow)},
                                                  {forward_->top_tokens(), slot.left(slot.top_tokens), tops},
                                                  {forward_->top_logprobs(), slot.left(slot.top_logprobs), tops}}},
                       compute_);
  if (cuda_.on_logits && samples > 0) {
    (void)cudaMemcpyAsync(slot.logits.data(), forward_->logits(), samples * vocab_ * 4, cudaMemcpyDeviceToHost,
                          compute_);
  }
  (void)cudaEventRecord(slot.end, compute_);
  (void)cudaStreamWaitEvent(results_stream_, slot.end, 0);
  launch_pinned_copies(std::array<PinnedCopy, 3>{{{slot.left(slot.rows), slot.rows, samples * sizeof(SampledRow)},
                                                  {slot.left(slot.top_tokens), slot.top_tokens, tops},
                                                  {slot.left(slot.top_logprobs), slot.top_logprobs, tops}}},
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
  if (sparse) pool_->sparse()->begin(inputs_, shape.sparse, compute_);
  if (bucket != 0) {
    (sparse ? sparse_graphs_ : graphs_)->launch(bucket, compute_);
  } else {
    forward_->enqueue(shape, inputs_, pool_->view(), false, compute_);
  }
  if (!sparse) return;
  const model::ModelSpec& spec = model_.spec;
  pool_->sparse()->finish(inputs_, shape.sparse, spec.head_dim * static_cast<int>(bytes_of(element_)), compute_);
  if (shape.sparse.freed_blocks > 0) {
    launch_pinned_copies(
        std::array<PinnedCopy, 1>{{{pool_->sparse()->emptied(), slot.emptied.data(), shape.table_entries}}}, compute_);
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
  if (const SparseMemory* const sparse = pool_->sparse(); sparse != nullptr) {
    collect_emptied(slot.plan, slot.host, slot.emptied.as<std::uint8_t>(), options_.block_size, result);
    if (cuda_.on_slots) tell_slots(slot.plan, slot.host, sparse->slots(inputs_, {}), cuda_.on_slots);
  }
  slot.read_tokens(vocab_, cuda_.on_logits, result);
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

Result<std::unique_ptr<ranks::RankDevice>> create_rank_device(const CreateArgs& args, const Rank& rank) {
  const DeviceOptions& options = *args.options;
  if (Result<void> good = check_options(args); !good) return good.error();
  auto device = std::make_unique<CudaDevice>(options, *args.cuda, rank);
  if (Result<void> started = device->start(args); !started) return started.error();
  return std::unique_ptr<ranks::RankDevice>(std::move(device));
}

Result<std::unique_ptr<Device>> create_cuda_device(const CreateArgs& args) {
  if (args.cuda->tensor_parallel_size > 1) return create_tensor_parallel_device(args);
  Result<std::unique_ptr<ranks::RankDevice>> device = create_rank_device(args, {});
  if (!device) return device.error();
  return std::unique_ptr<Device>(std::move(*device));
}

}  // namespace spillway::gpu::cuda

extern "C" __attribute__((visibility("default"))) void spillway_cuda_create(
    const spillway::gpu::cuda::CreateArgs& args,
    spillway::Result<std::unique_ptr<spillway::gpu::Device>>* result) {
  *result = spillway::gpu::cuda::create_cuda_device(args);
}
