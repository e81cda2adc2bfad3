// SPDX-License-Identifier: Apache-2.0
#pragma once

// What a card and its link to the host reach by themselves, without the engine. An error of CUDA's ends the
// program.

#include <cuda_runtime_api.h>

#include <vector>

namespace spillway::bench {

[[nodiscard]] double median(std::vector<double> values);
void check(cudaError_t code);

/// Bytes read and written a second by a large copy within the device.
[[nodiscard]] double copy_rate();

/// Bytes a second of one large pinned copy at a time, and of both directions at once (each).
struct LinkRate {
  double to_host = 0, to_device = 0, both = 0;
};
[[nodiscard]] LinkRate link_rate();

}  // namespace spillway::bench
