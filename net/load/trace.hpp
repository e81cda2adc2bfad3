// SPDX-License-Identifier: Apache-2.0
#pragma once

// Recorded traffic: when requests came and how long they were, without their words. Two formats, told apart
// by the first line: Mooncake's JSON lines ({"timestamp": ms, "input_length", "output_length", "hash_ids"})
// and Azure's CSV (TIMESTAMP,ContextTokens,GeneratedTokens).

#include <cstdint>
#include <string_view>
#include <vector>

#include "net/load/prompt_source.hpp"
#include "net/load/workload.hpp"
#include "runtime/result.hpp"

namespace spillway::net::load {

struct TraceEntry {
  std::int64_t at_ns = 0;  // from the first request of the trace
  Lengths lengths;
  std::vector<std::int64_t> hash_ids;  // one a block of the prompt: equal ids stand for equal tokens
};

/// Ascending in time. Errors: kBadFile, with the line.
[[nodiscard]] Result<std::vector<TraceEntry>> parse_trace(std::string_view text, std::string_view name);

/// Requests at the trace's times, `speed` times as fast. Blocks of `block_tokens` with the same hash id get
/// the same content; what no id covers is different in every request.
[[nodiscard]] std::vector<LoadRequest> trace_requests(const std::vector<TraceEntry>& trace, double speed,
                                                      std::uint32_t block_tokens, std::uint64_t seed,
                                                      const PromptSource& source);

/// "2023-11-16 18:15:46.6805900", a "T" and a time zone (+00:00, Z) allowed, as ns since 1970. Errors:
/// kInvalidArgument.
[[nodiscard]] Result<std::int64_t> parse_timestamp(std::string_view text);

}  // namespace spillway::net::load
