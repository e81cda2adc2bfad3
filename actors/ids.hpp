// SPDX-License-Identifier: Apache-2.0
#pragma once

// Strong ids of the serving layer. None is ever reused within one engine's life.

#include <cstdint>

namespace spillway::actors {

enum class RequestId : std::uint64_t {};   // one submission; has n choices
enum class SequenceId : std::uint64_t {};  // one choice of one request
enum class LeaseId : std::uint64_t {};     // one admission of a sequence to KV memory; 0 is none
enum class TransferId : std::uint64_t {};  // one batch of block copies

}  // namespace spillway::actors
