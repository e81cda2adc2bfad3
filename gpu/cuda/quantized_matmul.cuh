// SPDX-License-Identifier: Apache-2.0
#pragma once

// One block a multiprocessor. All panels of the weight, tile after tile, are cut into even shares of up to four panels a
// unit, wherever that falls ("stream-K", Osama et al. 2023): every block reads the same number of bytes. One thread keeps a ring of
// shared memory filled with units, one bulk copy each, before the kernel in front has ended; four warps bring the units' columns
// of x; eight warps have 16 rows of the tile each and multiply on tensor cores, the weight as A. Blocks that share a tile add up
// in memory; the last to come does it, in the order of the blocks, so that who was last never shows.

#include <algorithm>
#include <cstdint>

#include "gpu/cuda/activation.cuh"
#include "gpu/cuda/launch.cuh"
#include "gpu/cuda/mma.cuh"
#include "gpu/cuda/quantized.cuh"
#include "gpu/cuda/quantized_matmul.hpp"
#include "gpu/cuda/ring.cuh"

namespace spillway::gpu::cuda {

constexpr int kMultiplyWarps = kPanelRows / kRegionRows;
constexpr int kInputWarps = 4;
constexpr int kQuantizedThreads = (kMultiplyWarps + 1 + kInputWarps) * 32;
constexpr int kUnitPanels = 4;
constexpr int kInputStride = kUnitPanels * kPanelCols * 2 + 64;  // 64 more: eight tokens' pieces fall into all banks
constexpr int kTokenTilesMax = 16;

struct QuantizedLaunch {
  QuantizedParams p;
  int stages = 0;
  int units_a_tile = 0;
  std::int64_t units = 0;
};

/// Block `block`'s units begin here; those of the block behind it end it.
__device__ __forceinline__ std::int64_t first_unit(const QuantizedLaunch& launch, std::int64_t block) {
  return launch.units * block / gridDim.x;
}
__device__ __forceinline__ int block_of(const QuantizedLaunch& launch, std::int64_t unit) {
  return static_cast<int>(((unit + 1) * gridDim.x + launch.units - 1) / launch.units) - 1;
}

/// Adds up what the tile's blocks have; false for all but the last block to come.
template <int kTokenTiles>
__device__ bool add_up(const QuantizedLaunch& launch, int tile, float (&sum)[kTokenTiles][4]) {
  __shared__ bool last;
  constexpr std::int64_t kShare = kPanelRows * kTokenTiles * 8;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const auto share_of = [&](int block) {  // a block has at most two tiles that are not all its own
    const bool first = first_unit(launch, block) / launch.units_a_tile == tile;
    return launch.p.partial + (2 * block + (first ? 0 : 1)) * kShare + warp * (kTokenTiles * 128) + lane;
  };
  const std::int64_t begin = std::int64_t{tile} * launch.units_a_tile;
  const int from = block_of(launch, begin), to = block_of(launch, begin + launch.units_a_tile - 1);
  float* own = share_of(static_cast<int>(blockIdx.x));
#pragma unroll
  for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) own[(n * 4 + i) * 32] = sum[n][i];
  }
  __threadfence();
  asm volatile("bar.sync 1, %0;" ::"n"(kMultiplyWarps * 32) : "memory");
  if (threadIdx.x == 0) {
    last = atomicAdd(launch.p.arrived + tile, 1) == to - from;
    if (last) launch.p.arrived[tile] = 0;
  }
  asm volatile("bar.sync 1, %0;" ::"n"(kMultiplyWarps * 32) : "memory");
  if (!last) return false;
  __threadfence();
#pragma unroll
  for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[n][i] = 0;
  }
  for (int block = from; block <= to; ++block) {
    const float* share = share_of(block);
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[n][i] += __ldcg(share + (n * 4 + i) * 32);
    }
  }
  return true;
}

