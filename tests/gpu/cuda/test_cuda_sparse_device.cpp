// SPDX-License-Identifier: Apache-2.0

// Sparsified sequences on the whole device, step by step beside a dense reference: every head attends to what
// the reference's head attends to. Where two tokens are worth nearly the same either may go; the reference
// then follows the device, whose choice must be within the rounding of its type.

#include "tests/gpu/cuda/sparse_comparison.hpp"

namespace spillway::gpu::cuda {
namespace {

DeviceOptions options_for(KvDType dtype, std::uint32_t block_size) {
  DeviceOptions options = host::small_device(dtype);
  options.block_size = block_size;
  options.kv_cache_memory_bytes = std::size_t{256} << 20;
  options.max_num_seqs = 64;
  options.max_num_batched_tokens = 1024;
  options.max_model_len = 600;
  options.sparse_kv = true;
  return options;
}

std::vector<TokenId> random_tokens(std::size_t count, std::mt19937& random) {
  std::vector<TokenId> tokens(count);
  for (TokenId& token : tokens) token = static_cast<TokenId>(random() % 128);
  return tokens;
}

/// Every `stride`-th of all methods, strategies, granularities, counts and prompts under and over the budget,
/// in batches.
Tally compare(const DenseShape& shape, KvDType dtype, std::uint32_t block_size, std::uint32_t budget,
              unsigned stride, double tolerance) {
  const DenseModel model(shape);
  std::mt19937 random(block_size + budget);
  std::vector<SparseKvParams> all;
  for (const auto method : {SparseMethod::kRandom, SparseMethod::kH2o, SparseMethod::kStreaming,
                            SparseMethod::kSnapKv, SparseMethod::kTova})
    for (const auto strategy : {SparseStrategy::kSpvllm, SparseStrategy::kNoOp, SparseStrategy::kFreeBlock,
                                SparseStrategy::kSparseCopy})
      for (const auto granularity :
           {SparseGranularity::kHead, SparseGranularity::kLayer, SparseGranularity::kToken})
        for (const std::uint32_t count : {1u, 4u, 16u}) {
          SparseKvParams p;
          p.method = method;
          p.strategy = strategy;
          p.granularity = granularity;
          p.budget = budget;
          p.num_per_evict = count;
          p.window = 8;
          p.sinks = 2;
          if (method != SparseMethod::kStreaming) p.recent = 4;
          p.seed = 5;
          all.push_back(p);
        }
  Tally tally;
  for (const bool graphs : {true, false}) {
    SparseRunner runner(model, options_for(dtype, block_size), graphs);
    Comparison comparison(model, runner, tolerance);
    std::vector<Case> cases;
    const auto run = [&] {
      comparison.run(cases);
      cases.clear();
    };
    for (std::size_t i = graphs ? 0 : stride / 2; i < all.size(); i += stride) {
      for (const std::uint32_t prompt : {budget / 2, budget - 1, budget + 3, budget * 2 + 5}) {
        const std::uint32_t outputs = prompt < budget ? budget : 24;
        std::vector<TokenId> tokens = random_tokens(prompt, random), more = random_tokens(outputs, random);
        cases.emplace_back(model, all[i], tokens, outputs,
                           1 + static_cast<std::uint32_t>(random() % (budget * 2)));
        cases.back().tokens.insert(cases.back().tokens.end(), more.begin(), more.end());
        if (cases.size() == runner.options.max_num_seqs) run();
      }
    }
    run();
    tally.evicted += comparison.tally.evicted;
    tally.close += comparison.tally.close;
    tally.reused += comparison.tally.reused;
    tally.packed += comparison.tally.packed;
    tally.emptied += comparison.tally.emptied;
  }
  WARN("type " << static_cast<int>(dtype) << ", head_dim " << shape.head_dim << ": " << tally.evicted
               << " tokens evicted, " << tally.close << " of them by a narrow margin; " << tally.reused
               << " slots reused, " << tally.packed << " packings, " << tally.emptied << " blocks emptied");
  return tally;
}

}  // namespace

TEST_CASE(
    "cuda sparse device: in fp32 every head attends to what a dense reference's head does, at every step") {
  SPW_NEEDS_GPU();
  const Tally tally = compare({}, KvDType::kF32, 8, 24, 1, 1e-4);
  CHECK(tally.evicted > 1000);
  CHECK(tally.close * 1000 < tally.evicted);
  CHECK(tally.reused > 100);
  CHECK(tally.packed > 100);
  CHECK(tally.emptied > 10);
}

TEST_CASE("cuda sparse device: in 16 bits, with and without graphs, over several splits") {
  SPW_NEEDS_GPU();
  const KvDType dtype = GENERATE(KvDType::kBF16, KvDType::kF16);
  const double tolerance = dtype == KvDType::kBF16 ? 0.1 : 0.02;
  DenseShape grouped{2, 4, 2, 64, 64, 96, 128, 0}, single{2, 2, 2, 64, 64, 96, 128, 0},
      windowed{2, 4, 2, 64, 64, 96, 128, 50};
  CHECK(compare(grouped, dtype, 16, 100, 19, tolerance).evicted > 100);
  CHECK(compare(single, dtype, 32, 70, 19, tolerance).evicted > 100);
  CHECK(compare(windowed, dtype, 64, 70, 31, tolerance).evicted > 100);
}

TEST_CASE("cuda sparse device: positions and scores travel with their blocks") {
  SPW_NEEDS_GPU();
  const DenseModel model({});
  DeviceOptions options = options_for(KvDType::kF32, 8);
  options.kv_cache_memory_bytes = std::size_t{1} << 20;
  options.host_pool_bytes = std::size_t{1} << 20;
  SparseRunner runner(model, options, true);
  SparseKvParams params;
  params.method = SparseMethod::kH2o;
  params.budget = 16;
  params = *model::resolve(params, 40);
  const auto step = [&](std::uint32_t first, std::uint32_t count, const SlotStep& slots,
                        const std::vector<BlockId>& blocks, Ticket after) {
    StepPlan plan;
    SequenceStep s;
    s.first_position = first;
    s.token_count = count;
    s.block_count = static_cast<std::uint32_t>(blocks.size());
    s.samples = true;
    s.sparse = 0;
    if (first == 0) plan.row_inits.push_back({RowId{0}, host::Request::greedy_params(), 0, {}, {}});
    plan.sequences.push_back(s);
    for (std::uint32_t t = 0; t < count; ++t)
      plan.tokens.push_back(static_cast<TokenId>((first + t) * 7 % 128));
    plan.block_table = blocks;
    plan.sparse.push_back(
        {params, 40, slots.span, slots.reuse, slots.evict, slots.live - slots.evict, slots.packing, 0});
    plan.wait_for_copy = after;
    const StepResult result = runner.step(std::move(plan));
    REQUIRE_FALSE(result.failed);
    return std::pair(runner.slots[0], runner.logits[0]);
  };
  std::vector<BlockId> blocks = runner.take_blocks(40);
  const SlotStep prompt = plan_slots({}, 0, 40, 40, params, 8);
  (void)step(0, 40, prompt, blocks, 0);
  blocks.resize(2);
  const SlotStep next = plan_slots(prompt.after, 40, 1, 40, params, 8);
  CopyPlan out{CopyPlan::Direction::kDeviceToHost, {{blocks[0], BlockId{1}}, {blocks[1], BlockId{0}}}, 1};
  REQUIRE(runner.device->copy(out).ok());
  const auto expected = step(40, 1, next, blocks, 0);
  const std::vector<BlockId> others = runner.take_blocks(16);
  const Result<Ticket> back = runner.device->copy(
      {CopyPlan::Direction::kHostToDevice, {{BlockId{1}, others[0]}, {BlockId{0}, others[1]}}, 0});
  REQUIRE(back.ok());
  const auto got = step(40, 1, next, others, *back);
  CHECK(got.first.positions == expected.first.positions);
  CHECK(got.first.scores == expected.first.scores);
  CHECK(got.second == expected.second);
}

TEST_CASE("cuda sparse device: metadata in disorder stays inside its blocks") {
  SPW_NEEDS_GPU();
  const DenseModel model({});
  SparseRunner runner(model, options_for(KvDType::kF32, 8), true);
  // Never written: positions are 0 everywhere, so there is no hole, and every token is of the same age.
  SparseKvParams params;
  params.method = SparseMethod::kH2o;
  params.budget = 30;
  params = *model::resolve(params, 40);
  for (const auto packing :
       {SparseStep::Packing::kNone, SparseStep::Packing::kInPlace, SparseStep::Packing::kCopy}) {
    StepPlan plan;
    plan.row_inits.push_back({RowId{0}, host::Request::greedy_params(), 0, {}, {}});
    SequenceStep s;
    s.first_position = 50;
    s.token_count = 1;
    s.block_count = 4;
    s.samples = true;
    s.sparse = 0;
    plan.sequences.push_back(s);
    plan.tokens = {1};
    plan.block_table = runner.take_blocks(64);
    plan.sparse.push_back({params, 40, 30, true, 4, 20, packing, 4});
    (void)runner.step(std::move(plan));
    CHECK(runner.slots[0].positions.size() ==
          static_cast<std::size_t>(model.units()) * (packing == SparseStep::Packing::kNone ? 30 : 20));
  }
}

TEST_CASE("cuda sparse device: what is not supported is refused by name") {
  SPW_NEEDS_GPU();
  const DenseModel model({});
  SparseRunner runner(model, options_for(KvDType::kF32, 8), true);
  SparseKvParams params;
  params.method = SparseMethod::kStreaming;
  params.budget = 30;
  params = *model::resolve(params, 8);
  params.rotate_to_cache = true;
  StepPlan plan;
  SequenceStep s;
  s.token_count = 8;
  s.block_count = 1;
  s.sparse = 0;
  plan.sequences.push_back(s);
  plan.tokens.assign(8, 1);
  plan.block_table = {BlockId{0}};
  plan.sparse.push_back({params, 8, 8, false, 0, 8, SparseStep::Packing::kNone, 0});
  const Result<Ticket> refused = runner.device->submit(plan);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().message.find("rotate_to_cache") != std::string::npos);
  plan.sparse[0].params.rotate_to_cache = false;
  CHECK_FALSE(runner.step(plan).failed);
}

}  // namespace spillway::gpu::cuda
