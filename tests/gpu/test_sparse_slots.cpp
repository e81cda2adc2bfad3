// SPDX-License-Identifier: Apache-2.0
// The host's sparsified attention, driven by the real block tables, against attention without slots or
// blocks: for each KV head the list of tokens that still live, in double precision.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <set>

#include "actors/block_tables.hpp"
#include "gpu/host/attention.hpp"
#include "gpu/host/sparse_slots.hpp"
#include "tests/support/catch.hpp"

namespace spillway::gpu::host {
namespace {

using actors::BlockPool;
using actors::BlockTables;
using model::SparseGranularity;
using model::SparseKvParams;
using model::SparseMethod;
using model::SparseStrategy;

constexpr std::uint32_t kLayers = 2, kKvHeads = 2, kGroup = 3, kHeadDim = 16, kUnits = kLayers * kKvHeads;
constexpr std::uint32_t kLongest = 640;

struct Shape {
  KvDType dtype = KvDType::kF32;
  std::uint32_t block_size = 16;
  CpuTarget target = CpuTarget::kScalar;
  std::uint32_t window = 0;
};

/// What one token brings: numbers that 16 bits hold exactly.
struct TokenData {
  std::vector<float> q, k, v;  // [layer][heads or kv heads][head_dim]
};

TokenData random_token(std::mt19937& random) {
  TokenData data;
  const auto fill = [&](std::vector<float>& x, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) x.push_back((static_cast<float>(random() % 257) - 128.0f) / 64.0f);
  };
  fill(data.q, std::size_t{kLayers} * kKvHeads * kGroup * kHeadDim);
  fill(data.k, std::size_t{kUnits} * kHeadDim);
  fill(data.v, std::size_t{kUnits} * kHeadDim);
  return data;
}

/// Sparsified attention without slots.
class Reference {
 public:
  Reference(const SparseKvParams& params, std::uint32_t prompt_length, std::uint32_t window)
      : params_(params), prompt_length_(prompt_length), window_(window) {}

  /// The token's output, [layer][heads][head_dim].
  std::vector<double> feed(const TokenData& data) {
    const std::uint32_t position = fed_++;
    std::vector<double> out(data.q.size());
    for (std::uint32_t unit = 0; unit < kUnits; ++unit) {
      heads_[unit].push_back({position, 0, data.k.data() + unit * kHeadDim, data.v.data() + unit * kHeadDim});
      attend(unit, position, data.q.data() + unit * kGroup * kHeadDim, out.data() + unit * kGroup * kHeadDim);
    }
    if (fed_ >= prompt_length_) make_room();
    return out;
  }
  [[nodiscard]] std::set<std::uint32_t> live(std::uint32_t unit) const {
    std::set<std::uint32_t> positions;
    for (const Token& token : heads_[unit]) positions.insert(token.position);
    return positions;
  }

 private:
  struct Token {
    std::uint32_t position;
    double score;
    const float *k, *v;
  };

  void attend(std::uint32_t unit, std::uint32_t position, const float* q, double* out) {
    std::vector<Token>& head = heads_[unit];
    std::vector<double> received(head.size());
    for (std::uint32_t g = 0; g < kGroup; ++g, q += kHeadDim, out += kHeadDim) {
      std::vector<double> p(head.size());
      double total = 0;
      for (std::size_t i = 0; i < head.size(); ++i) {
        if (window_ != 0 && head[i].position + window_ <= position) continue;
        double dot = 0;
        for (std::uint32_t d = 0; d < kHeadDim; ++d)
          dot += static_cast<double>(q[d]) * static_cast<double>(head[i].k[d]);
        total += p[i] = std::exp2(dot);
      }
      for (std::size_t i = 0; i < head.size(); ++i) {
        received[i] += p[i] / total;
        for (std::uint32_t d = 0; d < kHeadDim; ++d)
          out[d] += p[i] / total * static_cast<double>(head[i].v[d]);
      }
    }
    const ScoreUpdate update = score_update(params_, prompt_length_, position);
    for (std::size_t i = 0; i < head.size(); ++i) {
      if (update == ScoreUpdate::kAdd) head[i].score += received[i];
      if (update == ScoreUpdate::kReplace) head[i].score = received[i];
    }
  }

