// SPDX-License-Identifier: Apache-2.0
#pragma once

// Sparsified requests on a CUDA device, step by step beside a dense reference.

#include <map>
#include <set>

#include "actors/slot_count.hpp"
#include "gpu/cuda/cuda_device.hpp"
#include "gpu/sparse_policy.hpp"
#include "model/sparse_kv.hpp"
#include "tests/gpu/cuda/gpu.hpp"
#include "tests/gpu/host_runner.hpp"
#include "tests/gpu/sparse_dense_model.hpp"

namespace spillway::gpu::cuda {

using actors::plan_slots;
using actors::SlotCount;
using actors::SlotStep;
using model::SparseGranularity;
using model::SparseKvParams;
using model::SparseMethod;
using model::SparseStrategy;

struct Slots {
  std::vector<float> positions, scores;  // [units, slots]
};

/// A device whose logits and slots are kept of its last step.
class SparseRunner : public CompletionSink {
 public:
  SparseRunner(const DenseModel& model, const DeviceOptions& options, bool graphs) : options(options) {
    CudaOptions cuda;
    cuda.graphs = graphs;
    cuda.on_logits = [this](const StepPlan&, std::uint32_t s, std::span<const float> values) {
      logits[s].assign(values.begin(), values.end());
    };
    cuda.on_slots = [this](const StepPlan&, std::uint32_t s, std::span<const float> positions,
                           std::span<const float> scores) {
      slots[s] = {{positions.begin(), positions.end()}, {scores.begin(), scores.end()}};
    };
    Result<std::unique_ptr<Device>> made =
        create_cuda_device({&model.spec, &model.weights, &options, &cuda, nullptr});
    if (!made) FAIL(made.error().message);
    device = std::move(*made);
    device->set_sink(this);
    for (std::uint32_t b = 0; b < device->info().num_blocks; ++b) free_blocks.push_back(BlockId{b});
    std::shuffle(free_blocks.begin(), free_blocks.end(), std::mt19937(3));
  }

  StepResult step(StepPlan plan) {
    logits.clear();
    slots.clear();
    plan.step = ++steps_;
    Result<Ticket> ticket = device->submit(std::move(plan));
    if (!ticket) FAIL(ticket.error().message);
    while (done_ < *ticket) (void)device->poll();
    return device->take(*ticket);
  }
  std::vector<BlockId> take_blocks(std::uint32_t slots_wanted, std::vector<BlockId> held = {}) {
    while (held.size() * options.block_size < slots_wanted) {
      REQUIRE_FALSE(free_blocks.empty());
      held.push_back(free_blocks.back());
      free_blocks.pop_back();
    }
    return held;
  }
  void give_back(std::vector<BlockId>& held, std::size_t keep) {
    free_blocks.insert(free_blocks.end(), held.begin() + static_cast<std::ptrdiff_t>(keep), held.end());
    held.resize(keep);
  }

  void on_step_complete(Ticket ticket) noexcept override { done_ = ticket; }
  void on_copy_complete(Ticket ticket) noexcept override { copied = ticket; }

  DeviceOptions options;
  std::vector<BlockId> free_blocks;
  std::map<std::uint32_t, std::vector<float>> logits;
  std::map<std::uint32_t, Slots> slots;
  Ticket copied = 0;
  std::unique_ptr<Device> device;  // last: destroyed first

 private:
  Ticket done_ = 0;
  std::uint64_t steps_ = 0;
};

/// One request on the device and in the reference.
struct Case {
  Case(const DenseModel& model, SparseKvParams params, std::vector<TokenId> prompt, std::uint32_t outputs,
       std::uint32_t chunk)
      : params(*model::resolve(params, static_cast<std::uint32_t>(prompt.size()))),
        dense(model),
        tokens(std::move(prompt)),
        prompt_length(static_cast<std::uint32_t>(tokens.size())),
        length(prompt_length + outputs),
        chunk(chunk),
        live(static_cast<std::size_t>(model.units())),
        scores(static_cast<std::size_t>(model.units())) {}

  SparseKvParams params;
  DenseSequence dense;
  std::vector<TokenId> tokens;  // the prompt, then given ones: the reference and the device read the same
  std::uint32_t prompt_length, length, chunk;
  std::uint32_t done = 0;
  SlotCount slots;
  std::vector<BlockId> blocks, copy_to;
  SlotStep step;
  std::vector<std::set<int>> live;            // by unit
  std::vector<std::map<int, double>> scores;  // by unit and position
  std::vector<double> logits;
};

/// Tokens evicted so far, and how many of them another one nearly as low was evicted for.
struct Tally {
  int evicted = 0, close = 0, reused = 0, packed = 0, emptied = 0;
};

class Comparison {
 public:
  Comparison(const DenseModel& model, SparseRunner& runner, double tolerance)
      : model_(model), runner_(runner), tolerance_(tolerance) {}

