// SPDX-License-Identifier: Apache-2.0
// libFuzzer's entry, compiled once for each target: SPW_FUZZ_TARGET is its function.

#include <cstdint>

#include "tests/fuzz/targets.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  spillway::fuzz::SPW_FUZZ_TARGET({reinterpret_cast<const std::byte*>(data), size});
  return 0;
}
