// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdint>

#include "gpu/cuda/activation.cuh"
#include "gpu/cuda/element.cuh"
#include "gpu/cuda/launch.cuh"
#include "gpu/cuda/mma.cuh"
#include "gpu/cuda/ring.cuh"
#include "gpu/cuda/skinny_matmul.hpp"

// One block a multiprocessor, for the whole product. Sixteen warps keep a ring of shared memory filled with the weight's
// rows, as far ahead as the ring is long, before the kernel in front has ended; eight warps multiply, each its 64
// columns of a stage's 512, and add up over the warps when a tile of 16 rows is through. Tensor cores multiply, for their
// rate at 8 tokens: the weight is the mma's A. A sum over columns may take them in any order, so a lane keeps the
// 16 bytes that it loads, 8 columns of one row, as its share of two products, of A and B alike. A gated tile is 8 gate rows
// and their 8 up rows, which end in the same lane.
//
// Loads are cp.async, 16 bytes a thread: the bulk copy engine takes some 65 cycles a copy whatever its size, which held
// rows of 1 KB to 3.5 TB/s on an H200 where cp.async reaches 4.3 (a plain read: 4.56).

namespace spillway::gpu::cuda {
namespace {

constexpr int kWarps = 8;            // that multiply
constexpr int kProducers = 16;       // warps that load
constexpr int kThreads = (kWarps + kProducers) * 32;
constexpr int kTileRows = 16;
constexpr int kStageCols = 512;
constexpr int kRowBytes = kStageCols * 2 + 64;  // 64 more: eight rows' 64-byte pieces fall into all banks
constexpr int kStageBytes = kTileRows * kRowBytes;
constexpr int kStepCols = 32;        // of a 16-byte load by four lanes
[[maybe_unused]] constexpr int kSteps = kStageCols / kWarps / kStepCols;

struct SkinnyLaunch {
  Product p;
  int passes = 0, stages = 0;
  int input_stride = 0;  // bytes
};

/// Shared memory: the ring, the warps' sums, the barriers, then x.
template <int kTokenTiles>
struct Sums {
  float at[kWarps][kTileRows][kTokenTiles * 8 + 1];
};

template <class T, int kTokenTiles>
__global__ void __launch_bounds__(kThreads, 1) skinny(const SkinnyLaunch launch) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  const Product& p = launch.p;
  extern __shared__ __align__(128) char ring[];
  auto& sums = *reinterpret_cast<Sums<kTokenTiles>*>(ring + launch.stages * kStageBytes);
  auto* full = reinterpret_cast<std::uint64_t*>(reinterpret_cast<char*>(&sums) + (sizeof sums + 15) / 16 * 16);
  std::uint64_t* empty = full + launch.stages;
  char* inputs = reinterpret_cast<char*>(empty + launch.stages);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int chunks = (p.cols + kStageCols - 1) / kStageCols;
  const int outputs = p.gated ? kTileRows / 2 : kTileRows;  // of a pass
  let_next_start();
  if (threadIdx.x == 0) {
    for (int i = 0; i < launch.stages; ++i) {
      init_barrier(full + i, kProducers * 32);
      init_barrier(empty + i, kWarps);
    }
    publish_barriers();
  }
  __syncthreads();

  int stage = 0;
  unsigned phase = 0;
  const auto advance = [&] {
    if (++stage == launch.stages) {
      stage = 0;
      phase ^= 1;
    }
  };
  if (warp >= kWarps) {
    constexpr int kPieces = kStageCols / 8;
    for (int pass = blockIdx.x; pass < launch.passes; pass += gridDim.x) {
      for (int chunk = 0; chunk < chunks; ++chunk) {
        wait(empty + stage, phase ^ 1);
#pragma unroll
        for (int i = threadIdx.x - kWarps * 32; i < kTileRows * kPieces; i += kProducers * 32) {
          const int tile_row = i / kPieces, col = i % kPieces * 8;
          if (chunk * kStageCols + col >= p.cols) continue;
          // Rows over the end are read again from the last; nothing is written for them.
          int row = min(pass * outputs + tile_row, p.rows - 1);
          if (p.gated) row = min(pass * outputs + tile_row % 8, p.rows - 1) + (tile_row < 8 ? 0 : p.rows);
          copy_async(ring + stage * kStageBytes + tile_row * kRowBytes + col * 2,
                     static_cast<const T*>(p.weight) + std::int64_t{row} * p.cols + chunk * kStageCols + col);
        }
        arrive_after_copies(full + stage);
        advance();
      }
    }
    asm volatile("cp.async.wait_all;\n" ::: "memory");
    return;
  }