  void run(std::vector<Case>& cases) {
    while (true) {
      StepPlan plan;
      std::vector<Case*> owners;
      for (std::size_t i = 0; i < cases.size(); ++i)
        plan_one(plan, owners, cases[i], static_cast<std::uint32_t>(i));
      if (owners.empty()) return;
      const StepPlan kept = plan;
      StepResult result = runner_.step(std::move(plan));
      INFO(result.message);
      REQUIRE_FALSE(result.failed);
      for (std::uint32_t s = 0; s < owners.size(); ++s) check_one(*owners[s], kept, s, result);
    }
  }
  Tally tally;

 private:
  void plan_one(StepPlan& plan, std::vector<Case*>& owners, Case& c, std::uint32_t row) {
    if (c.done == c.length) return;
    const bool in_prompt = c.done < c.prompt_length;
    const std::uint32_t room =
        runner_.options.max_num_batched_tokens - static_cast<std::uint32_t>(plan.tokens.size());
    const std::uint32_t count = std::min(in_prompt ? std::min(c.chunk, c.prompt_length - c.done) : 1, room);
    if (count == 0) return;
    c.step = plan_slots(c.slots, c.done, count, c.prompt_length, c.params, runner_.options.block_size);
    c.blocks = runner_.take_blocks(c.step.span, std::move(c.blocks));
    SequenceStep s;
    s.row = RowId{row};
    if (c.done == 0) plan.row_inits.push_back({s.row, host::Request::greedy_params(), 0, {}, {}});
    s.first_position = c.done;
    s.token_count = count;
    s.token_offset = static_cast<std::uint32_t>(plan.tokens.size());
    s.block_offset = static_cast<std::uint32_t>(plan.block_table.size());
    s.block_count = static_cast<std::uint32_t>(c.blocks.size());
    s.samples = true;
    s.sparse = static_cast<std::uint32_t>(plan.sparse.size());
    SparseStep sparse{c.params,       c.prompt_length,
                      c.step.span,    c.step.reuse,
                      c.step.evict,   c.step.live - c.step.evict,
                      c.step.packing, 0};
    plan.tokens.insert(plan.tokens.end(), c.tokens.begin() + c.done, c.tokens.begin() + c.done + count);
    plan.block_table.insert(plan.block_table.end(), c.blocks.begin(), c.blocks.end());
    if (c.step.packing == SparseStep::Packing::kCopy) {
      c.copy_to = runner_.take_blocks(sparse.live);
      sparse.copy_block_offset = static_cast<std::uint32_t>(plan.block_table.size());
      plan.block_table.insert(plan.block_table.end(), c.copy_to.begin(), c.copy_to.end());
    }
    plan.sparse.push_back(sparse);
    plan.sequences.push_back(s);
    owners.push_back(&c);
  }

  void check_one(Case& c, const StepPlan& plan, std::uint32_t index, const StepResult& result) {
    const SequenceStep& s = plan.sequences[index];
    INFO("method " << name_of(c.params.method) << ", strategy " << name_of(c.params.strategy)
                   << ", granularity " << name_of(c.params.granularity) << ", budget " << c.params.budget
                   << ", n " << c.params.num_per_evict << ", prompt " << c.prompt_length << ", position "
                   << s.first_position << " + " << s.token_count);
    for (std::uint32_t t = 0; t < s.token_count; ++t) feed(c, s.first_position + t);
    const std::vector<float>& logits = runner_.logits[index];
    CHECK(distance(logits, c.logits) < tolerance_ * 5);
    const std::uint32_t newest = s.first_position + s.token_count - 1;
    if (c.params.method == SparseMethod::kSnapKv && newest + 1 == c.prompt_length) pool(c);
    const std::vector<std::set<int>> seen = seen_by_device(c, runner_.slots[index]);
    const std::size_t together = c.params.granularity == SparseGranularity::kHead ? 1
                                 : c.params.granularity == SparseGranularity::kLayer
                                     ? static_cast<std::size_t>(model_.spec.num_kv_heads)
                                     : static_cast<std::size_t>(model_.units());
    for (std::size_t first = 0; first < c.live.size(); first += together)
      check_group(c, seen, first, together, newest);
    check_scores(c, runner_.slots[index]);
    c.done += s.token_count;
    c.slots = c.step.after;
    if (c.step.reuse) ++tally.reused;
    if (c.step.packing == SparseStep::Packing::kCopy) {
      runner_.give_back(c.blocks, 0);
      c.blocks = std::move(c.copy_to);
    }
    if (c.step.packing != SparseStep::Packing::kNone) {
      ++tally.packed;
      runner_.give_back(c.blocks,
                        (c.slots.span + runner_.options.block_size - 1) / runner_.options.block_size);
    }
    drop_emptied(c, index, result);
    if (c.done == c.length) runner_.give_back(c.blocks, 0);
  }

