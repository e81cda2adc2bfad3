// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace spillway::actors {

/// What a KV block holds, as a picture of the pool shows it.
enum class BlockState : std::uint8_t {
  kFree,    // nothing
  kCached,  // content that a prompt may find again; nobody holds it
  kHeld,    // one sequence's
  kShared,  // several sequences'
  kSparse,  // one sequence's that has evicted tokens
};

}  // namespace spillway::actors