  void make_room() {
    if (fed_ == prompt_length_ && params_.method == SparseMethod::kSnapKv) {
      for (std::vector<Token>& head : heads_) {
        std::vector<float> scores;
        for (const Token& token : head) scores.push_back(static_cast<float>(token.score));
        pool_scores(scores);
        for (std::size_t i = 0; i < head.size(); ++i) head[i].score = static_cast<double>(scores[i]);
      }
    }
    const std::size_t with_next = heads_[0].size() + 1;
    if (with_next <= params_.budget) return;
    const std::size_t count = std::max<std::size_t>(params_.num_per_evict, with_next - params_.budget);
    const std::uint32_t together = params_.granularity == SparseGranularity::kHead    ? 1
                                   : params_.granularity == SparseGranularity::kLayer ? kKvHeads
                                                                                      : kUnits;
    for (std::uint32_t first = 0; first < kUnits; first += together) {
      for (std::size_t i = 0; i < count; ++i) evict_one(first, together);
    }
  }

  void evict_one(std::uint32_t first, std::uint32_t together) {
    const std::vector<Token>& head = heads_[first];
    std::size_t victim = head.size();
    double lowest = 0;
    for (std::size_t i = 0; i < head.size(); ++i) {
      if (head[i].position < params_.sinks || head[i].position + *params_.recent >= fed_) continue;
      double key = 0;
      if (params_.method == SparseMethod::kRandom) {
        key = static_cast<double>(random_key(params_.seed, first / together, head[i].position));
      } else if (params_.method == SparseMethod::kStreaming) {
        key = head[i].position;
      } else {
        for (std::uint32_t unit = first; unit < first + together; ++unit) key += heads_[unit][i].score;
      }
      if (victim == head.size() || key < lowest) victim = i, lowest = key;
    }
    REQUIRE(victim < head.size());
    for (std::uint32_t unit = first; unit < first + together; ++unit)
      heads_[unit].erase(heads_[unit].begin() + static_cast<std::ptrdiff_t>(victim));
  }

  SparseKvParams params_;
  std::uint32_t prompt_length_, window_, fed_ = 0;
  std::vector<Token> heads_[kUnits];
};

/// Runs sequences over SparseSlots as the device does, with the block manager's own tables.
class Bench {
 public:
  Bench(const Shape& shape, std::uint32_t threads)
      : shape_(shape),
        layout_(*make_kv_layout(spec(), shape.dtype, shape.block_size, true)),
        pool_(*KvPool::create(layout_, layout_.block_bytes * 200)),
        team_(threads),
        kernels_(attention_kernels(shape.target)),
        slots_(layout_, kernels_, kGroup, shape.window, threads, 1, kLongest),
        tables_(BlockPool(200, shape.block_size, false)) {
    for (std::uint32_t i = 0; i < threads; ++i) scratch_.emplace_back(layout_, kGroup);
    std::memset(pool_.data(), 0xff, layout_.block_bytes * 200);  // NaN, and positions that are no position
  }

  static model::ModelSpec spec() {
    model::ModelSpec spec;
    spec.head_dim = kHeadDim;
    spec.num_layers = kLayers;
    spec.num_kv_heads = kKvHeads;
    spec.num_heads = kKvHeads * kGroup;
    return spec;
  }

  BlockTables& tables() { return tables_; }

  /// One step of one sequence; its outputs of each layer, tokens of a prompt excepted.
  std::vector<float> step(actors::LeaseId lease, const SparseKvParams& params, std::uint32_t prompt_length,
                          std::uint32_t first, const std::vector<TokenData>& tokens) {
    const auto count = static_cast<std::uint32_t>(tokens.size());
    const auto grant = tables_.step_slots(lease, first, count);
    REQUIRE(grant.has_value());
    StepPlan plan;
    plan.block_table = grant->blocks;
    plan.block_table.insert(plan.block_table.end(), grant->copy_to.begin(), grant->copy_to.end());
    plan.tokens.resize(count);
    SequenceStep sequence;
    sequence.first_position = first;
    sequence.token_count = count;
    sequence.block_count = static_cast<std::uint32_t>(grant->blocks.size());
    sequence.sparse = 0;
    sequence.samples = true;
    plan.sequences.push_back(sequence);
    plan.sparse.push_back({params, prompt_length, grant->step.span, grant->step.reuse, grant->step.evict,
                           grant->step.after.live, grant->step.packing,
                           static_cast<std::uint32_t>(grant->blocks.size())});
    const std::vector<float> out = run(plan, tokens);
    StepResult result;
    slots_.report_emptied(pool_.data(), result);
    std::vector<BlockId> emptied;
    for (const StepResult::Emptied& e : result.emptied) emptied.push_back(e.block);
    tables_.free_deferred();
    tables_.drop_emptied(lease, emptied);
    REQUIRE(tables_.check() == "");
    // What was given up is the next one's: spoil it, so that whoever still reads it is found out.
    const auto held = *tables_.blocks(lease);
    for (const BlockId block : grant->blocks) {
      if (std::ranges::find(held, block) == held.end())
        std::memset(pool_.block(block), 0xff, layout_.block_bytes);
    }
    return out;
  }

