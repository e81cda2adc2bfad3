// SPDX-License-Identifier: Apache-2.0
#include "actors/block_lease.hpp"

#include "actors/messages.hpp"

namespace spillway::actors {

void BlockLease::release() noexcept {
  if (id_ == LeaseId{}) return;
  owner_.post(BlockManagerMessage{ReleaseLease{std::exchange(id_, LeaseId{})}});
}

}  // namespace spillway::actors
