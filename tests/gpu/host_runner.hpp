// SPDX-License-Identifier: Apache-2.0
#pragma once

// Drives a device synchronously for tests, a HostDevice unless told otherwise: continuous batching of a few
// requests, blocks handed out in a scattered order, every logit row kept.

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "gpu/host/host_device.hpp"
#include "model/loader.hpp"
#include "tests/support/catch.hpp"

namespace spillway::gpu::host {

struct Request {
  std::vector<TokenId> prompt;
  std::uint32_t max_tokens = 8;
  std::uint32_t chunk = 512;  // prompt tokens a step
  model::SamplingParams params = greedy_params();
  std::uint32_t start_after = 0;  // steps before it joins
  std::vector<TokenId> forced;    // teacher forcing: fed instead of the drawn tokens

  static model::SamplingParams greedy_params() {
    model::SamplingParams p;
    p.temperature = 0;
    return p;
  }
};

struct Answer {
  std::vector<TokenId> tokens;
  std::vector<SampledToken> sampled;
  std::vector<std::vector<float>> logits;  // one row a token
};

class HostRunner : public CompletionSink {
 public:
  using LogitsHook =
      std::function<void(const StepPlan&, std::uint32_t sequence_index, std::span<const float> logits)>;

  HostRunner(const model::ModelSpec& spec, const model::Weights& weights, DeviceOptions options,
             HostOptions host_options)
      : HostRunner(options, [&](LogitsHook hook) {
          host_options.on_logits = std::move(hook);
          return HostDevice::create(spec, weights, options, host_options);
        }) {}

  /// `make` creates the device and gives it the hook.
  HostRunner(DeviceOptions options, const std::function<Result<std::unique_ptr<Device>>(LogitsHook)>& make)
      : options_(options) {
    Result<std::unique_ptr<Device>> device =
        make([this](const StepPlan&, std::uint32_t sequence, std::span<const float> logits) {
          step_logits_.emplace_back(sequence, std::vector<float>(logits.begin(), logits.end()));
        });
    if (!device) FAIL(device.error().message);
    device_ = std::move(*device);
    device_->set_sink(this);
    for (std::uint32_t b = 0; b < device_->info().num_blocks; ++b) free_blocks_.push_back(BlockId{b});
    std::shuffle(free_blocks_.begin(), free_blocks_.end(), std::mt19937(3));
  }

  [[nodiscard]] Device& device() { return *device_; }

  StepResult step(StepPlan plan) {
    step_logits_.clear();
    plan.step = ++step_;
    Result<Ticket> ticket = device_->submit(std::move(plan));
    if (!ticket) FAIL(ticket.error().message);
    while (device_->poll()) {
    }
    std::unique_lock lock(mutex_);
    completed_.wait(lock, [&] { return done_steps_ >= *ticket; });
    return device_->take(*ticket);
  }

