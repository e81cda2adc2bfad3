// SPDX-License-Identifier: Apache-2.0
#pragma once

// RankGroup: where the ranks of a tensor-parallel device meet while they start, so that one that fails takes
// the others along instead of leaving them in a collective for ever. Shared by the threads of this node's
// ranks, the last of which to come meets the other nodes for all of them; no rank uses it after its start.

#include <array>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "gpu/ranks/rank_peers.hpp"

namespace spillway::gpu::ranks {

/// What the ranks find each other by.
using GroupId = std::array<char, 128>;

class RankGroup {
 public:
  /// `members`: ranks of this node; `peers`: null without other nodes.
  RankGroup(std::uint32_t members, const GroupId& id, RankPeers* peers)
      : members_(members), id_(id), peers_(peers) {}

  /// Waits until every rank has come here or one has given up; false in that case.
  [[nodiscard]] bool meet() {
    std::uint64_t unused = 0;
    return smallest(unused);
  }
  /// The same; `value` becomes the smallest of the ranks' values.
  [[nodiscard]] bool smallest(std::uint64_t& value) {
    std::unique_lock lock(mutex_);
    if (failed_) return false;
    least_ = arrived_ == 0 ? value : (value < least_ ? value : least_);
    const std::uint64_t round = round_;
    if (++arrived_ == members_) {
      arrived_ = 0;
      if (peers_ != nullptr && !peers_->agree(least_)) failed_ = true;
      agreed_ = least_;
      ++round_;
      met_.notify_all();
    }
    met_.wait(lock, [&] { return failed_ || round_ != round; });
    value = agreed_;
    return !failed_;
  }
  void give_up(const Error& why) {
    const std::lock_guard lock(mutex_);
    if (failed_) return;
    failed_ = true;
    if (peers_ != nullptr) peers_->give_up(why);
    met_.notify_all();
  }
  [[nodiscard]] const GroupId& id() const noexcept { return id_; }

 private:
  const std::uint32_t members_;
  const GroupId id_;
  RankPeers* const peers_;
  std::mutex mutex_;
  std::condition_variable met_;
  std::uint32_t arrived_ = 0;
  std::uint64_t round_ = 0, least_ = 0, agreed_ = 0;
  bool failed_ = false;
};

/// Of a rank whose others did not come along.
[[nodiscard]] inline Error another_failed() { return {Errc::kCancelled, "another rank of the group failed"}; }

}  // namespace spillway::gpu::ranks
