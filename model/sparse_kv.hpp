// SPDX-License-Identifier: Apache-2.0
#pragma once

// KV sparsification: which tokens a sequence keeps once it has more than its budget. Plain data, shared by
// the API, the block manager and the devices.
//
//   live tokens   those that are attended to; every KV head of every layer has as many, though not the same
//   budget        the most of them that one step attends to, the token being computed included
//   protected     never evicted: the first `sinks` tokens and the last `recent` ones

#include <cstdint>
#include <optional>
#include <string_view>

#include "runtime/result.hpp"

namespace spillway::model {

/// By what a token is judged; the lowest go first, the older one of two equals.
enum class SparseMethod : std::uint8_t {
  kNone,       // exact
  kRandom,     // a hash of the request's seed, the head and the position
  kH2o,        // attention received from every query so far, the prompt's included (Zhang et al. 2023)
  kStreaming,  // age: what is not a sink goes oldest first (StreamingLLM, Xiao et al. 2023)
  kSnapKv,  // attention received from the prompt's last `window` queries, pooled over neighbours (Li et al.
            // 2024), and from every query after the prompt
  kTova,    // attention received from the last query (Oren et al. 2024)
};

/// What happens to the memory of evicted tokens.
enum class SparseStrategy : std::uint8_t {
  kSpvllm,      // the next token takes an evicted token's slot
  kNoOp,        // they are masked; nothing is given back
  kFreeBlock,   // a block is given back once all of its tokens are evicted, in every head
  kSparseCopy,  // survivors are copied into a new table whenever that saves a block
};

/// Who chooses: each KV head for itself, the heads of a layer together, or all layers together. kAuto, until
/// resolve(): what serves the method best, kLayer for tova (one query of one head says little), else kHead.
enum class SparseGranularity : std::uint8_t { kHead, kLayer, kToken, kAuto };

struct SparseKvParams {
  SparseMethod method = SparseMethod::kNone;
  SparseStrategy strategy = SparseStrategy::kSpvllm;
  SparseGranularity granularity = SparseGranularity::kAuto;
  std::uint32_t budget = 0;             // tokens; 0: taken from budget_fraction
  double budget_fraction = 0;           // (0, 1): of the prompt's tokens
  std::uint32_t num_per_evict = 1;      // tokens evicted at a time
  std::uint32_t sinks = 4;              // tokens
  std::optional<std::uint32_t> recent;  // tokens; empty: half of what the sinks leave (streaming: all,
                                        // tova and random: 1, snapkv: window); the newest is always protected
  std::optional<std::uint32_t> heavy;   // tokens kept for their score: the budget without sinks and recent
  std::uint32_t window = 32;            // snapkv: queries of the prompt that count
  bool rotate_to_cache = false;         // streaming: positions count live tokens, not all tokens
  std::uint64_t seed = 0;               // random

  [[nodiscard]] bool on() const noexcept { return method != SparseMethod::kNone; }
  /// Attention scores are needed: all but random and streaming.
  [[nodiscard]] bool scored() const noexcept {
    return method == SparseMethod::kH2o || method == SparseMethod::kSnapKv || method == SparseMethod::kTova;
  }
  friend bool operator==(const SparseKvParams&, const SparseKvParams&) = default;
};

/// Refuses what contradicts itself whatever the prompt, naming the field. Nothing is checked when the method
/// is none.
[[nodiscard]] Result<void> validate(const SparseKvParams& params);

/// The parameters of a request with a prompt of `prompt_tokens`: the granularity is known; budget, recent and
/// heavy are numbers that add up. Errors: kInvalidArgument when the quotas do not fit the budget.
[[nodiscard]] Result<SparseKvParams> resolve(SparseKvParams params, std::uint32_t prompt_tokens);

[[nodiscard]] std::string_view name_of(SparseMethod method) noexcept;
[[nodiscard]] std::string_view name_of(SparseStrategy strategy) noexcept;
[[nodiscard]] std::string_view name_of(SparseGranularity granularity) noexcept;
/// Errors: kInvalidArgument, listing the names there are.
[[nodiscard]] Result<SparseMethod> parse_sparse_method(std::string_view name);
[[nodiscard]] Result<SparseStrategy> parse_sparse_strategy(std::string_view name);
[[nodiscard]] Result<SparseGranularity> parse_sparse_granularity(std::string_view name);

}  // namespace spillway::model
