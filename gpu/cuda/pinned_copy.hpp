// SPDX-License-Identifier: Apache-2.0
#pragma once

// Copies of a few kilobytes between pinned host memory and the device, or within it, by a kernel: a step's inputs and results
// must not queue in a copy engine behind blocks of the KV cache, which made a step wait for 15 ms on an H100.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <span>

namespace spillway::gpu::cuda {

/// Both ends start at 16 bytes and have room for `bytes` rounded up to 16.
struct PinnedCopy {
  const void* from = nullptr;
  void* to = nullptr;
  std::size_t bytes = 0;
};

inline constexpr std::size_t kPinnedCopiesMax = 12;

/// At most kPinnedCopiesMax copies in one launch, which does not start under the kernel in front. Empty ones are left out.
void launch_pinned_copies(std::span<const PinnedCopy> copies, cudaStream_t stream);

/// For tests: a kernel that writes where nothing is; the driver then ends all work on the device.
void launch_fault(cudaStream_t stream);

}  // namespace spillway::gpu::cuda
