// SPDX-License-Identifier: Apache-2.0
#include "gpu/sim/sim_device.hpp"

#include <algorithm>

#include "gpu/sim/sim_numbers.hpp"
#include "gpu/sim/sparse_reference.hpp"
#include "runtime/check.hpp"

namespace spillway::gpu {
namespace {

using namespace sim;

}  // namespace

SimDevice::SimDevice(DeviceOptions options, std::size_t kv_bytes_per_token, std::int32_t vocab_size,
                     TimingProfile profile, SimFaults faults, SimEnvironment environment)
    : options_(options),
      vocab_size_(vocab_size),
      profile_(profile),
      faults_(faults),
      environment_(std::move(environment)),
      rows_(options.max_num_seqs) {
  info_.name = "sim";
  info_.rotates_to_cache = true;  // its attention knows no positions
  info_.kv_block_bytes = kv_bytes_per_token * options.block_size;
  info_.num_blocks = static_cast<std::uint32_t>(options.kv_cache_memory_bytes / info_.kv_block_bytes);
  memory_.resize(std::size_t{info_.num_blocks} * options.block_size);
  if (options.sparse_kv) slots_ = SimSlots(info_.num_blocks, options.block_size);
}

bool SimDevice::chance(double probability) {
  return probability > 0 && static_cast<double>(environment_.random() >> 11) * 0x1p-53 < probability;
}

std::uint64_t& SimDevice::slot(const StepPlan& plan, const SequenceStep& sequence, std::uint32_t position) {
  const std::uint32_t index = position / options_.block_size;
  SPW_CHECK(index < sequence.block_count);
  const auto block = static_cast<std::uint32_t>(plan.block_table[sequence.block_offset + index]);
  return memory_[std::size_t{block} * options_.block_size + position % options_.block_size];
}

std::string SimDevice::wrong_with(const StepPlan& plan) const {
  if (plan.sequences.empty()) return "the step is empty";
  if (plan.total_tokens() > options_.max_num_batched_tokens) {
    return "the step has " + std::to_string(plan.total_tokens()) + " tokens; the limit is " +
           std::to_string(options_.max_num_batched_tokens);
  }
  std::vector<bool> used(rows_.size());
  std::uint32_t next_token = 0;
  for (const SequenceStep& sequence : plan.sequences) {
    const auto row = static_cast<std::uint32_t>(sequence.row);
    if (row >= rows_.size()) return "row " + std::to_string(row) + " does not exist";
    if (used[row]) return "row " + std::to_string(row) + " is used twice";
    used[row] = true;
    const std::uint32_t end = sequence.first_position + sequence.token_count;
    if (sequence.token_count == 0) return "a sequence has no tokens";
    if (options_.max_model_len != 0 && end > options_.max_model_len)
      return "a sequence is longer than max_model_len";
    const std::uint64_t slots = sequence.sparsified() ? plan.sparse[sequence.sparse].span : end;
    if (std::uint64_t{sequence.block_count} * options_.block_size < slots)
      return "a block table is too short";
    if (sequence.token_offset != next_token) return "a sequence's tokens do not follow those before them";
    next_token += sequence.token_count;
    if (next_token > plan.tokens.size()) return "tokens are missing";
    if (sequence.block_offset + sequence.block_count > plan.block_table.size())
      return "block table entries are missing";
  }
  if (next_token != plan.tokens.size()) return "there are tokens of no sequence";
  for (const BlockId block : plan.block_table) {
    if (static_cast<std::uint32_t>(block) >= info_.num_blocks) return "a block is outside the pool";
  }
  return {};
}

std::int64_t SimDevice::duration_ns(const StepPlan& plan) const {
  std::int64_t ns = profile_.step_ns;
  for (const SequenceStep& sequence : plan.sequences) {
    ns += sequence.token_count > 1 ? profile_.prefill_token_ns * sequence.token_count
                                   : profile_.decode_sequence_ns;
    ns += profile_.attended_token_ns *
          (sequence.sparsified() ? plan.sparse[sequence.sparse].span : sequence.first_position);
  }
  return ns;
}

Result<Ticket> SimDevice::submit(StepPlan plan) {
  if (steps_.size() >= options_.max_steps_in_flight) {
    return Error{Errc::kQueueFull, std::to_string(steps_.size()) + " steps are in flight, the most allowed"};
  }
  if (std::string wrong = wrong_with(plan); !wrong.empty())
    return Error{Errc::kInvalidArgument, std::move(wrong)};
  std::int64_t start = std::max(environment_.now_ns(), compute_free_ns_);
  if (const auto fence = copy_end_ns_.find(plan.wait_for_copy); fence != copy_end_ns_.end()) {
    start = std::max(start, fence->second);
  }
  compute_free_ns_ = start + duration_ns(plan);
  const Ticket ticket = ++last_step_;
  step_end_ns_[ticket] = compute_free_ns_;
  steps_.push_back(std::move(plan));
  environment_.call_at(compute_free_ns_, [this, ticket] {
    const StepPlan done = std::move(steps_.front());
    steps_.pop_front();
    step_end_ns_.erase(ticket);
    ++steps_done_;
    results_.emplace(ticket, execute(done));
    sink_->on_step_complete(ticket);
  });
  return ticket;
}

StepResult SimDevice::execute(const StepPlan& plan) {
  StepResult result{.step = plan.step, .device_ns = duration_ns(plan)};
  for (const RowInit& init : plan.row_inits) {
    rows_[static_cast<std::uint32_t>(init.row)] = {init.params, init.choice, -1, kSeed};
  }
  if (chance(faults_.step_fails)) {
    result.failed = true;
    result.message = "injected fault";
    // What a failed step leaves behind is undefined: make it visibly wrong.
    for (const SequenceStep& sequence : plan.sequences) {
      if (sequence.sparsified()) continue;
      for (std::uint32_t i = 0; i < sequence.token_count; ++i) {
        slot(plan, sequence, sequence.first_position + i) = mix(environment_.random());
      }
    }
    return result;
  }
  // As on a real device all of a step is written before any of it evicts, packs or samples.
  std::vector<std::uint64_t> attended(plan.sequences.size(), kSeed);
  std::vector<std::vector<std::uint64_t>> values(plan.sequences.size());
  for (std::uint32_t s = 0; s < plan.sequences.size(); ++s) {
    if (plan.sequences[s].sparsified()) {
      values[s] = write_sparse(plan, plan.sequences[s]);
    } else {
      attended[s] = run_exact(plan, plan.sequences[s]);
    }
  }
  for (std::uint32_t s = 0; s < plan.sequences.size(); ++s) {
    if (plan.sequences[s].sparsified()) attended[s] = finish_sparse(plan, s, values[s], result);
  }
  for (std::uint32_t s = 0; s < plan.sequences.size(); ++s) {
    const SequenceStep& sequence = plan.sequences[s];
    if (!sequence.samples) continue;
    Row& row = row_of(sequence);
    row.last = sample(attended[s], row.params, row.choice, sequence.output_index, vocab_size_);
    SampledToken sampled{.sequence_index = s, .token = row.last};
    if (row.params.logprobs >= 0) {
      sampled.logprob = -1.0f;
      for (std::int32_t k = 0; k < row.params.logprobs; ++k)
        sampled.top.push_back({k, -1.0f - static_cast<float>(k)});
    }
    result.tokens.push_back(std::move(sampled));
  }
  return result;
}

TokenId SimDevice::token_of(const StepPlan& plan, const SequenceStep& sequence, std::uint32_t i) {
  return sequence.token_from_row ? row_of(sequence).last : plan.tokens[sequence.token_offset + i];
}

std::uint64_t SimDevice::run_exact(const StepPlan& plan, const SequenceStep& sequence) {
  for (std::uint32_t i = 0; i < sequence.token_count; ++i) {
    const std::uint32_t position = sequence.first_position + i;
    const std::uint64_t before = position == 0 ? kSeed : slot(plan, sequence, position - 1);
    slot(plan, sequence, position) = kv_value(before, token_of(plan, sequence, i), position);
    if (options_.sparse_kv)
      slots_.spoil(plan.block_table[sequence.block_offset + position / options_.block_size]);
  }
  std::uint64_t attended = kSeed;
  if (!sequence.samples) return attended;
  for (std::uint32_t p = 0; p < sequence.first_position + sequence.token_count; ++p) {
    attended = attend(attended, slot(plan, sequence, p));
  }
  return attended;
}

std::vector<std::uint64_t> SimDevice::write_sparse(const StepPlan& plan, const SequenceStep& sequence) {
  const SparseStep& sparse = plan.sparse[sequence.sparse];
  const std::span table(plan.block_table.data() + sequence.block_offset, sequence.block_count);
  Row& row = row_of(sequence);
  std::vector<std::uint64_t> values;
  for (std::uint32_t i = 0; i < sequence.token_count; ++i) {
    const std::uint32_t position = sequence.first_position + i;
    const std::uint32_t place = sparse.span - sequence.token_count + i;
    row.chain = kv_value(row.chain, token_of(plan, sequence, i), position);
    values.push_back(row.chain);
    slots_.write(table, sparse, position, place, row.chain);
    // Whoever reads this block as an exact sequence's reads something wrong.
    slot(plan, sequence, place) = mix(row.chain);
  }
  return values;
}

std::uint64_t SimDevice::finish_sparse(const StepPlan& plan, std::uint32_t index,
                                       std::span<const std::uint64_t> values, StepResult& result) {
  const SequenceStep& sequence = plan.sequences[index];
  const SparseStep& sparse = plan.sparse[sequence.sparse];
  const std::span table(plan.block_table.data() + sequence.block_offset, sequence.block_count);
  std::uint64_t attended = kSeed;
  for (std::uint32_t i = 0; i < sequence.token_count; ++i)
    attended = slots_.attend(table, sparse, sequence.first_position + i, values[i]);
  slots_.evict(table, sparse, sequence.first_position + sequence.token_count - 1);
  slots_.pack(table, sparse, std::span(plan.block_table).subspan(sparse.copy_block_offset));
  for (const BlockId block : slots_.take_emptied(table, sparse)) result.emptied.push_back({index, block});
  return attended;
}

StepResult SimDevice::take(Ticket ticket) {
  auto found = results_.extract(ticket);
  SPW_CHECK(!found.empty());
  return std::move(found.mapped());
}

Result<Ticket> SimDevice::copy(CopyPlan plan) {
  if (plan.direction != CopyPlan::Direction::kWithinDevice) {
    return Error{Errc::kUnsupported, "the simulated device has no host pool"};
  }
  if (chance(faults_.copy_fails)) return Error{Errc::kDeviceFailed, "injected fault"};
  std::int64_t start = std::max(environment_.now_ns(), copy_free_ns_);
  if (const auto fence = step_end_ns_.find(plan.wait_for_step); fence != step_end_ns_.end()) {
    start = std::max(start, fence->second);
  }
  copy_free_ns_ = start + profile_.copy_block_ns * static_cast<std::int64_t>(plan.blocks.size());
  const Ticket ticket = ++last_copy_;
  copy_end_ns_[ticket] = copy_free_ns_;
  environment_.call_at(copy_free_ns_, [this, ticket, plan = std::move(plan)] {
    for (const auto& [from, to] : plan.blocks) {
      std::copy_n(
          memory_.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(from) * options_.block_size),
          options_.block_size,
          memory_.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(to) * options_.block_size));
      if (options_.sparse_kv) slots_.copy_block(from, to);
    }
    copy_end_ns_.erase(ticket);
    sink_->on_copy_complete(ticket);
  });
  return ticket;
}

std::vector<TokenId> reference_answer(std::span<const TokenId> prompt, const model::SamplingParams& params,
                                      std::uint32_t choice, std::int32_t vocab_size, std::uint32_t count,
                                      std::span<const TokenId> stop) {
  std::vector<TokenId> answer;
  std::uint64_t value = kSeed, attended = kSeed;
  std::uint32_t position = 0;
  const model::SparseKvParams exact;
  const model::SparseKvParams& sparse_kv = params.sparse_kv ? *params.sparse_kv : exact;
  SparseReference sparse(sparse_kv, static_cast<std::uint32_t>(prompt.size()));
  auto feed = [&](TokenId token) {
    value = kv_value(value, token, position);
    attended = sparse_kv.on() ? sparse.feed(value) : attend(attended, value);
    ++position;
  };
  for (const TokenId token : prompt) feed(token);
  while (answer.size() < count) {
    answer.push_back(sample(attended, params, choice, static_cast<std::uint32_t>(answer.size()), vocab_size));
    if (std::ranges::find(stop, answer.back()) != stop.end()) break;
    feed(answer.back());
  }
  return answer;
}

}  // namespace spillway::gpu
