// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/host_device.hpp"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "gpu/host/forward.hpp"
#include "gpu/host/host_model.hpp"
#include "gpu/host/kv_pool.hpp"
#include "gpu/host/page_populator.hpp"
#include "gpu/host/sampler.hpp"
#include "gpu/plan_limits.hpp"

namespace spillway::gpu::host {
namespace {

std::int64_t steady_now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::uint32_t available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return std::max<std::uint32_t>(1, static_cast<std::uint32_t>(CPU_COUNT(&set)));
}

std::string_view display_name(CpuTarget target) {
  switch (target) {
    case CpuTarget::kScalar:
      return "scalar";
    case CpuTarget::kAvx2:
      return "AVX2";
    case CpuTarget::kAvx512Vnni:
      return "AVX-512 VNNI";
    case CpuTarget::kAvx512Bf16:
      return "AVX-512 VNNI, BF16";
    case CpuTarget::kAmx:
      return "AVX-512 VNNI, AMX";
  }
  return "?";
}

/// Executes plans: everything that only the device's thread and its team touch.
class Executor {
 public:
  Executor(HostModel model, const KvLayout& layout, KvPool pool, KvPool host_pool,
           const DeviceOptions& options, const HostOptions& host_options, std::unique_ptr<ThreadTeam> team,
           CpuTarget target)
      : model_(std::move(model)),
        layout_(layout),
        pool_(std::move(pool)),
        host_pool_(std::move(host_pool)),
        host_options_(host_options),
        team_(std::move(team)),
        row_kernels_(row_kernels(target)),
        forward_(model_, layout_, target,
                 {options.max_num_batched_tokens, options.max_num_seqs, options.max_model_len, team_->size(),
                  host_options.mode}),
        rows_(options.max_num_seqs),
        sampler_scratch_(team_->size()) {
    tokens_.reserve(options.max_num_batched_tokens);
    if (host_options.resident_kv_bytes > 0)
      populator_.emplace(pool_.data(), pool_.mapped_bytes(), host_options.resident_kv_bytes);
  }

  [[nodiscard]] StepResult step(const StepPlan& plan) {
    StepResult result;
    result.step = plan.step;
    const std::int64_t begin_ns = host_options_.clock();
    if (host_options_.fail_step && host_options_.fail_step(plan)) {
      result.failed = true;
      result.message = "step " + std::to_string(plan.step) + ": failure injected";
    } else {
      execute(plan, result);
    }
    const std::int64_t end_ns = host_options_.clock();
    result.device_ns = end_ns - begin_ns;
    if (host_options_.span_hook != nullptr) host_options_.span_hook->on_span("step", begin_ns, end_ns);
    return result;
  }

  void copy(const CopyPlan& plan) {
    const std::int64_t begin_ns = host_options_.clock();
    const KvPool& from = plan.direction == CopyPlan::Direction::kHostToDevice ? host_pool_ : pool_;
    const KvPool& to = plan.direction == CopyPlan::Direction::kDeviceToHost ? host_pool_ : pool_;
    for (const CopyPlan::Pair& pair : plan.blocks) {
      std::memmove(to.block(pair.to), from.block(pair.from), layout_.block_bytes);
    }
    if (host_options_.span_hook != nullptr)
      host_options_.span_hook->on_span("copy", begin_ns, host_options_.clock());
  }

  [[nodiscard]] const std::array<std::int64_t, kPhases>& phase_sums_ns() const noexcept {
    return phase_sums_ns_;
  }
  [[nodiscard]] std::size_t weight_bytes() const noexcept { return model_.arena->allocated_bytes(); }
  [[nodiscard]] std::size_t activation_bytes() const noexcept { return forward_.activation_bytes(); }

