// SPDX-License-Identifier: Apache-2.0
// Attention of prompt tokens with AVX-512 BF16: a dot product of two columns a lane, 16 outputs a vector.
// Eight rows by three groups keep 24 sums in registers and read a line of the panel for eight rows at a time,
// so the dot products are the limit (one a cycle on Zen 4). Products with weights are faster as integers.

#define SPW_VEC_TARGET 2
#include "gpu/host/prompt_panel.inl"

namespace spillway::gpu::host {
namespace {

/// sum[g][r] of kRows rows and kGroups groups over `blocks` blocks of 32 columns.
template <std::size_t kRows, std::size_t kGroups>
[[gnu::always_inline]] inline void add_blocks(const std::byte* x, std::size_t row_bytes,
                                              const std::byte* panel, std::size_t group_bytes,
                                              std::size_t blocks, __m512 (&sum)[kGroups][kRows]) {
  for (std::size_t g = 0; g < kGroups; ++g) {
    for (std::size_t r = 0; r < kRows; ++r) sum[g][r] = _mm512_setzero_ps();
  }
  for (std::size_t p = 0; p < blocks * kPairsPerBlock; ++p, x += 4, panel += kPanelLine) {
    __m512bh weights[kGroups];
    for (std::size_t g = 0; g < kGroups; ++g)
      weights[g] = (__m512bh)_mm512_load_si512(panel + g * group_bytes);
    for (std::size_t r = 0; r < kRows; ++r) {
      int pair;
      __builtin_memcpy(&pair, x + r * row_bytes, sizeof pair);
      const __m512bh values = (__m512bh)_mm512_set1_epi32(pair);
      for (std::size_t g = 0; g < kGroups; ++g) sum[g][r] = _mm512_dpbf16_ps(sum[g][r], weights[g], values);
    }
  }
}

template <std::size_t kRows, std::size_t kGroups>
void multiply_tile(const TileProduct& t, std::size_t row, std::size_t group) {
  __m512 sum[kGroups][kRows];
  add_blocks<kRows, kGroups>(t.a + row * t.a_row_bytes, t.a_row_bytes, t.panel + group * t.group_bytes,
                             t.group_bytes, t.blocks, sum);
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t g = 0; g < kGroups; ++g)
      _mm512_store_ps(t.c + (row + r) * t.c_stride + (group + g) * kGroupRows, sum[g][r]);
  }
}

template <std::size_t kGroups>
void tile_rows(const TileProduct& t, std::size_t group) {
  std::size_t row = 0;
  for (; row + 8 <= t.rows; row += 8) multiply_tile<8, kGroups>(t, row, group);
  for (; row + 4 <= t.rows; row += 4) multiply_tile<4, kGroups>(t, row, group);
  for (; row < t.rows; ++row) multiply_tile<1, kGroups>(t, row, group);
}

/// There is nothing to do between vectors.
template <class Between>
void multiply_tiles(const TileProduct& t, Between&) {
  std::size_t group = 0;
  for (; group + 3 <= t.groups; group += 3) tile_rows<3>(t, group);
  if (group + 2 == t.groups) return tile_rows<2>(t, group);
  if (group < t.groups) tile_rows<1>(t, group);
}

void begin_tiles() {}
void end_tiles() {}

constexpr std::size_t kScoreParts = 1;
template <class Between>
void multiply_scores(const TileProduct& t, Between& between) {
  multiply_tiles(t, between);
}

}  // namespace
}  // namespace spillway::gpu::host

#include "gpu/host/attention_prompt.inl"

namespace spillway::gpu::host {

constinit const PromptKernels kAvx512Bf16PromptKernels = {
    .attend = attend_rounded,
    .task_rows = kPromptTaskRows / 2,
};

}  // namespace spillway::gpu::host
