// SPDX-License-Identifier: Apache-2.0
#pragma once

// The serving actors over a simulated device, on a clock of their own: a step takes exactly as long as the
// profile says, and nothing else takes any time. So figures depend neither on the machine nor on its load,
// and the same seed gives the same ones.

#include <cstdint>
#include <vector>

#include "actors/engine.hpp"
#include "bench/sparse/offered_load.hpp"
#include "gpu/sim/sim_device.hpp"

namespace spillway::bench {

/// Serves a load of these lengths as an engine with these options would; `load` has the client's side of it
/// afterwards. Errors: the model's, whose shape alone is used.
[[nodiscard]] Result<ServedLoad> serve_simulated(const EngineOptions& options,
                                                 const gpu::TimingProfile& profile,
                                                 const std::vector<net::load::Lengths>& lengths,
                                                 std::uint64_t seed, OfferedLoad& load);

}  // namespace spillway::bench
