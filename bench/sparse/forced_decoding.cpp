// SPDX-License-Identifier: Apache-2.0
#include "bench/sparse/forced_decoding.hpp"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <span>
#include <utility>

#include "actors/block_tables.hpp"
#include "gpu/host/host_device.hpp"
#include "runtime/check.hpp"

namespace spillway::bench {
namespace {

constexpr std::uint32_t kBlockSize = 16, kChunk = 512;

Prediction predict(std::span<const float> logits, model::TokenId truth) {
  const auto best = std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit - *best));
  return {static_cast<model::TokenId>(best - logits.begin()),
          static_cast<float>(static_cast<double>(logits[static_cast<std::size_t>(truth)] - *best) -
                             std::log(sum))};
}

/// One step at a time, from the thread that calls.
class Stepper : public gpu::CompletionSink {
 public:
  void on_step_complete(gpu::Ticket ticket) noexcept override {
    const std::lock_guard lock(mutex_);
    done_ = ticket;
    completed_.notify_all();
  }
  void on_copy_complete(gpu::Ticket /*ticket*/) noexcept override {}

  Result<void> run(gpu::Device& device, gpu::StepPlan plan) {
    plan.step = ++step_;
    Result<gpu::Ticket> ticket = device.submit(std::move(plan));
    if (!ticket) return std::move(ticket).error();
    std::unique_lock lock(mutex_);
    completed_.wait(lock, [&] { return done_ >= *ticket; });
    const gpu::StepResult result = device.take(*ticket);
    if (result.failed) return Error{Errc::kDeviceFailed, result.message};
    return {};
  }

 private:
  std::mutex mutex_;
  std::condition_variable completed_;
  gpu::Ticket done_ = 0;
  std::uint64_t step_ = 0;
};

class Batch {
 public:
  Batch(const std::vector<ForcedSequence>& sequences, std::vector<model::SparseKvParams> resolved)
      : sequences_(sequences),
        resolved_(std::move(resolved)),
        lanes_(sequences.size()),
        predictions_(sequences.size()) {}

  /// Opens the tables over the device's blocks.
  void open(std::uint32_t num_blocks) {
    tables_.emplace(actors::BlockPool(num_blocks, kBlockSize, false));
    for (std::size_t i = 0; i < lanes_.size(); ++i) {
      lanes_[i].lease = resolved_[i].on()
                            ? tables_->admit_sparse(sequences_[i].prompt_length, resolved_[i]).lease
                            : tables_->admit({}, {}).lease;
    }
  }

  /// The next step: a chunk of one prompt or, once there is none, a token of every sequence. Empty when all
  /// is done.
  Result<std::optional<gpu::StepPlan>> next() {
    gpu::StepPlan plan;
    owner_.clear();
    const auto last = [&](std::size_t i) {
      return static_cast<std::uint32_t>(sequences_[i].tokens.size() - 1);
    };
    std::size_t prompt = 0;  // the first sequence whose prompt is not computed; only then does anybody decode
    while (prompt < lanes_.size() && lanes_[prompt].position >= sequences_[prompt].prompt_length) ++prompt;
    if (prompt < lanes_.size()) {
      const std::uint32_t rest = sequences_[prompt].prompt_length - lanes_[prompt].position;
      if (!add(prompt, std::min(kChunk, rest), plan)) return full();
    } else {
      for (std::size_t i = 0; i < lanes_.size(); ++i) {
        if (lanes_[i].position < last(i) && !add(i, 1, plan)) return full();
      }
    }
    tables_->free_deferred();
    if (plan.sequences.empty()) return std::optional<gpu::StepPlan>{};
    return std::optional(std::move(plan));
  }

  void on_logits(std::uint32_t sequence_index, std::span<const float> logits) {
    const std::size_t i = owner_[sequence_index];
    predictions_[i].push_back(predict(logits, sequences_[i].tokens[lanes_[i].position]));
  }
  [[nodiscard]] std::vector<std::vector<Prediction>> take_predictions() {
    for (std::size_t i = 0; i < lanes_.size(); ++i)
      SPW_CHECK(predictions_[i].size() == sequences_[i].tokens.size() - sequences_[i].prompt_length);
    return std::move(predictions_);
  }

 private:
  struct Lane {
    actors::LeaseId lease{};
    std::uint32_t position = 0;  // tokens in the KV cache once the step is done
  };

  static Error full() { return {Errc::kOutOfMemory, "the KV pool is too small for all sequences"}; }

