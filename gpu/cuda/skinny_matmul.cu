// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/activation.cuh"
#include "gpu/cuda/element.cuh"
#include "gpu/cuda/launch.cuh"
#include "gpu/cuda/mma.cuh"
#include "gpu/cuda/skinny_matmul.hpp"

// A block owns 16 rows of the weight (or 32, or 16 gate rows and their 16 up rows); its warps share the columns out
// in units and add up at the end through shared memory. Tensor cores multiply, for their rate at 8 tokens:
// the weight is the mma's A, straight from global memory to registers. A sum over columns may take them in any order, so
// a lane keeps the 16 bytes that it loaded, 8 columns of one row, as its share of two products' columns, of A and B alike.

namespace spillway::gpu::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kStep = 32;  // columns of a 16-byte load by four lanes

template <int kTiles, int kTokenTiles, int kSteps>
struct Unit {
  Packed weight[kSteps][kTiles][2];  // rows lane / 4 and lane / 4 + 8
  Packed x[kSteps][kTokenTiles];     // token lane / 4
};

template <class T, int kTiles, int kTokenTiles, int kSteps>
__global__ void __launch_bounds__(kWarps * 32) skinny(const SkinnyParams p) {
  using Loaded = Unit<kTiles, kTokenTiles, kSteps>;
  constexpr int kUnit = kStep * kSteps;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, column = lane % 4 * 8;
  // A gated block's second tile is the same rows of the up part.
  const int first_row = p.gated ? blockIdx.x * 16 : blockIdx.x * 16 * kTiles;
  const int tile_rows = p.gated ? p.rows : 16;
  const T* weight = static_cast<const T*>(p.weight) + std::int64_t{first_row + group} * p.cols + column;
  const T* x = static_cast<const T*>(p.x) + std::int64_t{group} * p.cols + column;
  const auto load_weight = [&](Loaded& unit, int at) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int k = at + s * kStep;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const T* from = weight + std::int64_t{tile} * tile_rows * p.cols + k;
        const bool inside = k < p.cols && (p.gated || first_row + tile * 16 < p.rows);
        unit.weight[s][tile][0] = inside ? load_stream(from) : Packed{};
        unit.weight[s][tile][1] = inside ? load_stream(from + std::int64_t{8} * p.cols) : Packed{};
      }
    }
  };
  const auto load_x = [&](Loaded& unit, int at) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
        const int k = at + s * kStep;
        const bool inside = k < p.cols && n * 8 + group < p.tokens;
        const uint4 v = inside ? __ldcg(reinterpret_cast<const uint4*>(x + std::int64_t{n} * 8 * p.cols + k)) : uint4{};
        unit.x[s][n] = {v.x, v.y, v.z, v.w};
      }
    }
  };

  Loaded now;
  int at = warp * kUnit;
  load_weight(now, at);
  wait_for_producer();
  load_x(now, at);
  float sum[kTiles][kTokenTiles][4] = {};
  for (; at < p.cols; at += kWarps * kUnit) {
    Loaded next;
    load_weight(next, at + kWarps * kUnit);
    load_x(next, at + kWarps * kUnit);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          const Packed &low = now.weight[s][tile][0], &high = now.weight[s][tile][1];
          const unsigned a[4] = {low.words[2 * half], high.words[2 * half], low.words[2 * half + 1],
                                 high.words[2 * half + 1]};
#pragma unroll
          for (int n = 0; n < kTokenTiles; ++n)
            multiply<T>(sum[tile][n], a, now.x[s][n].words[2 * half], now.x[s][n].words[2 * half + 1]);
        }
      }
    }
    now = next;
  }

  constexpr int kTokens = kTokenTiles * 8;
  __shared__ float partial[kWarps][kTiles][16][kTokens + 1];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        partial[warp][tile][group + i / 2 * 8][n * 8 + lane % 4 * 2 + i % 2] = sum[tile][n][i];
    }
  }
  __syncthreads();
  const auto total = [&](int tile, int row, int token) {
    float value = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) value += partial[w][tile][row][token];
    if (p.bias != nullptr) value += to_float(static_cast<const T*>(p.bias)[first_row + tile * tile_rows + row]);
    return value;
  };
  const int outputs = (p.gated ? 1 : kTiles) * 16;
  for (int i = threadIdx.x; i < outputs * kTokens; i += kWarps * 32) {
    const int row = i % outputs, token = i / outputs;
    if (token >= p.tokens || first_row + row >= p.rows) continue;
    const std::int64_t to = std::int64_t{token} * p.rows + first_row + row;
    if (p.gated) {
      const float gate = to_float(from_float<T>(total(0, row, token)));
      const float up = to_float(from_float<T>(total(kTiles - 1, row, token)));
      static_cast<T*>(p.y)[to] = from_float<T>(activate(p.activation, gate) * up);
    } else {
      const float value = total(row / 16, row % 16, token);
      if (p.wide) {
        static_cast<float*>(p.y)[to] = value;
      } else {
        static_cast<T*>(p.y)[to] = from_float<T>(value);
      }
    }
  }
}

template <class T>
void launch_for(const SkinnyParams& p, cudaStream_t stream) {
  constexpr int kManyBlocks = 512;  // with 32 rows each there are still enough to fill a GPU
  const bool two = p.gated || (p.tokens > 2 && p.rows >= kManyBlocks * 32);
  const dim3 grid((p.rows + (two && !p.gated ? 31 : 15)) / (two && !p.gated ? 32 : 16));
  if (p.tokens > 8) {
    if (two) return launch_overlapped(skinny<T, 2, 2, 2>, grid, kWarps * 32, 0, p, stream);
    return launch_overlapped(skinny<T, 1, 2, 4>, grid, kWarps * 32, 0, p, stream);
  }
  if (two) return launch_overlapped(skinny<T, 2, 1, 2>, grid, kWarps * 32, 0, p, stream);
  launch_overlapped(skinny<T, 1, 1, 4>, grid, kWarps * 32, 0, p, stream);
}

}  // namespace

bool has_skinny(Element element, int rows, int cols, int tokens) noexcept {
  return element != Element::kF32 && rows % 16 == 0 && cols % kStep == 0 && tokens <= kSkinnyTokensMax;
}

void launch_skinny(const SkinnyParams& p, cudaStream_t stream) {
  if (p.element == Element::kBF16) return launch_for<__nv_bfloat16>(p, stream);
  launch_for<__half>(p, stream);
}

}  // namespace spillway::gpu::cuda
