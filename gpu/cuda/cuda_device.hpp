// SPDX-License-Identifier: Apache-2.0
#pragma once

// CudaDevice: an NVIDIA GPU as a Device. One stream computes, others bring a step's inputs and results and copy blocks; what
// is under way is found done by events that poll() asks about. After create() nothing is allocated, no default stream is
// used and nobody waits for the device.
//
//   submit   fill the step's pinned inputs -> over the link, beside earlier steps -> into place -> replay a graph (decoding
//            only) or launch -> results aside -> over the link, beside later steps
//   poll     the oldest step's event has passed -> its result is read from pinned memory -> the sink hears of it
//
// A token drawn in step k is fed to step k+1 on the device (token_from_row), so that k+1 is submitted before the
// host has seen it.

#include <memory>

#include "gpu/cuda/cuda_options.hpp"
#include "gpu/cuda/shard.hpp"
#include "gpu/ranks/rank_device.hpp"
#include "gpu/ranks/rank_group.hpp"

namespace spillway::gpu::cuda {

/// A rank of a group; group null: a device of its own.
struct Rank {
  Shard shard;
  ranks::RankGroup* group = nullptr;
};

/// Errors: as open_cuda_device; kCancelled when another rank of the group failed.
[[nodiscard]] Result<std::unique_ptr<ranks::RankDevice>> create_rank_device(const CreateArgs& args, const Rank& rank);

/// One GPU, or several as the options say. Errors: see open_cuda_device.
[[nodiscard]] Result<std::unique_ptr<Device>> create_cuda_device(const CreateArgs& args);

}  // namespace spillway::gpu::cuda
