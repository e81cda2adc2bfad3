// SPDX-License-Identifier: Apache-2.0
// Prompt kernels with AVX-512 BF16: a dot product of two columns a lane, 16 outputs a vector. Eight rows by
// three groups keep 24 sums in registers and read a line of the panel for eight rows at a time, so the dot
// products are the limit (one a cycle on Zen 4).

#include "gpu/host/prompt_panel.inl"

namespace spillway::gpu::host {
namespace {

constexpr std::size_t kGroupsAtOnce = 3;

template <std::size_t kRows, std::size_t kGroups>
void multiply_panel(const MatmulTask& task, std::size_t first_row, std::size_t first_group) {
  const std::size_t blocks = task.cols / kBlockCols, group_bytes = blocks * kPanelBlock;
  const QuantizedBlock* x = task.quantized + first_row * blocks;
  const std::byte* panel = task.panel;
  __m512 sum[kGroups][kRows];
  for (std::size_t g = 0; g < kGroups; ++g) {
    for (std::size_t r = 0; r < kRows; ++r) sum[g][r] = _mm512_setzero_ps();
  }
  for (std::size_t b = 0; b < blocks; ++b, ++x) {
    for (std::size_t p = 0; p < kPairsPerBlock; ++p, panel += kPanelLine) {
      __m512bh weights[kGroups];
      for (std::size_t g = 0; g < kGroups; ++g)
        weights[g] = (__m512bh)_mm512_load_si512(panel + g * group_bytes);
      for (std::size_t r = 0; r < kRows; ++r) {
        int pair;
        __builtin_memcpy(&pair, reinterpret_cast<const std::byte*>(x + r * blocks) + 4 * p, sizeof pair);
        const __m512bh values = (__m512bh)_mm512_set1_epi32(pair);
        for (std::size_t g = 0; g < kGroups; ++g)
          sum[g][r] = _mm512_dpbf16_ps(sum[g][r], weights[g], values);
      }
    }
  }
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

}  // namespace

constinit const PromptKernels kAvx512Bf16PromptKernels = {
    .u4 = product<Storage::kU4, false>,
    .u4_min = product<Storage::kU4, true>,
    .u8 = product<Storage::kU8, false>,
    .u8_min = product<Storage::kU8, true>,
    .round_row = round_row,
    .groups_per_pass = kGroupsAtOnce,
};

}  // namespace spillway::gpu::host
