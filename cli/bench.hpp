// SPDX-License-Identifier: Apache-2.0
#pragma once

// The commands below `spillway bench`, and what they share.

#include "cli/command.hpp"

namespace spillway::cli {

[[nodiscard]] Run make_bench_serve(CLI::App& command);
[[nodiscard]] Run make_bench_throughput(CLI::App& command);
[[nodiscard]] Run make_bench_latency(CLI::App& command);

}  // namespace spillway::cli
