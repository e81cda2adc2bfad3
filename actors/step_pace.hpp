// SPDX-License-Identifier: Apache-2.0
#pragma once

// StepPace: how many prompt tokens a step may carry beside running answers, so that an arriving prompt does
// not stall them. A step that carries prompt tokens should take at most `max_stretch` times one that only
// decodes. Where several wait for their first token, each but the first counts as eight readers: if these are
// more than those who read along, what a step may take longer grows by that ratio.
//
// A chunk's beginning costs a pass over what the prompt has in the KV cache already. Small chunks of a long
// prompt would pay it so often that everybody waits longer in the end; so a chunk has at least as many tokens
// as cost what its beginning does, as long as the step takes at most 1.8 times one that only decodes.
//
// It learns from the device's own times alone: what a step of so many decoding sequences takes, and what a
// chunk adds to it. Both drift (contexts grow), so decode-only steps are measured anew now and then, every
// eighth chunk is half as long, and a chunk grows by at most a factor of two over the last one.

#include <array>
#include <cstdint>

#include "actors/chunk_cost.hpp"

namespace spillway::actors {

class StepPace {
 public:
  static constexpr std::uint32_t kUnlimited = UINT32_MAX;

  /// max_stretch: above 1; 0 means no limit.
  explicit StepPace(double max_stretch) : max_stretch_(max_stretch) {}

  /// Prompt tokens that the next step may take beside `decodes` sequences that decode, when `prompts` wait
  /// for their first token. 0: that step is to measure decoding alone. Counts as planned: call once a step.
  [[nodiscard]] std::uint32_t prompt_tokens(std::uint32_t decodes, std::uint32_t prompts);

  /// A step is done and took `device_ns`.
  void measured(std::uint32_t decodes, std::uint32_t prompt_tokens, std::int64_t device_ns);

 private:
  /// Steps that decode 2^i to 2^(i+1) - 1 sequences and nothing else.
  struct DecodeTime {
    double ns = 0;          // 0: not known
    std::uint32_t age = 0;  // steps planned since it was measured
  };
  [[nodiscard]] DecodeTime& decode_time(std::uint32_t decodes);

  double max_stretch_;
  std::array<DecodeTime, 32> decode_times_{};
  ChunkCost chunk_cost_;
  std::uint32_t chunks_ = 0;  // planned
  std::uint32_t last_chunk_ = 0;
  std::uint32_t probes_ = 0;  // steps in a row given to measuring
};

}  // namespace spillway::actors
