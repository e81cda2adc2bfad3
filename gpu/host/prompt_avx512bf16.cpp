// SPDX-License-Identifier: Apache-2.0
// Prompt kernels with AVX-512 BF16: a dot product of two columns a lane, 16 outputs a vector. Eight rows by
// three groups keep 24 sums in registers and read a line of the panel for eight rows at a time, so the dot
// products are the limit (one a cycle on Zen 4).

#define SPW_VEC_TARGET 2
#include "gpu/host/prompt_panel.inl"

namespace spillway::gpu::host {
namespace {

constexpr std::size_t kGroupsAtOnce = 3;

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
void multiply_panel(const MatmulTask& task, std::size_t first_row, std::size_t first_group) {
  const std::size_t blocks = task.cols / kBlockCols, row_bytes = 2 * task.cols;
  __m512 sum[kGroups][kRows];
  add_blocks<kRows, kGroups>(task.rounded + first_row * row_bytes, row_bytes, task.panel,
                             blocks * kPanelBlock, blocks, sum);
  for (std::size_t g = 0; g < kGroups; ++g) {
    for (std::size_t r = 0; r < kRows; ++r) store_outputs(task, first_row + r, first_group + g, sum[g][r]);
  }
}

template <std::size_t kGroups>
void all_rows(const MatmulTask& task, std::size_t group) {
  std::size_t row = 0;
  for (; row + 8 <= task.rows; row += 8) multiply_panel<8, kGroups>(task, row, group);
  for (; row + 4 <= task.rows; row += 4) multiply_panel<4, kGroups>(task, row, group);
  for (; row < task.rows; ++row) multiply_panel<1, kGroups>(task, row, group);
}

template <Storage kStorage, bool kHasMin>
void product(const MatmulTask& task) {
  for (std::size_t group = 0; group < task.group_count; group += kGroupsAtOnce) {
    const std::size_t groups =
        task.group_count - group < kGroupsAtOnce ? task.group_count - group : kGroupsAtOnce;
    fill_panel<kStorage, kHasMin>(task, group, groups);
    switch (groups) {
      case 1:
        all_rows<1>(task, group);
        break;
      case 2:
        all_rows<2>(task, group);
        break;
      default:
        all_rows<3>(task, group);
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

void multiply_tiles(const TileProduct& t) {
  std::size_t group = 0;
  for (; group + 3 <= t.groups; group += 3) tile_rows<3>(t, group);
  if (group + 2 == t.groups) return tile_rows<2>(t, group);
  if (group < t.groups) tile_rows<1>(t, group);
}

void begin_tiles() {}
void end_tiles() {}

}  // namespace
}  // namespace spillway::gpu::host

#include "gpu/host/attention_prompt.inl"

namespace spillway::gpu::host {

constinit const PromptKernels kAvx512Bf16PromptKernels = {
    .u4 = product<Storage::kU4, false>,
    .u4_min = product<Storage::kU4, true>,
    .u8 = product<Storage::kU8, false>,
    .u8_min = product<Storage::kU8, true>,
    .round_row = round_row,
    .attend = attend_rounded,
    .groups_per_pass = kGroupsAtOnce,
};

}  // namespace spillway::gpu::host