  void feed(Case& c, std::uint32_t position) {
    std::vector<std::vector<double>> given;
    c.dense.feed(c.tokens[position], c.live, c.logits, given);
    const ScoreUpdate update = score_update(c.params, c.prompt_length, position);
    for (std::size_t unit = 0; unit < c.live.size(); ++unit) {
      c.live[unit].insert(static_cast<int>(position));
      c.scores[unit][static_cast<int>(position)] = 0;
      for (auto& [at, score] : c.scores[unit]) {
        const double more = given[unit][static_cast<std::size_t>(at)];
        if (update == ScoreUpdate::kAdd) score += more;
        if (update == ScoreUpdate::kReplace) score = more;
      }
    }
  }
  static void pool(Case& c) {
    for (std::map<int, double>& scores : c.scores) {
      const std::map<int, double> own = scores;
      for (auto& [at, score] : scores)
        for (const auto& [other, its] : own)
          if (std::abs(other - at) <= static_cast<int>(kSnapKvReach)) score = std::max(score, its);
    }
  }
  std::vector<std::set<int>> seen_by_device(const Case& c, const Slots& slots) const {
    std::vector<std::set<int>> seen(c.live.size());
    const std::size_t count = slots.positions.size() / c.live.size();
    for (std::size_t i = 0; i < slots.positions.size(); ++i) {
      if (slots.positions[i] < 0) continue;
      REQUIRE(seen[i / count].insert(static_cast<int>(slots.positions[i])).second);
    }
    return seen;
  }

  /// The device's live tokens of the group's units are the reference's but for the victims, and no victim is
  /// worth more than a token that stayed, up to the tolerance.
  void check_group(Case& c, const std::vector<std::set<int>>& seen, std::size_t first, std::size_t together,
                   std::uint32_t newest) {
    const EvictableRange range = evictable(c.params, newest);
    const auto key = [&](int position) -> double {
      if (c.params.method == SparseMethod::kStreaming) return position;
      if (c.params.method == SparseMethod::kRandom)
        return random_key(c.params.seed, static_cast<std::uint32_t>(first / together),
                          static_cast<std::uint32_t>(position));
      double sum = 0;
      for (std::size_t unit = first; unit < first + together; ++unit) sum += c.scores[unit][position];
      return sum;
    };
    std::set<int> victims;
    std::set_difference(c.live[first].begin(), c.live[first].end(), seen[first].begin(), seen[first].end(),
                        std::inserter(victims, victims.end()));
    REQUIRE(victims.size() == c.step.evict);
    double dearest = -1;
    for (const int victim : victims) {
      REQUIRE(range.holds(static_cast<float>(victim)));
      dearest = std::max(dearest, key(victim));
    }
    const bool exact =
        c.params.method == SparseMethod::kStreaming || c.params.method == SparseMethod::kRandom;
    bool close = false;
    for (const int position : seen[first]) {
      if (victims.empty() || !range.holds(static_cast<float>(position))) continue;
      const double worth = key(position), slack = exact ? 0 : tolerance_ * (1 + std::abs(worth));
      if (worth < dearest) close = true;
      REQUIRE(worth >= dearest - slack);
    }
    for (std::size_t unit = first; unit < first + together; ++unit) {
      for (const int victim : victims) {
        c.live[unit].erase(victim);
        c.scores[unit].erase(victim);
      }
      REQUIRE(seen[unit] == c.live[unit]);
    }
    tally.evicted += static_cast<int>(victims.size());
    tally.close += close ? 1 : 0;
  }
  void check_scores(Case& c, const Slots& slots) const {
    if (!c.params.scored()) return;
    const std::size_t count = slots.positions.size() / c.live.size();
    for (std::size_t i = 0; i < slots.positions.size(); ++i) {
      if (slots.positions[i] < 0) continue;
      const double expected = c.scores[i / count][static_cast<int>(slots.positions[i])];
      REQUIRE(std::abs(slots.scores[i] - expected) <= tolerance_ * (1 + expected));
    }
  }
  void drop_emptied(Case& c, std::uint32_t index, const StepResult& result) {
    // Which blocks should have been reported follows from the sets alone: those with no live slot. The
    // device's slots cover all of the span.
    std::set<std::uint32_t> reported;
    for (const StepResult::Emptied& emptied : result.emptied)
      if (emptied.sequence_index == index)
        REQUIRE(reported.insert(static_cast<std::uint32_t>(emptied.block)).second);
    if (c.params.strategy != SparseStrategy::kFreeBlock) {
      CHECK(reported.empty());
      return;
    }
    const Slots& slots = runner_.slots[index];
    const std::size_t count = slots.positions.size() / c.live.size(), block = runner_.options.block_size;
    std::vector<BlockId> kept;
    for (std::size_t b = 0; b < c.blocks.size(); ++b) {
      bool empty = (b + 1) * block <= count && c.step.evict > 0;
      for (std::size_t unit = 0; empty && unit < c.live.size(); ++unit)
        for (std::size_t slot = b * block; slot < (b + 1) * block; ++slot)
          empty &= slots.positions[unit * count + slot] < 0;
      CHECK(empty == (reported.count(static_cast<std::uint32_t>(c.blocks[b])) > 0));
      if (empty) {
        runner_.free_blocks.push_back(c.blocks[b]);
        c.slots.span -= runner_.options.block_size;
        ++tally.emptied;
      } else {
        kept.push_back(c.blocks[b]);
      }
    }
    c.blocks = std::move(kept);
  }

  const DenseModel& model_;
  SparseRunner& runner_;
  double tolerance_;
};

}  // namespace spillway::gpu::cuda
