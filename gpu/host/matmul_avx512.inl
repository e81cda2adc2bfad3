// SPDX-License-Identifier: Apache-2.0

// How products with quantized weights go over rows and groups with AVX-512. A vector's 16 lanes are 16 output
// rows; activations are broadcast from memory, so no lane is ever summed with another. Some activation rows
// are taken per pass over three groups: what is unpacked serves all of these rows and what is broadcast three
// groups. Included by the files that define what a pass does: a `Pass` with
//   kRows                    rows that it takes at most; fewer are 4, 3, 2 or 1
//   groups<storage, has_min, rows, groups>(task, first_row, first_group, ahead)

#include <immintrin.h>

#include "gpu/host/matmul_kernels.hpp"

namespace spillway::gpu::host {
namespace {

/// Up to as many rows are bound by memory.
constexpr std::size_t kFewRows = 4;
/// With few rows the limit is the memory; hardware prefetchers stop at 4 KiB pages, this does not.
constexpr std::size_t kPrefetchBytes = 6144;

/// What passes fetch meanwhile: `bytes` with each block, until all has been asked for.
struct Ahead {
  const std::byte* next = nullptr;
  const std::byte* end = nullptr;
  std::size_t bytes = 0;  // whole lines

  void fetch() {
    const std::byte* stop = end - next < static_cast<std::ptrdiff_t>(bytes) ? end : next + bytes;
    for (; next < stop; next += 64) _mm_prefetch(reinterpret_cast<const char*>(next), _MM_HINT_T0);
  }
};

std::size_t whole_lines(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

__mmask16 lanes_of(std::size_t outputs) {
  return outputs >= kGroupRows ? __mmask16{0xffff} : static_cast<__mmask16>((1u << outputs) - 1);
}

void store_outputs(const MatmulTask& task, std::size_t row, std::size_t group, __m512 sum) {
  const std::size_t output = group * kGroupRows;
  const __mmask16 lanes = lanes_of(task.outputs - output);
  if (task.bias != nullptr) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, task.bias + output));
  _mm512_mask_storeu_ps(task.y + row * task.y_stride + output, lanes, sum);
}

/// Rows from `first_row`, as many as are taken at once; returns their number.
template <class Pass, Storage kStorage, bool kHasMin, std::size_t kGroups>
std::size_t quantized_pass(const MatmulTask& task, std::size_t first_row, std::size_t first_group,
                           Ahead& ahead) {
  const std::size_t left = task.rows - first_row;
  if (left >= Pass::kRows) {
    Pass::template groups<kStorage, kHasMin, Pass::kRows, kGroups>(task, first_row, first_group, ahead);
    return Pass::kRows;
  }
  if (left >= 4) {
    Pass::template groups<kStorage, kHasMin, 4, kGroups>(task, first_row, first_group, ahead);
    return 4;
  }
  switch (left) {
    case 3:
      Pass::template groups<kStorage, kHasMin, 3, kGroups>(task, first_row, first_group, ahead);
      break;
    case 2:
      Pass::template groups<kStorage, kHasMin, 2, kGroups>(task, first_row, first_group, ahead);
      break;
    default:
      Pass::template groups<kStorage, kHasMin, 1, kGroups>(task, first_row, first_group, ahead);
      break;
  }
  return left;
}

/// All rows times kGroups groups, which stay in the cache meanwhile, as what comes `next` enters it.
template <class Pass, Storage kStorage, bool kHasMin, std::size_t kGroups>
void quantized_rows(const MatmulTask& task, std::size_t first_group, const std::byte* next,
                    std::size_t next_bytes) {
  const std::size_t passes = (task.rows + Pass::kRows - 1) / Pass::kRows;
  Ahead ahead{next, next + next_bytes, whole_lines(next_bytes / (passes * (task.cols / kBlockCols)))};
  for (std::size_t row = 0; row < task.rows;) {
    row += quantized_pass<Pass, kStorage, kHasMin, kGroups>(task, row, first_group, ahead);
  }
}

/// Copies kGroups groups of 4-bit weights as kU8 tiles, one group after the other.
template <bool kHasMin>
void unpack_groups(const MatmulTask& task, std::size_t first_group, std::size_t groups) {
  constexpr std::size_t kScaleBytes = kHasMin ? 64 : 32;
  const __m512i low_nibbles = _mm512_set1_epi8(15);
  std::byte* to = task.panel;
  for (std::size_t g = first_group; g < first_group + groups; ++g) {
    const std::byte* tile = task.groups + g * task.group_bytes;
    for (std::size_t b = 0; b < task.cols / kBlockCols; ++b, tile += 256 + kScaleBytes) {
      for (std::size_t j = 0; j < 4; ++j) {
        const __m512i both = _mm512_loadu_si512(tile + 64 * j);
        _mm512_storeu_si512(to + 64 * j, _mm512_and_si512(both, low_nibbles));
        _mm512_storeu_si512(to + 256 + 64 * j, _mm512_and_si512(_mm512_srli_epi16(both, 4), low_nibbles));
      }
      __builtin_memcpy(to + 512, tile + 256, kScaleBytes);
      to += 512 + kScaleBytes;
    }
  }
}

/// All rows times kGroups groups: 4-bit weights are unpacked once for all of them.
template <class Pass, Storage kStorage, bool kHasMin, std::size_t kGroups>
void many_rows(const MatmulTask& task, std::size_t first_group) {
  const std::size_t blocks = task.cols / kBlockCols;
  const std::byte* next = task.groups + (first_group + kGroups) * task.group_bytes;
  const std::size_t next_bytes = kGroups * task.group_bytes;
  if constexpr (kStorage == Storage::kU4) {
    if (task.panel != nullptr) {
      unpack_groups<kHasMin>(task, first_group, kGroups);
      MatmulTask unpacked = task;
      unpacked.groups = task.panel;
      unpacked.group_bytes = blocks * (512 + (kHasMin ? 64 : 32));
      unpacked.outputs = task.outputs - first_group * kGroupRows;
      unpacked.y = task.y + first_group * kGroupRows;
      unpacked.bias = task.bias == nullptr ? nullptr : task.bias + first_group * kGroupRows;
      return quantized_rows<Pass, Storage::kU8, kHasMin, kGroups>(unpacked, 0, next, next_bytes);
    }
  }
  quantized_rows<Pass, kStorage, kHasMin, kGroups>(task, first_group, next, next_bytes);
}

template <class Pass, Storage kStorage, bool kHasMin>
void quantized_product(const MatmulTask& task) {
  std::size_t group = 0;
  const std::size_t tile_bytes = task.group_bytes / (task.cols / kBlockCols);
  if (task.rows <= kFewRows) {  // bound by memory: read it in one stream
    for (; group < task.group_count; ++group) {
      const std::byte* ahead_of = task.groups + group * task.group_bytes + kPrefetchBytes;
      Ahead ahead{ahead_of, ahead_of + task.group_bytes, whole_lines(tile_bytes)};
      quantized_pass<Pass, kStorage, kHasMin, 1>(task, 0, group, ahead);
    }
    return;
  }
  for (; group + kGroupsPerPass <= task.group_count; group += kGroupsPerPass) {
    many_rows<Pass, kStorage, kHasMin, kGroupsPerPass>(task, group);
  }
  switch (task.group_count - group) {
    case 1:
      return many_rows<Pass, kStorage, kHasMin, 1>(task, group);
    case 2:
      return many_rows<Pass, kStorage, kHasMin, 2>(task, group);
    default:
      return;
  }
}

}  // namespace
}  // namespace spillway::gpu::host
