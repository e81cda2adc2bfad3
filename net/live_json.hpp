// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "actors/messages.hpp"
#include "net/metrics.hpp"

namespace spillway::net {

/// One message of /v1/live.
[[nodiscard]] std::string live_json(const actors::EngineSnapshot& snapshot, const Metrics& metrics,
                                    std::size_t requests_open);
/// "12f3h": runs of blocks in the same state.
[[nodiscard]] std::string run_lengths(const std::vector<actors::BlockState>& blocks);

}  // namespace spillway::net
