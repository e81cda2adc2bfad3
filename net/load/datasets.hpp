// SPDX-License-Identifier: Apache-2.0
#pragma once

// Datasets: files and generators that become the requests of a run, without their times (traces excepted).
// Pure: text in, requests out. Errors name the line or entry and what would be right.

#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "net/load/prompt_source.hpp"
#include "net/load/workload.hpp"
#include "runtime/random.hpp"
#include "runtime/result.hpp"

namespace spillway::net::load {

/// Tokens of a text, without special tokens.
using CountTokens = std::function<Result<std::size_t>(std::string_view text)>;

/// Requests of the given lengths. `shared_prefix`: the first so many tokens of every prompt are the same.
[[nodiscard]] std::vector<LoadRequest> synthetic_requests(const std::vector<Lengths>& lengths,
                                                          std::uint32_t shared_prefix,
                                                          const PromptSource& source,
                                                          runtime::Random& random);

struct FileOptions {
  std::size_t num_prompts = 1000;              // fewer entries than that are gone through again
  std::optional<std::uint32_t> output_tokens;  // for every answer; else what the entry says
  bool shuffle = true;
};

/// ShareGPT: [{"conversations":[{"from","value"},...]},...]: the first turn is the prompt, the second's
/// length the answer's. As vLLM, entries are left out whose prompt or answer has fewer than 4 tokens, whose
/// prompt has more than 1024, or both together more than 2048.
[[nodiscard]] Result<std::vector<LoadRequest>> sharegpt_requests(std::string_view text, std::string_view name,
                                                                 const FileOptions& options,
                                                                 const CountTokens& count,
                                                                 runtime::Random& random);

/// JSON lines: {"prompt": text or list of token ids, "output_tokens": N}. `count` may be empty: lengths of
/// texts are then what the server says.
[[nodiscard]] Result<std::vector<LoadRequest>> custom_requests(std::string_view text, std::string_view name,
                                                               const FileOptions& options,
                                                               const CountTokens& count,
                                                               runtime::Random& random);

}  // namespace spillway::net::load
