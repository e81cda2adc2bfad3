// SPDX-License-Identifier: Apache-2.0
#pragma once

// One forward step as plain data: what a scheduler plans, a block manager fills in and a device executes.
// A device runs the plans it is given strictly in the order of submission (one stream), so a block freed
// after step k was submitted may be written by step k+1 without a fence.

#include <cstdint>
#include <vector>

#include "gpu/sparse_step.hpp"
#include "model/sampling_params.hpp"
#include "model/spec.hpp"

namespace spillway::gpu {

using model::TokenId;

/// Index of a KV block in one device's pool.
enum class BlockId : std::uint32_t {};
/// A running sequence's place on the device: holds its last sampled token and its penalty counts.
/// 0 <= row < DeviceOptions::max_num_seqs; the scheduler gives rows out and takes them back.
enum class RowId : std::uint32_t {};
/// Number of a submission to one device; steps and copies count apart, each from 1.
using Ticket = std::uint64_t;

/// (Re)initialises a row before the step runs: at admission and after a preemption.
struct RowInit {
  RowId row{};
  model::SamplingParams params;        // the device reads only what sampling needs
  std::uint32_t choice = 0;            // j of (seed, j, i)
  std::vector<TokenId> prompt_tokens;  // filled only when params.has_penalties()
  std::vector<TokenId> output_tokens;  // generated before a preemption; only when params.has_penalties()
};

/// One sequence's share of a step: `token_count` consecutive tokens starting at `first_position`.
struct SequenceStep {
  RowId row{};
  std::uint32_t first_position = 0;  // logical position of its first token in this step
  std::uint32_t token_count = 0;     // >= 1; 1 in decode
  std::uint32_t token_offset = 0;    // into StepPlan::tokens
  std::uint32_t block_offset = 0;    // into StepPlan::block_table
  std::uint32_t block_count = 0;     // covers first_position + token_count tokens
  std::uint32_t prompt_count = 0;    // leading tokens of these that were given, not generated: a device may
                                     // compute them in another precision, always the same for a token
  bool token_from_row = false;       // decode: the input is the row's last sampled token, on the device;
                                     // token_count is 1 and StepPlan::tokens holds a don't-care
  bool samples = false;              // draw a token from the last position's logits into the row
  std::uint32_t output_index = 0;    // i of (seed, j, i): tokens generated before this one
  std::uint32_t sparse = kExact;  // into StepPlan::sparse; its blocks then cover the span, not the positions

  static constexpr std::uint32_t kExact = UINT32_MAX;
  [[nodiscard]] bool sparsified() const noexcept { return sparse != kExact; }
};

struct StepPlan {
  std::uint64_t step = 0;  // the scheduler's number, echoed in the result
  std::vector<RowInit> row_inits;
  std::vector<SequenceStep> sequences;
  std::vector<TokenId> tokens;
  std::vector<BlockId> block_table;
  std::vector<SparseStep> sparse;  // of the sparsified sequences
  Ticket wait_for_copy = 0;        // start only after this copy is done (0: none)

  [[nodiscard]] std::uint32_t total_tokens() const noexcept {
    return static_cast<std::uint32_t>(tokens.size());
  }
};

struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0;  // natural log, of the model's distribution before temperature and filters,
                      // after no penalty: log_softmax(logits)
};

struct SampledToken {
  std::uint32_t sequence_index = 0;  // into StepPlan::sequences
  TokenId token = 0;
  float logprob = 0;              // as TokenLogprob; 0 when not asked for
  std::vector<TokenLogprob> top;  // best first; params.logprobs entries
};

struct StepResult {
  std::uint64_t step = 0;
  bool failed = false;  // nothing in this step counts; `message` says why
  std::string message;
  std::vector<SampledToken> tokens;  // one for each sequence with `samples`, in order
  struct Emptied {
    std::uint32_t sequence_index = 0;  // into StepPlan::sequences
    BlockId block{};
  };
  std::vector<Emptied> emptied;  // strategy free-block: blocks whose last live token was evicted in this step
  std::int64_t device_ns = 0;    // time the device was busy with it
};

/// Block copies inside a device's pool or between it and its host pool, on the device's copy stream.
struct CopyPlan {
  enum class Direction : std::uint8_t { kWithinDevice, kDeviceToHost, kHostToDevice };
  struct Pair {
    BlockId from{}, to{};
  };
  Direction direction = Direction::kWithinDevice;
  std::vector<Pair> blocks;
  Ticket wait_for_step = 0;  // read-after-write: start only after this step is done (0: none)
};

}  // namespace spillway::gpu