  const int group = lane / 4, own_col = warp * kSteps * kStepCols + lane % 4 * 8;  // of a stage
  wait_for_producer();
  for (int i = threadIdx.x; i < p.tokens * (p.cols / 8); i += kWarps * 32) {
    const int token = i / (p.cols / 8), col = i % (p.cols / 8) * 8;
    *reinterpret_cast<uint4*>(inputs + token * launch.input_stride + col * 2) =
        __ldcg(reinterpret_cast<const uint4*>(static_cast<const T*>(p.x) + std::int64_t{token} * p.cols + col));
  }
  asm volatile("bar.sync 1, %0;" ::"n"(kWarps * 32) : "memory");
  for (int pass = blockIdx.x; pass < launch.passes; pass += gridDim.x) {
    float sum[kTokenTiles][4] = {};
    for (int chunk = 0; chunk < chunks; ++chunk) {
      Packed x[kSteps][kTokenTiles];
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        const int k = chunk * kStageCols + own_col + s * kStepCols;
#pragma unroll
        for (int n = 0; n < kTokenTiles; ++n) {
          const bool inside = k < p.cols && n * 8 + group < p.tokens;
          x[s][n] = inside ? *reinterpret_cast<const Packed*>(inputs + (n * 8 + group) * launch.input_stride + k * 2) : Packed{};
        }
      }
      wait(full + stage, phase);
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        if (chunk * kStageCols + warp * kSteps * kStepCols + s * kStepCols >= p.cols) break;  // the stage holds older columns
        const char* at = ring + stage * kStageBytes + group * kRowBytes + (own_col + s * kStepCols) * 2;
        const Packed low = *reinterpret_cast<const Packed*>(at), high = *reinterpret_cast<const Packed*>(at + 8 * kRowBytes);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const unsigned a[4] = {low.words[2 * half], high.words[2 * half], low.words[2 * half + 1],
                                 high.words[2 * half + 1]};
#pragma unroll
          for (int n = 0; n < kTokenTiles; ++n)
            multiply<T>(sum[n], a, x[s][n].words[2 * half], x[s][n].words[2 * half + 1]);
        }
      }
      __syncwarp();
      if (lane == 0) arrive(empty + stage);
      advance();
    }

#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums.at[warp][group + i / 2 * 8][n * 8 + lane % 4 * 2 + i % 2] = sum[n][i];
    }
    asm volatile("bar.sync 1, %0;" ::"n"(kWarps * 32) : "memory");
    const auto total = [&](int row, int weight_row, int token) {
      float value = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) value += sums.at[w][row][token];
      if (p.bias != nullptr) value += to_float(static_cast<const T*>(p.bias)[weight_row]);
      return value;
    };
    for (int i = threadIdx.x; i < outputs * p.tokens; i += kWarps * 32) {
      const int row = i % outputs, token = i / outputs, out_row = pass * outputs + row;
      if (out_row >= p.rows) continue;
      const std::int64_t to = std::int64_t{token} * p.rows + out_row;
      if (p.gated) {
        const float gate = to_float(from_float<T>(total(row, out_row, token)));
        const float up = to_float(from_float<T>(total(row + 8, p.rows + out_row, token)));
        static_cast<T*>(p.y)[to] = from_float<T>(activate(p.activation, gate) * up);
      } else if (p.wide) {
        static_cast<float*>(p.y)[to] = total(row, out_row, token);
      } else {
        static_cast<T*>(p.y)[to] = from_float<T>(total(row, out_row, token));
      }
    }
    asm volatile("bar.sync 1, %0;" ::"n"(kWarps * 32) : "memory");
  }
#endif
}

constexpr int kSharedMax = 227 * 1024;
constexpr int kSharedUsual = 200 * 1024;  // leaves room for blocks of the kernels around
constexpr int kStagesMin = 4;

/// 64 bytes more than a row: eight tokens' pieces fall into all banks.
int input_stride(int cols) { return cols * 2 + 64; }

/// Even: what lies behind the barriers starts at 16 bytes.
template <int kTokenTiles>
int stages_in(int shared, int tokens, int cols) {
  const int beside = (sizeof(Sums<kTokenTiles>) + 15) / 16 * 16 + tokens * input_stride(cols);
  return (shared - beside) / (kStageBytes + 16) / 2 * 2;
}

template <class T, int kTokenTiles>
void launch_as(const Product& p, cudaStream_t stream) {
  SkinnyLaunch launch{.p = p};
  launch.input_stride = input_stride(p.cols);
  launch.stages = std::max(stages_in<kTokenTiles>(kSharedUsual, p.tokens, p.cols),
                           std::min(kStagesMin, stages_in<kTokenTiles>(kSharedMax, p.tokens, p.cols)));
  const int outputs = p.gated ? kTileRows / 2 : kTileRows;
  launch.passes = (p.rows + outputs - 1) / outputs;
  const int shared = (sizeof(Sums<kTokenTiles>) + 15) / 16 * 16 + p.tokens * launch.input_stride +
                     launch.stages * (kStageBytes + 16);
  if (!raise_shared_limit<skinny<T, kTokenTiles>>(kSharedMax)) return;  // the error stays for who looks after the launches
  launch_overlapped(skinny<T, kTokenTiles>, dim3(std::min(launch.passes, multiprocessors())), kThreads, shared, launch, stream);
}

template <class T>
void launch_for(const Product& p, cudaStream_t stream) {
  if (p.tokens > 8) return launch_as<T, 2>(p, stream);
  launch_as<T, 1>(p, stream);
}

}  // namespace

bool has_skinny(Element element, int rows, int cols, int tokens) noexcept {
  return element != Element::kF32 && rows > 0 && cols % kStepCols == 0 && tokens <= kSkinnyTokensMax &&
         stages_in<2>(kSharedMax, tokens, cols) >= kStagesMin && overlaps_launches();
}

void launch_skinny(const Product& p, cudaStream_t stream) {
  if (p.element == Element::kBF16) return launch_for<__nv_bfloat16>(p, stream);
  launch_for<__half>(p, stream);
}

}  // namespace spillway::gpu::cuda
