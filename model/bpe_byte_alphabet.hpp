// SPDX-License-Identifier: Apache-2.0
#pragma once

// GPT-2's byte alphabet. Vocabulary files write each byte of a token as one printable character: bytes
// 0x21-0x7E, 0xA1-0xAC and 0xAE-0xFF as the character of that code, the 68 others as U+0100, U+0101, ... in
// order.

#include <cstdint>
#include <string>
#include <string_view>

#include "model/bpe.hpp"

namespace spillway::model {

/// Appends the bytes that `written` stands for. False (and `out` as it was) if a character is not of the
/// alphabet.
[[nodiscard]] bool append_unwritten_bytes(std::string_view written, std::string& out);

/// Adds the merge rule "left right", written in the alphabet. False if left, right or both joined are no
/// tokens. `scratch` is only there to keep its memory from call to call.
[[nodiscard]] bool add_written_merge(BpeModel& bpe, std::string_view left, std::string_view right,
                                     std::uint32_t rank, std::string& scratch);

}  // namespace spillway::model