  [[nodiscard]] bool add(std::size_t i, std::uint32_t count, gpu::StepPlan& plan) {
    const ForcedSequence& sequence = sequences_[i];
    Lane& lane = lanes_[i];
    gpu::SequenceStep step{.row = gpu::RowId{static_cast<std::uint32_t>(i)},
                           .first_position = lane.position,
                           .token_count = count,
                           .token_offset = static_cast<std::uint32_t>(plan.tokens.size())};
    if (lane.position == 0) {
      model::SamplingParams params;
      params.temperature = 0;
      plan.row_inits.push_back({step.row, params, 0, {}, {}});
    }
    const auto first = sequence.tokens.begin() + lane.position;
    plan.tokens.insert(plan.tokens.end(), first, first + count);
    step.prompt_count = lane.position < sequence.prompt_length ? count : 0;
    step.samples = lane.position + count >= sequence.prompt_length;
    if (!place(i, step, plan)) return false;
    lane.position += count;
    owner_.push_back(i);
    plan.sequences.push_back(step);
    return true;
  }

  /// Gives the step its blocks and, when sparsified, its slots.
  [[nodiscard]] bool place(std::size_t i, gpu::SequenceStep& step, gpu::StepPlan& plan) {
    const auto append = [&plan, &step](std::span<const gpu::BlockId> blocks) {
      step.block_offset = static_cast<std::uint32_t>(plan.block_table.size());
      step.block_count = static_cast<std::uint32_t>(blocks.size());
      plan.block_table.insert(plan.block_table.end(), blocks.begin(), blocks.end());
    };
    if (!resolved_[i].on()) {
      if (!tables_->extend_to(lanes_[i].lease, step.first_position + step.token_count)) return false;
      append(*tables_->blocks(lanes_[i].lease));
      return true;
    }
    const auto grant = tables_->step_slots(lanes_[i].lease, step.first_position, step.token_count);
    if (!grant) return false;
    append(grant->blocks);
    step.sparse = static_cast<std::uint32_t>(plan.sparse.size());
    gpu::SparseStep sparse{.params = resolved_[i],
                           .prompt_length = sequences_[i].prompt_length,
                           .span = grant->step.span,
                           .reuse = grant->step.reuse,
                           .evict = grant->step.evict,
                           .live = grant->step.after.live,
                           .packing = grant->step.packing,
                           .copy_block_offset = static_cast<std::uint32_t>(plan.block_table.size())};
    plan.block_table.insert(plan.block_table.end(), grant->copy_to.begin(), grant->copy_to.end());
    plan.sparse.push_back(sparse);
    return true;
  }

  const std::vector<ForcedSequence>& sequences_;
  std::vector<model::SparseKvParams> resolved_;
  std::vector<Lane> lanes_;
  std::vector<std::size_t> owner_;  // of the step's sequences
  std::optional<actors::BlockTables> tables_;
  std::vector<std::vector<Prediction>> predictions_;
};

}  // namespace

Result<std::vector<std::vector<Prediction>>> decode_forced(const model::Model& model,
                                                           const std::vector<ForcedSequence>& sequences,
                                                           std::uint32_t threads, std::size_t kv_bytes,
                                                           const ForcedProgress& progress) {
  std::vector<model::SparseKvParams> resolved;
  std::uint32_t longest = 0;
  std::size_t total = 0, done = 0;  // tokens
  for (const ForcedSequence& sequence : sequences) {
    Result<model::SparseKvParams> params = model::resolve(sequence.sparse, sequence.prompt_length);
    if (!params) return std::move(params).error();
    resolved.push_back(*params);
    longest = std::max(longest, static_cast<std::uint32_t>(sequence.tokens.size()));
    total += sequence.tokens.size() - 1;
  }
  Batch batch(sequences, std::move(resolved));
  const auto count = static_cast<std::uint32_t>(sequences.size());
  const gpu::DeviceOptions options{.block_size = kBlockSize,
                                   .kv_cache_memory_bytes = kv_bytes,
                                   .max_num_seqs = count,
                                   .max_num_batched_tokens = std::max(kChunk, count),
                                   .max_model_len = longest,
                                   .max_steps_in_flight = 1,
                                   .sparse_kv = true};
  gpu::host::HostOptions host{.threads = threads};
  host.on_logits = [&batch](const gpu::StepPlan&, std::uint32_t sequence_index,
                            std::span<const float> logits) { batch.on_logits(sequence_index, logits); };
  Stepper stepper;
  auto device =
      gpu::host::HostDevice::create(model.spec(), model.weights(), options, host,
                                    [&](const model::TensorView& tensor) { model.release_pages(tensor); });
  if (!device) return std::move(device).error();
  (*device)->set_sink(&stepper);
  batch.open((*device)->info().num_blocks);
  for (;;) {
    Result<std::optional<gpu::StepPlan>> plan = batch.next();
    if (!plan) return std::move(plan).error();
    if (!plan->has_value()) return batch.take_predictions();
    done += (*plan)->tokens.size();
    if (Result<void> ran = stepper.run(**device, std::move(**plan)); !ran) return std::move(ran).error();
    progress(done, total);
  }
}

}  // namespace spillway::bench