 private:
  void execute(const StepPlan& plan, StepResult& result) {
    for (const RowInit& init : plan.row_inits) rows_[static_cast<std::uint32_t>(init.row)].reset(init);
    tokens_.assign(plan.tokens.begin(), plan.tokens.end());
    for (const SequenceStep& sequence : plan.sequences) {
      if (!sequence.token_from_row) continue;
      tokens_[sequence.token_offset] = rows_[static_cast<std::uint32_t>(sequence.row)].last_token;
    }
    if (populator_) reach_ahead(plan);
    forward_.prepare(plan, tokens_);
    const std::uint32_t samples = forward_.num_samples();
    result.tokens.resize(samples);
    statuses_.assign(samples, SampleStatus::kOk);

    PhaseTimer timer(host_options_.clock, host_options_.span_hook, host_options_.phase_sums);
    team_->run([&](TeamMember& member) {
      forward_.run(member, pool_.data(), timer);
      if (samples == 0) return;
      if (host_options_.on_logits) {
        if (member.index() == 0) {
          for (std::uint32_t i = 0; i < samples; ++i) {
            host_options_.on_logits(plan, forward_.sampled_sequence(i), forward_.logits(i));
          }
        }
        member.barrier();
      }
      member.for_chunks(samples,
                        [&](std::uint32_t i) { draw(plan, i, sampler_scratch_[member.index()], result); });
      member.barrier();
      timer.mark(member, Phase::kSampling);
    });
    forward_.report_emptied(pool_.data(), result);
    for (std::size_t i = 0; i < kPhases; ++i) phase_sums_ns_[i] += timer.sums_ns()[i];

    for (std::uint32_t i = 0; i < samples; ++i) {
      if (statuses_[i] == SampleStatus::kOk) continue;
      result.failed = true;
      result.message = "step " + std::to_string(plan.step) + ", sequence " +
                       std::to_string(forward_.sampled_sequence(i)) +
                       ": the model's logits are not finite numbers (damaged weights or KV cache)";
      result.tokens.clear();
      return;
    }
  }

  /// Sequences that have got beyond the memory that is resident will want more soon.
  void reach_ahead(const StepPlan& plan) {
    constexpr std::size_t kAhead = std::size_t{32} << 20;
    if (plan.block_table.empty()) return;
    const auto last = static_cast<std::size_t>(*std::ranges::max_element(plan.block_table));
    const std::size_t reached = (last + 1) * layout_.block_bytes;
    if (reached > host_options_.resident_kv_bytes) populator_->extend_to(reached + kAhead);
  }

  void draw(const StepPlan& plan, std::uint32_t i, SamplerScratch& scratch, StepResult& result) {
    const std::uint32_t index = forward_.sampled_sequence(i);
    const SequenceStep& sequence = plan.sequences[index];
    SamplerRow& row = rows_[static_cast<std::uint32_t>(sequence.row)];
    SampledToken& out = result.tokens[i];
    out.sequence_index = index;
    statuses_[i] = sample(row_kernels_, row, sequence.output_index, forward_.logits(i), scratch, &out);
    if (statuses_[i] != SampleStatus::kOk) return;
    row.last_token = out.token;
    row.count(out.token);
  }

  HostModel model_;
  KvLayout layout_;
  KvPool pool_, host_pool_;
  std::optional<PagePopulator> populator_;  // of pool_
  const HostOptions& host_options_;
  std::unique_ptr<ThreadTeam> team_;
  const RowKernels& row_kernels_;
  Forward forward_;
  std::vector<SamplerRow> rows_;
  std::vector<SamplerScratch> sampler_scratch_;  // [members]
  std::vector<SampleStatus> statuses_;
  std::vector<TokenId> tokens_;
  std::array<std::int64_t, kPhases> phase_sums_ns_{};
};

class HostDeviceImpl final : public HostDevice {
 public:
  HostDeviceImpl(HostModel model, const KvLayout& layout, KvPool pool, KvPool host_pool,
                 const DeviceOptions& options, HostOptions host_options, std::unique_ptr<ThreadTeam> team,
                 CpuTarget target)
      : options_(options), host_options_(std::move(host_options)) {
    const bool outliers = matmul_kernels(target, host_options_.mode).block_bytes == sizeof(OutlierBlock);
    info_.name = "host (" + std::string(display_name(target)) + (outliers ? ", 8-bit activations, " : ", ") +
                 std::to_string(team->size()) + (team->size() == 1 ? " thread)" : " threads)");
    info_.kv_block_bytes = layout.block_bytes;
    info_.num_blocks = pool.num_blocks();
    info_.num_host_blocks = host_pool.num_blocks();
    info_.rotates_to_cache = model.spec.position == model::PositionKind::kRotary;
    limits_.max_num_seqs = options.max_num_seqs;
    limits_.max_num_batched_tokens = options.max_num_batched_tokens;
    limits_.max_model_len = options.max_model_len;
    limits_.num_blocks = pool.num_blocks();
    limits_.block_size = layout.block_size;
    limits_.vocab_size = static_cast<std::uint32_t>(model.spec.vocab_size);
    limits_.sparse_kv = options.sparse_kv;
    executor_ = std::make_unique<Executor>(std::move(model), layout, std::move(pool), std::move(host_pool),
                                           options, host_options_, std::move(team), target);
    thread_ = std::thread([this] { work(); });
  }

