// SPDX-License-Identifier: Apache-2.0
#pragma once

// What --stats says: what a job cost, measured by the answers, the engine's counters and the operating
// system.

#include <cstdint>
#include <string>

#include "cli/job.hpp"

namespace spillway::cli {

/// Call first in main.
void note_process_start();
/// Seconds since the operating system started this process, program loading included (to 10 ms).
[[nodiscard]] double seconds_since_process_start();

/// Most memory that was resident at once, bytes.
[[nodiscard]] std::uint64_t peak_memory_bytes();

/// What answers add up to. Also kept over several jobs (a chat).
struct JobTotals {
  std::size_t requests = 0, choices = 0, failed = 0;
  std::uint64_t prompt_tokens = 0, cached_tokens = 0, completion_tokens = 0;
  double first_token_process_s = 0;  // of the first answer that had one; 0: none
  double first_token_min_s = 0, first_token_mean_s = 0, first_token_max_s = 0;  // after submission
  double decode_s = 0;  // from the first token of all to the end of all
  double busy_s = 0;    // while at least one request was open
};

[[nodiscard]] JobTotals totals_of(const std::vector<Answer>& answers);

[[nodiscard]] std::string seed_text(std::uint64_t seed);
/// Several lines.
[[nodiscard]] std::string stats_text(const JobTotals& totals, const actors::ServingStats& serving,
                                     const Engine& engine);

}  // namespace spillway::cli