  [[nodiscard]] std::set<std::uint32_t> live(actors::LeaseId lease, std::uint32_t unit,
                                             std::uint32_t span) const {
    std::set<std::uint32_t> positions;
    const auto blocks = *tables_.blocks(lease);
    for (std::uint32_t slot = 0; slot < span; ++slot) {
      const auto* at =
          reinterpret_cast<const float*>(pool_.block(blocks[slot / layout_.block_size]) +
                                         layout_.position_offset(unit / kKvHeads, unit % kKvHeads));
      const float position = at[slot % layout_.block_size];
      if (position >= 0) REQUIRE(positions.insert(static_cast<std::uint32_t>(position)).second);
    }
    return positions;
  }

 private:
  std::vector<float> run(const StepPlan& plan, const std::vector<TokenData>& tokens) {
    const auto count = static_cast<std::uint32_t>(tokens.size());
    constexpr std::size_t kWidth = std::size_t{kKvHeads} * kGroup * kHeadDim;
    slots_.clear();
    const std::uint32_t number = slots_.add(plan, 0);
    slots_.place_last_rows(plan);
    std::vector<float> out(kLayers * count * kWidth);
    team_.run([&](TeamMember& member) {
      for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
        if (member.index() == 0) write(plan, tokens, number, layer);
        std::vector<float> q;
        for (const TokenData& token : tokens)
          q.insert(q.end(), token.q.begin() + static_cast<std::ptrdiff_t>(layer * kWidth),
                   token.q.begin() + static_cast<std::ptrdiff_t>((layer + 1) * kWidth));
        member.barrier();
        slots_.attend(member, pool_.data(), layer,
                      {q.data(), kWidth, nullptr, out.data() + layer * count * kWidth, kWidth},
                      scratch_[member.index()].view());
        member.barrier();
      }
      slots_.evict(member, pool_.data());
    });
    return out;
  }

  void write(const StepPlan& plan, const std::vector<TokenData>& tokens, std::uint32_t number,
             std::uint32_t layer) {
    for (std::uint32_t i = 0; i < tokens.size(); ++i) {
      for (std::uint32_t h = 0; h < kKvHeads; ++h) {
        const SlotPlace at =
            slots_.take_slot(pool_.data(), number, plan.sequences[0].first_position + i, layer, h);
        const std::size_t unit = layer * kKvHeads + h;
        kernels_.write_kv(layout_, at.block + layout_.k_offset(layer, h),
                          at.block + layout_.v_offset(layer, h), at.lane,
                          tokens[i].k.data() + unit * kHeadDim, tokens[i].v.data() + unit * kHeadDim);
      }
    }
  }

  Shape shape_;
  KvLayout layout_;
  KvPool pool_;
  ThreadTeam team_;
  const AttentionKernels& kernels_;
  SparseSlots slots_;
  BlockTables tables_;
  std::vector<AttentionScratch> scratch_;
};

struct Case {
  SparseKvParams params;
  std::uint32_t prompt = 0, length = 0, chunk = 512;
};

