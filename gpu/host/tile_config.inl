// SPDX-License-Identifier: Apache-2.0

// The tiles as all AMX kernels here use them: 0 to 3 sums [rows tile][group], 4 and 5 the two tiles of rows, 6 and 7
// panels of two groups; rows of 64 bytes. Needs AMX.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace spillway::gpu::host {
namespace {

struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

/// Tiles of `first` and of `second` rows: what is not there costs no time.
void configure_tiles(std::size_t first, std::size_t second) {
  TileConfig config;
  config.rows[0] = config.rows[1] = config.rows[4] = static_cast<std::uint8_t>(first);
  config.rows[2] = config.rows[3] = config.rows[5] = static_cast<std::uint8_t>(second);
  // g++ 12 believes that only the first 8 bytes are read, and would drop the stores to the others.
  __asm__ volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
}

}  // namespace
}  // namespace spillway::gpu::host
