// SPDX-License-Identifier: Apache-2.0
#pragma once

// RankGroup: where the ranks of a tensor-parallel device meet while they start, so that one that fails takes the others
// along instead of leaving them in a collective for ever. Shared by the ranks' threads; no rank uses it after its start.

#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "gpu/cuda/collective.hpp"
#include "gpu/cuda/shard.hpp"

namespace spillway::gpu::cuda {

class RankGroup {
 public:
  RankGroup(int size, const GroupId& id) : size_(size), id_(id) {}

  /// Waits until every rank has come here or one has given up; false in that case.
  [[nodiscard]] bool meet() {
    std::uint64_t unused = 0;
    return smallest(unused);
  }
  /// The same; `value` becomes the smallest of the ranks' values.
  [[nodiscard]] bool smallest(std::uint64_t& value) {
    std::unique_lock lock(mutex_);
    least_ = arrived_ == 0 ? value : (value < least_ ? value : least_);
    const std::uint64_t round = round_;
    if (++arrived_ == size_) {
      arrived_ = 0;
      agreed_ = least_;
      ++round_;
      met_.notify_all();
    }
    met_.wait(lock, [&] { return failed_ || round_ != round; });
    value = agreed_;
    return !failed_;
  }
  void give_up() {
    const std::lock_guard lock(mutex_);
    failed_ = true;
    met_.notify_all();
  }
  [[nodiscard]] const GroupId& id() const noexcept { return id_; }
  [[nodiscard]] int size() const noexcept { return size_; }

 private:
  const int size_;
  const GroupId id_;
  std::mutex mutex_;
  std::condition_variable met_;
  int arrived_ = 0;
  std::uint64_t round_ = 0, least_ = 0, agreed_ = 0;
  bool failed_ = false;
};

/// Of a rank whose others did not come along.
[[nodiscard]] inline Error another_failed() { return {Errc::kCancelled, "another rank of the group failed"}; }

/// A rank of a group; group null: a device of its own.
struct Rank {
  Shard shard;
  RankGroup* group = nullptr;
};

}  // namespace spillway::gpu::cuda
