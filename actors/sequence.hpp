// SPDX-License-Identifier: Apache-2.0
#pragma once

// Sequence: one choice of one request as the scheduler sees it. Pure data; the scheduler actor owns it.
//
// Lengths, with asynchronous submission in mind:
//   tokens.size()      tokens known here: the prompt and every sampled token that has come back
//   sampling           tokens that steps in flight will add (0 or more)
//   length()           tokens.size() + sampling: what the next step builds on
//   computed           positions whose KV exists or will, once the steps in flight are done
// computed <= length(). A sequence decodes when computed == length() - 1, else it prefills. A sparsified one
// that is computed again after a preemption goes through its old output token by token, as it did the first
// time, so that it keeps and evicts the same tokens.

#include <cstdint>
#include <vector>

#include "actors/ids.hpp"
#include "actors/prefix_hash.hpp"
#include "actors/slot_count.hpp"
#include "gpu/step_plan.hpp"
#include "model/sampling_params.hpp"
#include "runtime/time.hpp"

namespace spillway::actors {

struct Sequence {
  enum class Phase : std::uint8_t {
    kWaiting,    // holds nothing
    kAdmitting,  // asked the block manager for a lease
    kRunning,    // holds a lease and a row
  };

  SequenceId id{};
  RequestId request{};
  std::uint32_t choice = 0;
  std::uint64_t arrival = 0;                 // order of service; kept over preemptions
  runtime::TimePoint added{}, first_step{};  // first_step: zero until one was planned
  model::SamplingParams params;
  model::SparseKvParams sparse;
  std::vector<model::TokenId> tokens;
  PrefixHash salt;  // of the names of its blocks
  std::uint32_t prompt_length = 0;
  std::uint32_t length_limit = 0;    // prompt and output together may not exceed this
  std::vector<SequenceId> siblings;  // choices that fork from this one when its prompt is computed

  Phase phase = Phase::kWaiting;
  LeaseId lease{};
  gpu::RowId row{};
  bool row_ready = false;  // the device knows the row's parameters
  bool held = false;       // the client stopped taking tokens
  std::uint32_t computed = 0;
  std::uint32_t committed = 0;  // positions told to the block manager as valid
  std::uint32_t told = 0;       // tokens the block manager knows
  std::uint32_t sampling = 0;
  std::uint32_t steps_in_flight = 0;
  std::uint32_t life = 0;           // results of steps from an earlier life (before a failure) do not count
  std::uint32_t blocks = 0;         // blocks its table holds
  std::uint32_t shared_blocks = 0;  // of those, found in the prefix cache at admission
  SlotCount slots;                  // when sparsified: after the last step planned
  std::uint32_t evicted_tokens = 0;

  std::uint32_t cached_tokens = 0;  // at first admission
  std::uint32_t preemptions = 0;
  std::uint32_t recomputed_tokens = 0;  // positions computed more than once
  std::uint32_t device_failures = 0;

  [[nodiscard]] std::uint32_t length() const noexcept {
    return static_cast<std::uint32_t>(tokens.size()) + sampling;
  }
  [[nodiscard]] std::uint32_t outputs() const noexcept { return length() - prompt_length; }
  [[nodiscard]] bool sparsified() const noexcept { return sparse.on(); }
  [[nodiscard]] bool decodes() const noexcept { return computed + 1 == length() && outputs() > 0; }
  /// Another step would add something: positions to compute, and room for a token.
  [[nodiscard]] bool wants_step() const noexcept {
    if (outputs() == 0) return computed < length();
    return computed < length() && outputs() < static_cast<std::uint32_t>(params.max_tokens) &&
           length() < length_limit;
  }
};

}  // namespace spillway::actors