/// Feeds the same tokens to both; everything must agree after every step.
void hold_to_reference(Bench& bench, const Shape& shape, const Case& c, std::uint32_t seed) {
  const SparseKvParams params = *model::resolve(c.params, c.prompt);
  std::mt19937 random(seed);
  std::vector<TokenData> data;
  for (std::uint32_t i = 0; i < c.length; ++i) data.push_back(random_token(random));
  Reference reference(params, c.prompt, shape.window);
  const actors::LeaseId lease = bench.tables().admit_sparse(c.prompt, params).lease;
  for (std::uint32_t done = 0; done < c.length;) {
    const std::uint32_t count = done < c.prompt ? std::min(c.chunk, c.prompt - done) : 1;
    const auto first = data.begin() + static_cast<std::ptrdiff_t>(done);
    const std::vector<float> out =
        bench.step(lease, params, c.prompt, done, {first, first + static_cast<std::ptrdiff_t>(count)});
    std::vector<double> expected;
    for (std::uint32_t i = 0; i < count; ++i) expected = reference.feed(data[done + i]);
    done += count;
    INFO("after " << done << " tokens of " << c.prompt << " + " << c.length - c.prompt << ", budget "
                  << params.budget << ", " << model::name_of(params.method) << " "
                  << model::name_of(params.strategy) << " " << model::name_of(params.granularity) << " n "
                  << params.num_per_evict);
    const auto span = static_cast<std::uint32_t>(bench.tables().blocks(lease)->size() * shape.block_size);
    const std::uint32_t used = std::min(span, bench.tables().slots(lease).span);
    for (std::uint32_t unit = 0; unit < kUnits; ++unit) {
      const std::set<std::uint32_t> live = bench.live(lease, unit, used);
      REQUIRE(live == reference.live(unit));
      REQUIRE(live.size() == bench.tables().slots(lease).live);
    }
    if (done <= c.prompt) continue;  // a prompt's own attention is the exact one's
    for (std::size_t i = 0; i < expected.size(); ++i)
      REQUIRE(std::abs(static_cast<double>(out[i]) - expected[i]) < 2e-5);
  }
  REQUIRE(bench.tables().release(lease));
}

Case random_case(std::mt19937& random, SparseMethod method, SparseStrategy strategy,
                 SparseGranularity granularity) {
  const auto below = [&](std::uint32_t n) { return static_cast<std::uint32_t>(random() % n); };
  Case c;
  c.params.method = method;
  c.params.strategy = strategy;
  c.params.granularity = granularity;
  c.params.num_per_evict = std::vector<std::uint32_t>{1, 4, 16}[below(3)];
  c.params.sinks = below(5);
  c.params.window = 1 + below(12);
  c.params.seed = random();
  c.params.budget = c.params.sinks + c.params.num_per_evict + 4 + below(40);
  if (below(2) == 0) c.params.recent = below(4);
  c.prompt = 1 + below(2 * c.params.budget);
  c.length = c.prompt + 1 + below(40);
  c.chunk = below(2) == 0 ? 512 : 1 + below(9);
  return c;
}

std::vector<CpuTarget> targets() {
  std::vector<CpuTarget> all = {CpuTarget::kScalar};
  if (capped_cpu_target(CpuTarget::kAvx2) == CpuTarget::kAvx2) all.push_back(CpuTarget::kAvx2);
  if (capped_cpu_target(CpuTarget::kAvx512Vnni) == CpuTarget::kAvx512Vnni)
    all.push_back(CpuTarget::kAvx512Vnni);
  return all;
}

TEST_CASE("sparse slots: every method, strategy and granularity attends to what a list of live tokens does") {
  std::mt19937 random(11);
  for (const CpuTarget target : targets()) {
    for (const std::uint32_t block_size : {8u, 16u, 32u}) {
      const Shape shape{block_size == 16 ? KvDType::kF16 : KvDType::kF32, block_size, target, 0};
      Bench bench(shape, 2);
      for (const auto method : {SparseMethod::kRandom, SparseMethod::kH2o, SparseMethod::kStreaming,
                                SparseMethod::kSnapKv, SparseMethod::kTova}) {
        for (const auto strategy : {SparseStrategy::kSpvllm, SparseStrategy::kNoOp,
                                    SparseStrategy::kFreeBlock, SparseStrategy::kSparseCopy}) {
          for (const auto granularity :
               {SparseGranularity::kHead, SparseGranularity::kLayer, SparseGranularity::kToken}) {
            hold_to_reference(bench, shape, random_case(random, method, strategy, granularity),
                              static_cast<std::uint32_t>(random()));
          }
        }
      }
      REQUIRE(bench.tables().pool().held() == 0);
    }
  }
}

TEST_CASE("sparse slots: spans of more than one partition, and a sliding window") {
  std::mt19937 random(5);
  for (const std::uint32_t window : {0u, 100u}) {
    const Shape shape{KvDType::kF32, 16, targets().back(), window};
    Bench bench(shape, 3);
    for (const auto method : {SparseMethod::kH2o, SparseMethod::kTova, SparseMethod::kSnapKv}) {
      Case c = random_case(random, method, SparseStrategy::kSpvllm, SparseGranularity::kHead);
      c.params.budget = 300;
      c.params.recent.reset();
      for (const std::uint32_t prompt : {290u, 520u}) {
        c.prompt = prompt;
        c.length = prompt + 30;
        hold_to_reference(bench, shape, c, static_cast<std::uint32_t>(random()));
      }
    }
  }
}

}  // namespace
}  // namespace spillway::gpu::host