template <class T, int kTokenTiles>
__device__ void write_tile(const QuantizedParams& p, int tile, const float (&sum)[kTokenTiles][4]) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int rows[2] = {matrix_row({tile, warp, lane / 4}, p.weight.rows, p.weight.gated),
                       matrix_row({tile, warp, lane / 4 + 8}, p.weight.rows, p.weight.gated)};
  float bias[2] = {0, 0};
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (p.bias != nullptr && rows[r] < p.weight.rows) bias[r] = to_float(static_cast<const T*>(p.bias)[rows[r]]);
  }
#pragma unroll
  for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = n * 8 + lane % 4 * 2 + i;
      if (token >= p.tokens) continue;
      const float low = sum[n][i] + bias[0], high = sum[n][2 + i] + bias[1];
      if (p.weight.gated) {
        if (rows[0] >= p.weight.rows) continue;
        const float gate = to_float(from_float<T>(low)), up = to_float(from_float<T>(high));
        static_cast<T*>(p.y)[std::int64_t{token} * (p.weight.rows / 2) + rows[0]] =
            from_float<T>(activate(p.activation, gate) * up);
        continue;
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        if (rows[r] >= p.weight.rows) continue;
        const std::int64_t to = std::int64_t{token} * p.weight.rows + rows[r];
        if (p.wide) {
          static_cast<float*>(p.y)[to] = r == 0 ? low : high;
        } else {
          static_cast<T*>(p.y)[to] = from_float<T>(r == 0 ? low : high);
        }
      }
    }
  }
}

template <class T, DType kType, int kTokenTiles>
__global__ void __launch_bounds__(kQuantizedThreads, 1) quantized_matmul(const QuantizedLaunch launch) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  constexpr int kUnitBytes = kUnitPanels * panel_bytes(kType), kStageBytes = kUnitBytes + kTokenTiles * 8 * kInputStride;
  const QuantizedParams& p = launch.p;
  extern __shared__ __align__(128) char ring[];
  auto* full = reinterpret_cast<std::uint64_t*>(ring + launch.stages * kStageBytes);
  std::uint64_t* empty = full + launch.stages;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int panels = p.weight.panels_a_tile();
  const std::int64_t begin = first_unit(launch, blockIdx.x), end = first_unit(launch, std::int64_t{blockIdx.x} + 1);
  let_next_start();
  if (threadIdx.x == 0) {
    for (int i = 0; i < launch.stages; ++i) {
      init_barrier(full + i, 1 + kInputWarps * 32);
      init_barrier(empty + i, kMultiplyWarps);
    }
    publish_barriers();
  }
  __syncthreads();

  int stage = 0;
  unsigned phase = 0;
  auto tile = static_cast<int>(begin / launch.units_a_tile);
  auto unit = static_cast<int>(begin % launch.units_a_tile);  // of the tile
  const auto advance = [&] {
    if (++stage == launch.stages) {
      stage = 0;
      phase ^= 1;
    }
    if (++unit == launch.units_a_tile) {
      unit = 0;
      ++tile;
    }
  };
  if (warp == kMultiplyWarps) {
    if (lane != 0) return;
    for (std::int64_t u = begin; u < end; ++u) {
      const int bytes = min(kUnitPanels, panels - unit * kUnitPanels) * panel_bytes(kType);
      wait(empty + stage, phase ^ 1);
      arrive_expecting(full + stage, bytes);
      copy_bulk(ring + stage * kStageBytes,
                static_cast<const char*>(p.weight.data) +
                    (std::int64_t{tile} * panels + unit * kUnitPanels) * panel_bytes(kType),
                bytes, full + stage);
      advance();
    }
    return;
  }
  wait_for_producer();
  if (warp > kMultiplyWarps) {
    for (std::int64_t u = begin; u < end; ++u) {
      const int pieces = min(kUnitPanels, panels - unit * kUnitPanels) * (kPanelCols / 8);
      wait(empty + stage, phase ^ 1);
      const T* x = static_cast<const T*>(p.x) + unit * (kUnitPanels * kPanelCols);
      char* to = ring + stage * kStageBytes + kUnitBytes;
      for (int i = static_cast<int>(threadIdx.x) - (kMultiplyWarps + 1) * 32; i < p.tokens * kUnitPanels * (kPanelCols / 8);
           i += kInputWarps * 32) {
        const int token = i / (kUnitPanels * (kPanelCols / 8)), piece = i % (kUnitPanels * (kPanelCols / 8));
        if (piece < pieces) copy_async(to + token * kInputStride + piece * 16, x + std::int64_t{token} * p.weight.cols + piece * 8);
      }
      arrive_after_copies(full + stage);
      advance();
    }
    asm volatile("cp.async.wait_all;\n" ::: "memory");
    return;
  }

  float sum[kTokenTiles][4] = {};
  bool whole = unit == 0;  // the tile is all this block's
  for (std::int64_t u = begin; u < end; ++u) {
    const int count = min(kUnitPanels, panels - unit * kUnitPanels);
    const char* weight = ring + stage * kStageBytes + warp * region_bytes(kType);
    const char* x = ring + stage * kStageBytes + kUnitBytes + lane / 4 * kInputStride + lane % 4 * 16;
    wait(full + stage, phase);
#pragma unroll
    for (int i = 0; i < kUnitPanels; ++i) {
      if (i >= count) break;
      unsigned a[2][4];
      decode_region<T, kType>(weight + i * panel_bytes(kType), lane, a);
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
        const Packed b = *reinterpret_cast<const Packed*>(x + n * 8 * kInputStride + i * (kPanelCols * 2));
        multiply<T>(sum[n], a[0], b.words[0], b.words[1]);
        multiply<T>(sum[n], a[1], b.words[2], b.words[3]);
      }
    }
    __syncwarp();
    if (lane == 0) arrive(empty + stage);
    if (unit + 1 == launch.units_a_tile || u + 1 == end) {
      whole &= unit + 1 == launch.units_a_tile;
      if (whole || add_up<kTokenTiles>(launch, tile, sum)) write_tile<T, kTokenTiles>(p, tile, sum);
      whole = true;
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[n][i] = 0;
      }
    }
    advance();
  }
