// SPDX-License-Identifier: Apache-2.0
#pragma once

// GroupDevice: this node's ranks as one Device. Every plan goes to all ranks, first to those of other nodes
// (rank_peers.hpp); all draw the same tokens, and the results of the node's first rank are given out. That
// rank is driven by the caller's thread, each other one by a thread of its own, which spins while there is
// work. A rank or node that fails ends the whole device.

#include <functional>
#include <memory>

#include "gpu/ranks/rank_device.hpp"
#include "gpu/ranks/rank_group.hpp"

namespace spillway::gpu::ranks {

struct GroupArgs {
  RankRange range;
  RankPeers* peers = nullptr;  // null: no other nodes; outlives the device
  std::function<Result<GroupId>()> make_id;
  /// Makes a rank; called for all ranks at once, each by its own thread. `group` lives until all have
  /// started.
  std::function<Result<std::unique_ptr<RankDevice>>(std::uint32_t rank, RankGroup& group)> make_rank;
};

/// Errors: those of make_id and of the rank that failed first, wherever it is.
[[nodiscard]] Result<std::unique_ptr<Device>> create_group_device(const GroupArgs& args);

}  // namespace spillway::gpu::ranks
