// SPDX-License-Identifier: Apache-2.0
#pragma once

// Plans with something random in every field, and whether two are equal: with a list of the fields of its
// own, so that one that the wire forgets is missed here.

#include <random>
#include <string>
#include <tuple>

#include "gpu/step_plan.hpp"

namespace spillway::gpu {

class RandomPlans {
 public:
  explicit RandomPlans(unsigned seed) : random_(seed) {}

  StepPlan step() {
    StepPlan plan;
    plan.step = number<std::uint64_t>();
    repeat(3, [&] {
      plan.row_inits.push_back(
          {RowId{number<std::uint32_t>()}, sampling(), number<std::uint32_t>(), ids(), ids()});
    });
    repeat(5, [&] {
      SequenceStep s;
      s.row = RowId{number<std::uint32_t>()};
      for (std::uint32_t* each : {&s.first_position, &s.token_count, &s.token_offset, &s.block_offset,
                                  &s.block_count, &s.prompt_count, &s.output_index, &s.sparse})
        *each = number<std::uint32_t>();
      s.token_from_row = chance();
      s.samples = chance();
      plan.sequences.push_back(s);
    });
    plan.tokens = ids();
    repeat(20, [&] { plan.block_table.push_back(BlockId{number<std::uint32_t>()}); });
    repeat(2, [&] {
      SparseStep s;
      s.params = sparse();
      for (std::uint32_t* each : {&s.prompt_length, &s.span, &s.evict, &s.live, &s.copy_block_offset})
        *each = number<std::uint32_t>();
      s.reuse = chance();
      s.packing = static_cast<SparseStep::Packing>(below(3));
      plan.sparse.push_back(s);
    });
    plan.wait_for_copy = number<std::uint64_t>();
    return plan;
  }

  CopyPlan copy() {
    CopyPlan plan;
    plan.direction = static_cast<CopyPlan::Direction>(below(3));
    repeat(9, [&] {
      plan.blocks.push_back({BlockId{number<std::uint32_t>()}, BlockId{number<std::uint32_t>()}});
    });
    plan.wait_for_step = number<std::uint64_t>();
    return plan;
  }

  template <class T>
  T number() {
    return static_cast<T>(random_());
  }
  std::uint32_t below(std::uint32_t end) { return static_cast<std::uint32_t>(random_() % end); }

 private:
  bool chance() { return below(2) == 1; }
  float real() { return static_cast<float>(below(1000)) / 7.0f; }
  template <class F>
  void repeat(std::uint32_t most, F&& f) {
    for (std::uint32_t left = below(most + 1); left > 0; --left) f();
  }
  std::vector<TokenId> ids() {
    std::vector<TokenId> list;
    repeat(30, [&] { list.push_back(number<TokenId>()); });
    return list;
  }
  model::SparseKvParams sparse() {
    model::SparseKvParams p;
    p.method = static_cast<model::SparseMethod>(below(6));
    p.strategy = static_cast<model::SparseStrategy>(below(4));
    p.granularity = static_cast<model::SparseGranularity>(below(4));
    for (std::uint32_t* each : {&p.budget, &p.num_per_evict, &p.sinks, &p.window})
      *each = number<std::uint32_t>();
    p.budget_fraction = real();
    if (chance()) p.recent = number<std::uint32_t>();
    if (chance()) p.heavy = number<std::uint32_t>();
    p.rotate_to_cache = chance();
    p.seed = number<std::uint64_t>();
    return p;
  }
  model::SamplingParams sampling() {
    model::SamplingParams p;
    for (std::int32_t* each : {&p.max_tokens, &p.top_k, &p.n, &p.logprobs}) *each = number<std::int32_t>();
    for (float* each : {&p.temperature, &p.top_p, &p.min_p, &p.repetition_penalty, &p.presence_penalty,
                        &p.frequency_penalty})
      *each = real();
    p.seed = number<std::uint64_t>();
    repeat(3, [&] { p.stop.push_back(std::string(below(9), static_cast<char>(below(256)))); });
    p.stop_token_ids = ids();
    p.ignore_eos = chance();
    if (chance()) p.sparse_kv = sparse();
    return p;
  }

  std::mt19937_64 random_;
};

inline bool equal(const model::SamplingParams& a, const model::SamplingParams& b) {
  const auto all = [](const model::SamplingParams& p) {
    return std::tie(p.max_tokens, p.temperature, p.top_k, p.top_p, p.min_p, p.repetition_penalty,
                    p.presence_penalty, p.frequency_penalty, p.seed, p.stop, p.stop_token_ids, p.n,
                    p.logprobs, p.ignore_eos, p.sparse_kv);
  };
  return all(a) == all(b);
}
inline bool equal(const RowInit& a, const RowInit& b) {
  const auto rest = [](const RowInit& r) {
    return std::tie(r.row, r.choice, r.prompt_tokens, r.output_tokens);
  };
  return equal(a.params, b.params) && rest(a) == rest(b);
}
inline bool equal(const SequenceStep& a, const SequenceStep& b) {
  const auto all = [](const SequenceStep& s) {
    return std::tie(s.row, s.first_position, s.token_count, s.token_offset, s.block_offset, s.block_count,
                    s.prompt_count, s.token_from_row, s.samples, s.output_index, s.sparse);
  };
  return all(a) == all(b);
}
inline bool equal(const SparseStep& a, const SparseStep& b) {
  const auto all = [](const SparseStep& s) {
    return std::tie(s.params, s.prompt_length, s.span, s.reuse, s.evict, s.live, s.packing,
                    s.copy_block_offset);
  };
  return all(a) == all(b);
}
inline bool equal(const CopyPlan::Pair& a, const CopyPlan::Pair& b) {
  return a.from == b.from && a.to == b.to;
}
template <class T>
bool equal(const std::vector<T>& a, const std::vector<T>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const T& x, const T& y) { return equal(x, y); });
}
inline bool equal(const StepPlan& a, const StepPlan& b) {
  return a.step == b.step && equal(a.row_inits, b.row_inits) && equal(a.sequences, b.sequences) &&
         a.tokens == b.tokens && a.block_table == b.block_table && equal(a.sparse, b.sparse) &&
         a.wait_for_copy == b.wait_for_copy;
}
inline bool equal(const CopyPlan& a, const CopyPlan& b) {
  return a.direction == b.direction && equal(a.blocks, b.blocks) && a.wait_for_step == b.wait_for_step;
}

}  // namespace spillway::gpu
