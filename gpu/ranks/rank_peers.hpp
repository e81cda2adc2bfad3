// SPDX-License-Identifier: Apache-2.0
#pragma once

// RankPeers: the other nodes, processes whose GPUs are ranks of the same model. Node 0, the leader, has the
// scheduler; it sends every plan to the others (the followers), which run it on their ranks and drop the
// results.
//
//   start   share the group's id -> agree, a few times (rank_group.hpp) -> started
//   then    the leader sends plans; whoever fails gives up, which ends the ranks of all nodes
//
// The device's own threads call it; see LeadPeers and JoinedPeers for who else does.

#include <cstdint>
#include <span>

#include "gpu/step_plan.hpp"
#include "runtime/result.hpp"

namespace spillway::gpu::ranks {

/// Ranks of one node, of all there are.
struct RankRange {
  std::uint32_t first = 0, count = 1, size = 1;
  [[nodiscard]] bool leads() const noexcept { return first == 0; }
};

class RankPeers {
 public:
  virtual ~RankPeers() = default;

  [[nodiscard]] virtual RankRange range() const noexcept = 0;

  /// The leader's bytes become everybody's. False: a node is lost or gave up.
  [[nodiscard]] virtual bool share(std::span<char> bytes) = 0;
  /// Waits until every node has come here; `value` becomes the smallest. False as share.
  [[nodiscard]] virtual bool agree(std::uint64_t& value) = 0;
  /// The start is over: from here on lost() may change at any time.
  virtual void started() = 0;

  /// By the leader: to every node, in order, before its own ranks get it. Followers never call it.
  virtual void send(const StepPlan& plan) = 0;
  virtual void send(const CopyPlan& plan) = 0;
  /// By the leader: no plan comes any more, the others may go.
  virtual void end() = 0;

  /// A rank of this node failed: all others shall know, and why.
  virtual void give_up(const Error& why) = 0;
  /// Why it is over: another node failed or is gone; null while all is well. From any thread.
  [[nodiscard]] virtual const Error* lost() const noexcept = 0;
};

}  // namespace spillway::gpu::ranks