  ~HostDeviceImpl() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    announce();
    thread_.join();
  }

  const DeviceInfo& info() const noexcept override { return info_; }
  void set_sink(CompletionSink* sink) noexcept override {
    const std::lock_guard lock(mutex_);
    sink_ = sink;
  }

  Result<Ticket> submit(StepPlan plan) override {
    if (Result<void> valid = validate_plan(plan, limits_); !valid) return valid.error();
    Ticket ticket = 0;
    {
      const std::lock_guard lock(mutex_);
      if (plan.wait_for_copy > last_copy_) {
        return Error{Errc::kInvalidArgument, "step " + std::to_string(plan.step) + " waits for copy " +
                                                 std::to_string(plan.wait_for_copy) +
                                                 ", the last one submitted is " + std::to_string(last_copy_)};
      }
      if (steps_in_flight_ >= options_.max_steps_in_flight) {
        return Error{Errc::kQueueFull,
                     std::to_string(steps_in_flight_) + " steps are in flight, the most allowed"};
      }
      ++steps_in_flight_;
      ticket = ++last_step_;
      steps_.push_back(std::move(plan));
    }
    announce();
    return ticket;
  }

  StepResult take(Ticket ticket) override {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(results_.begin(), results_.end(),
                                    [ticket](const Finished& finished) { return finished.ticket == ticket; });
    SPW_CHECK(found != results_.end());  // not completed, or taken before
    StepResult result = std::move(found->result);
    results_.erase(found);
    return result;
  }

  Result<Ticket> copy(CopyPlan plan) override {
    const bool reads_host = plan.direction == CopyPlan::Direction::kHostToDevice;
    const bool writes_host = plan.direction == CopyPlan::Direction::kDeviceToHost;
    const std::uint32_t from_blocks = reads_host ? info_.num_host_blocks : info_.num_blocks;
    const std::uint32_t to_blocks = writes_host ? info_.num_host_blocks : info_.num_blocks;
    for (const CopyPlan::Pair& pair : plan.blocks) {
      if (static_cast<std::uint32_t>(pair.from) >= from_blocks ||
          static_cast<std::uint32_t>(pair.to) >= to_blocks) {
        return Error{Errc::kInvalidArgument, "copy of block " +
                                                 std::to_string(static_cast<std::uint32_t>(pair.from)) +
                                                 " (of " + std::to_string(from_blocks) + ") to block " +
                                                 std::to_string(static_cast<std::uint32_t>(pair.to)) +
                                                 " (of " + std::to_string(to_blocks) + ")"};
      }
    }
    Ticket ticket = 0;
    {
      const std::lock_guard lock(mutex_);
      if (plan.wait_for_step > last_step_) {
        return Error{Errc::kInvalidArgument, "a copy waits for step ticket " +
                                                 std::to_string(plan.wait_for_step) +
                                                 ", the last one submitted is " + std::to_string(last_step_)};
      }
      if (copies_.size() >= kCopiesMax) {
        return Error{Errc::kQueueFull,
                     std::to_string(copies_.size()) + " copies are waiting, the most allowed"};
      }
      ticket = ++last_copy_;
      copies_.push_back(std::move(plan));
    }
    announce();
    return ticket;
  }

  const std::array<std::int64_t, kPhases>& phase_sums_ns() const noexcept override {
    return executor_->phase_sums_ns();
  }
  std::size_t weight_bytes() const noexcept override { return executor_->weight_bytes(); }
  std::size_t activation_bytes() const noexcept override { return executor_->activation_bytes(); }

 private:
  static constexpr std::size_t kCopiesMax = 1024;
  /// Polls before parking, about 20 us: a scheduler that answers at once finds the thread awake.
  static constexpr int kSpins = 400;

  struct Finished {
    Ticket ticket = 0;
    StepResult result;
  };

  void announce() {
    events_.fetch_add(1, std::memory_order_release);
    events_.notify_one();
  }

  void work() {
    for (;;) {
      const std::uint32_t seen = events_.load(std::memory_order_acquire);
      if (run_next()) continue;
      {
        const std::lock_guard lock(mutex_);
        if (stopping_ && steps_.empty() && copies_.empty()) return;
      }
      for (int i = 0; i < kSpins && events_.load(std::memory_order_acquire) == seen; ++i)
        __builtin_ia32_pause();
      events_.wait(seen, std::memory_order_acquire);
    }
  }

