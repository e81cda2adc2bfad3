// SPDX-License-Identifier: Apache-2.0
#pragma once

// BlockLease: the right to a sequence's KV blocks. Move-only; dropping it tells the block manager to take the
// blocks back. So memory cannot be forgotten, and cannot be given back twice.

#include <utility>

#include "actors/ids.hpp"
#include "runtime/actor.hpp"

namespace spillway::actors {

struct BlockManagerMessage;

class BlockLease {
 public:
  BlockLease() = default;
  BlockLease(LeaseId id, runtime::Address<BlockManagerMessage> owner) : id_(id), owner_(std::move(owner)) {}
  BlockLease(BlockLease&& other) noexcept : id_(std::exchange(other.id_, LeaseId{})), owner_(other.owner_) {}
  BlockLease& operator=(BlockLease&& other) noexcept {
    if (this != &other) {
      release();
      id_ = std::exchange(other.id_, LeaseId{});
      owner_ = other.owner_;
    }
    return *this;
  }
  ~BlockLease() { release(); }

  [[nodiscard]] LeaseId id() const noexcept { return id_; }
  /// Posts the release now; does nothing on an empty lease.
  void release() noexcept;

 private:
  LeaseId id_{};
  runtime::Address<BlockManagerMessage> owner_;
};

}  // namespace spillway::actors