#endif
}

constexpr int kQuantizedSharedMax = 226 * 1024;  // of 227, some of them static
constexpr int kQuantizedSharedUsual = 200 * 1024;  // leaves room for blocks of the kernels around

template <class T, DType kType, int kTokenTiles>
void launch_quantized_as(const QuantizedParams& p, int blocks, cudaStream_t stream) {
  constexpr int kStageBytes = kUnitPanels * panel_bytes(kType) + kTokenTiles * 8 * kInputStride + 16;
  static_assert(2 * kStageBytes <= kQuantizedSharedMax);
  QuantizedLaunch launch{.p = p};
  launch.stages = std::max(kQuantizedSharedUsual / kStageBytes, std::min(3, kQuantizedSharedMax / kStageBytes));
  launch.units_a_tile = (p.weight.panels_a_tile() + kUnitPanels - 1) / kUnitPanels;
  launch.units = std::int64_t{p.weight.tiles()} * launch.units_a_tile;
  // An error stays for who looks after the launches.
  if (!raise_shared_limit<quantized_matmul<T, kType, kTokenTiles>>(kQuantizedSharedMax)) return;
  launch_overlapped(quantized_matmul<T, kType, kTokenTiles>,
                    dim3(static_cast<unsigned>(std::min<std::int64_t>(blocks, launch.units))), kQuantizedThreads,
                    static_cast<std::size_t>(launch.stages) * kStageBytes, launch, stream);
}

template <class T>
void launch_quantized_for(const QuantizedParams& p, cudaStream_t stream) {
  const int blocks = multiprocessors();
  with_quantized(p.weight.type, [&]<DType kType>() {
    if (p.tokens <= 8) return launch_quantized_as<T, kType, 1>(p, blocks, stream);
    if (p.tokens <= 16) return launch_quantized_as<T, kType, 2>(p, blocks, stream);
    if (p.tokens <= 32) return launch_quantized_as<T, kType, 4>(p, blocks, stream);
    if (p.tokens <= 64) return launch_quantized_as<T, kType, 8>(p, blocks, stream);
    launch_quantized_as<T, kType, kTokenTilesMax>(p, blocks, stream);
  });
}

}  // namespace spillway::gpu::cuda