  std::vector<Answer> run(const std::vector<Request>& requests) {
    std::vector<Answer> answers(requests.size());
    std::vector<std::uint32_t> done(requests.size(), 0);  // tokens whose KV is written
    std::vector<std::vector<BlockId>> blocks(requests.size());
    for (std::uint32_t round = 0;; ++round) {
      StepPlan plan;
      std::vector<std::size_t> owner;
      bool unfinished = false;
      for (std::size_t r = 0; r < requests.size(); ++r) {
        const Request& request = requests[r];
        Answer& answer = answers[r];
        if (answer.tokens.size() >= request.max_tokens) continue;
        unfinished = true;
        if (round < request.start_after) continue;
        SequenceStep s;
        s.row = RowId{static_cast<std::uint32_t>(r)};
        s.first_position = done[r];
        s.token_offset = static_cast<std::uint32_t>(plan.tokens.size());
        const auto prompt_size = static_cast<std::uint32_t>(request.prompt.size());
        if (done[r] < prompt_size) {
          const std::uint32_t room = options_.max_num_batched_tokens - s.token_offset;
          s.token_count = std::min({prompt_size - done[r], request.chunk, room});
          if (s.token_count == 0) continue;
          s.prompt_count = s.token_count;
          if (done[r] == 0) plan.row_inits.push_back({s.row, request.params, 0, request.prompt, {}});
          plan.tokens.insert(plan.tokens.end(), request.prompt.begin() + done[r],
                             request.prompt.begin() + done[r] + s.token_count);
        } else {
          if (s.token_offset == options_.max_num_batched_tokens) continue;
          s.token_count = 1;
          s.token_from_row = request.forced.empty();
          plan.tokens.push_back(request.forced.empty() ? 0 : request.forced[answer.tokens.size() - 1]);
        }
        done[r] += s.token_count;
        s.samples = done[r] >= prompt_size;
        s.output_index = static_cast<std::uint32_t>(answer.tokens.size());
        while (blocks[r].size() * options_.block_size < done[r]) {
          REQUIRE_FALSE(free_blocks_.empty());
          blocks[r].push_back(free_blocks_.back());
          free_blocks_.pop_back();
        }
        s.block_offset = static_cast<std::uint32_t>(plan.block_table.size());
        s.block_count = static_cast<std::uint32_t>(blocks[r].size());
        plan.block_table.insert(plan.block_table.end(), blocks[r].begin(), blocks[r].end());
        plan.sequences.push_back(s);
        owner.push_back(r);
      }
      if (!unfinished) break;
      if (plan.sequences.empty()) continue;
      StepResult result = step(std::move(plan));
      INFO(result.message);
      REQUIRE_FALSE(result.failed);
      for (SampledToken& token : result.tokens) {
        Answer& answer = answers[owner[token.sequence_index]];
        answer.tokens.push_back(token.token);
        answer.sampled.push_back(token);
      }
      for (auto& [sequence, logits] : step_logits_)
        answers[owner[sequence]].logits.push_back(std::move(logits));
    }
    for (std::vector<BlockId>& list : blocks)
      free_blocks_.insert(free_blocks_.end(), list.begin(), list.end());
    return answers;
  }

  Answer run_one(Request request) { return std::move(run({std::move(request)})[0]); }

  void on_step_complete(Ticket ticket) noexcept override { complete(done_steps_, ticket); }
  void on_copy_complete(Ticket ticket) noexcept override { complete(done_copies_, ticket); }
  void wait_for_copy(Ticket ticket) {
    while (device_->poll()) {
    }
    std::unique_lock lock(mutex_);
    completed_.wait(lock, [&] { return done_copies_ >= ticket; });
  }

 private:
  void complete(Ticket& done, Ticket ticket) noexcept {
    const std::lock_guard lock(mutex_);
    done = ticket;
    completed_.notify_all();
  }

  DeviceOptions options_;
  std::vector<BlockId> free_blocks_;
  std::vector<std::pair<std::uint32_t, std::vector<float>>> step_logits_;
  std::uint64_t step_ = 0;
  std::mutex mutex_;
  std::condition_variable completed_;
  Ticket done_steps_ = 0, done_copies_ = 0;
  std::unique_ptr<Device> device_;  // last: destroyed first, while the sink is whole
};

/// Options that fit the small models of tests/data/models.
inline DeviceOptions small_device(KvDType dtype = KvDType::kF32) {
  DeviceOptions options;
  options.kv_dtype = dtype;
  options.block_size = 16;
  options.kv_cache_memory_bytes = std::size_t{64} << 20;
  options.max_num_seqs = 40;
  options.max_num_batched_tokens = 512;
  options.max_model_len = 400;
  return options;
}

inline model::Model load_or_fail(const std::string& path) {
  Result<model::Model> model = model::Model::load(path);
  if (!model) FAIL(path << ": " << model.error().message);
  return std::move(*model);
}

}  // namespace spillway::gpu::host