  /// Runs the next copy or step whose fence is passed. Fences point only to what was submitted before, so one
  /// of the two heads can always run.
  bool run_next() {
    std::unique_lock lock(mutex_);
    if (!copies_.empty() && copies_.front().wait_for_step <= done_step_) {
      CopyPlan plan = std::move(copies_.front());
      copies_.pop_front();
      lock.unlock();
      executor_->copy(plan);
      lock.lock();
      const Ticket ticket = ++done_copy_;
      CompletionSink* sink = sink_;
      lock.unlock();
      if (sink != nullptr) sink->on_copy_complete(ticket);
      return true;
    }
    if (!steps_.empty() && steps_.front().wait_for_copy <= done_copy_) {
      StepPlan plan = std::move(steps_.front());
      steps_.pop_front();
      lock.unlock();
      StepResult result = executor_->step(plan);
      lock.lock();
      const Ticket ticket = ++done_step_;
      results_.push_back({ticket, std::move(result)});
      --steps_in_flight_;
      CompletionSink* sink = sink_;
      lock.unlock();
      if (sink != nullptr) sink->on_step_complete(ticket);
      return true;
    }
    return false;
  }

  const DeviceOptions options_;
  const HostOptions host_options_;
  DeviceInfo info_;
  PlanLimits limits_;
  std::unique_ptr<Executor> executor_;

  std::mutex mutex_;
  CompletionSink* sink_ = nullptr;
  std::deque<StepPlan> steps_;
  std::deque<CopyPlan> copies_;
  std::vector<Finished> results_;
  std::uint32_t steps_in_flight_ = 0;
  Ticket last_step_ = 0, last_copy_ = 0;  // submitted
  Ticket done_step_ = 0, done_copy_ = 0;
  bool stopping_ = false;
  std::atomic<std::uint32_t> events_{0};
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<Device>> HostDevice::create(
    const model::ModelSpec& spec, const model::Weights& weights, const DeviceOptions& options,
    const HostOptions& host_options, const std::function<void(const model::TensorView&)>& on_packed) {
  const auto refuse = [](std::string what) { return Error{Errc::kInvalidArgument, std::move(what)}; };
  if (options.max_num_seqs == 0) return refuse("max_num_seqs must be at least 1");
  if (options.max_num_batched_tokens == 0) return refuse("max_num_batched_tokens must be at least 1");
  if (options.max_steps_in_flight == 0) return refuse("max_steps_in_flight must be at least 1");
  DeviceOptions checked = options;
  if (checked.max_model_len == 0) checked.max_model_len = static_cast<std::uint32_t>(spec.max_position);
  if (spec.position == model::PositionKind::kLearned) {
    const std::uint64_t rows = weights.position_embedding.rows();
    const auto offset = static_cast<std::uint64_t>(spec.position_offset);
    if (checked.max_model_len + offset > rows) {
      return refuse("max_model_len = " + std::to_string(checked.max_model_len) + " is more than the " +
                    std::to_string(rows > offset ? rows - offset : 0) +
                    " positions the model has embeddings for");
    }
  }
  Result<KvLayout> layout = make_kv_layout(spec, options.kv_dtype, options.block_size, options.sparse_kv);
  if (!layout) return layout.error();
  Result<KvPool> pool = KvPool::create(*layout, options.kv_cache_memory_bytes);
  if (!pool) return pool.error();
  KvPool host_pool;
  if (options.host_pool_bytes > 0) {
    Result<KvPool> mapped = KvPool::create(*layout, options.host_pool_bytes);
    if (!mapped) return mapped.error();
    host_pool = std::move(*mapped);
  }
  HostOptions host = host_options;
  if (!host.clock) host.clock = steady_now_ns;
  if (host.threads == 0) host.threads = available_cores();
  const CpuTarget target = capped_cpu_target(host.cpu_target);
  auto team = std::make_unique<ThreadTeam>(host.threads);
  Result<HostModel> model = HostModel::pack(spec, weights, *team, on_packed);
  if (!model) return model.error();
  std::unique_ptr<Device> device =
      std::make_unique<HostDeviceImpl>(std::move(*model), *layout, std::move(*pool), std::move(host_pool),
                                       checked, std::move(host), std::move(team), target);
  return device;
}

}  // namespace spillway::gpu::host
