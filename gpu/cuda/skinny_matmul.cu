// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdint>

#include "gpu/cuda/activation.cuh"
#include "gpu/cuda/element.cuh"
#include "gpu/cuda/launch.cuh"
#include "gpu/cuda/mma.cuh"
#include "gpu/cuda/skinny_matmul.hpp"

// One block a multiprocessor, for the whole product. One warp keeps a ring of shared memory filled with the
// weight's rows by the bulk copy engine, as far ahead as the ring is long, before the kernel in front has ended; eight
// warps multiply, each its 64 columns of a stage's 512, and add up over the warps when a tile of 16 rows is through.
// Tensor cores multiply, for their rate at 8 tokens: the weight is the mma's A. A sum over columns may take them in any
// order, so a lane keeps the 16 bytes that it loads, 8 columns of one row, as its share of two products, of A and B
// alike. A gated tile is 8 gate rows and their 8 up rows, which end in the same lane.

namespace spillway::gpu::cuda {
namespace {

constexpr int kWarps = 8;            // that multiply
constexpr int kThreads = (kWarps + 1) * 32;
constexpr int kTileRows = 16;
constexpr int kStageCols = 512;
constexpr int kRowBytes = kStageCols * 2 + 64;  // 64 more: eight rows' 64-byte pieces fall into all banks
constexpr int kStageBytes = kTileRows * kRowBytes;
constexpr int kStepCols = 32;        // of a 16-byte load by four lanes
[[maybe_unused]] constexpr int kSteps = kStageCols / kWarps / kStepCols;

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
__device__ __forceinline__ unsigned shared_address(const void* at) {
  return static_cast<unsigned>(__cvta_generic_to_shared(at));
}

__device__ __forceinline__ void init_barrier(std::uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void arrive(std::uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
__device__ __forceinline__ void arrive_expecting(std::uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void wait(std::uint64_t* barrier, unsigned phase) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra.uni over;\nbra.uni again;\nover:\n}\n" ::"r"(shared_address(barrier)),
      "r"(phase)
      : "memory");
}
__device__ __forceinline__ void copy_bulk(void* to, const void* from, int bytes, std::uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)),
               "l"(from), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}
#endif

struct SkinnyLaunch {
  SkinnyParams p;
  int passes = 0, stages = 0;  // stages: even, so that the inputs behind the barriers start at 16 bytes
  int input_stride = 0;        // bytes; 64 more than a row where there are several, for the banks
};

/// Shared memory: the ring, the warps' sums, the barriers, then x.
template <int kTiles, int kTokenTiles>
struct Sums {
  float at[kWarps][kTiles][kTileRows][kTokenTiles * 8 + 1];
};

/// kTiles tiles of 16 rows a pass share the loads of x.
template <class T, int kTiles, int kTokenTiles>
__global__ void __launch_bounds__(kThreads, 1) skinny(const SkinnyLaunch launch) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  const SkinnyParams& p = launch.p;
  extern __shared__ __align__(128) char ring[];
  auto& sums = *reinterpret_cast<Sums<kTiles, kTokenTiles>*>(ring + launch.stages * kStageBytes);
  auto* full = reinterpret_cast<std::uint64_t*>(reinterpret_cast<char*>(&sums) + (sizeof sums + 15) / 16 * 16);
  std::uint64_t* empty = full + launch.stages;
  char* inputs = reinterpret_cast<char*>(empty + launch.stages);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int chunks = (p.cols + kStageCols - 1) / kStageCols;
  const int tile_outputs = p.gated ? kTileRows / 2 : kTileRows;
  let_next_start();
  if (threadIdx.x == 0) {
    for (int i = 0; i < launch.stages; ++i) {
      init_barrier(full + i, 1);
      init_barrier(empty + i, kWarps);
    }
    asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;\n" ::: "memory");
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
  if (warp == kWarps) {
    for (int pass = blockIdx.x; pass < launch.passes; pass += gridDim.x) {
      for (int chunk = 0; chunk < chunks; ++chunk) {
        const int bytes = min(kStageCols, p.cols - chunk * kStageCols) * 2;
        for (int tile = 0; tile < kTiles; ++tile) {
          wait(empty + stage, phase ^ 1);
          if (lane == 0) arrive_expecting(full + stage, bytes * kTileRows);
          __syncwarp();
          if (lane < kTileRows) {
            const int first = (pass * kTiles + tile) * tile_outputs;
            // Rows over the end are read again from the last; nothing is written for them.
            int row = min(first + lane, p.rows - 1);
            if (p.gated) row = lane < 8 ? min(first + lane, p.rows - 1) : p.rows + min(first + lane - 8, p.rows - 1);
            copy_bulk(ring + stage * kStageBytes + lane * kRowBytes,
                      static_cast<const T*>(p.weight) + std::int64_t{row} * p.cols + chunk * kStageCols, bytes, full + stage);
          }
          advance();
        }
      }
    }
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
    float sum[kTiles][kTokenTiles][4] = {};
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
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
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
              multiply<T>(sum[tile][n], a, x[s][n].words[2 * half], x[s][n].words[2 * half + 1]);
          }
        }
        __syncwarp();
        if (lane == 0) arrive(empty + stage);
        advance();
      }
    }

#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          sums.at[warp][tile][group + i / 2 * 8][n * 8 + lane % 4 * 2 + i % 2] = sum[tile][n][i];
      }
    }
    asm volatile("bar.sync 1, %0;" ::"n"(kWarps * 32) : "memory");
    const auto total = [&](int tile, int row, int weight_row, int token) {
      float value = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) value += sums.at[w][tile][row][token];
      if (p.bias != nullptr) value += to_float(static_cast<const T*>(p.bias)[weight_row]);
      return value;
    };
    const int outputs = kTiles * tile_outputs;
    for (int i = threadIdx.x; i < outputs * p.tokens; i += kWarps * 32) {
      const int tile = i % outputs / tile_outputs, row = i % outputs % tile_outputs, token = i / outputs;
      const int out_row = pass * outputs + i % outputs;
      if (out_row >= p.rows) continue;
      const std::int64_t to = std::int64_t{token} * p.rows + out_row;
      if (p.gated) {
        const float gate = to_float(from_float<T>(total(tile, row, out_row, token)));
        const float up = to_float(from_float<T>(total(tile, row + 8, p.rows + out_row, token)));
        static_cast<T*>(p.y)[to] = from_float<T>(activate(p.activation, gate) * up);
      } else {
        const float value = total(tile, row, out_row, token);
        if (p.wide) {
          static_cast<float*>(p.y)[to] = value;
        } else {
          static_cast<T*>(p.y)[to] = from_float<T>(value);
        }
      }
    }
    asm volatile("bar.sync 1, %0;" ::"n"(kWarps * 32) : "memory");
  }
#endif
}

int multiprocessors() {
  static const int count = [] {
    int device = 0, value = 1;
    (void)cudaGetDevice(&device);
    (void)cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device);
    return value;
  }();
  return count;
}

constexpr int kSharedMax = 200 * 1024;  // leaves room for blocks of the kernels around
constexpr int kStagesMin = 4;

int input_stride(int cols) { return cols * 2 + 64; }

template <class T, int kTiles, int kTokenTiles>
void launch_as(const SkinnyParams& p, cudaStream_t stream) {
  constexpr int kSums = (sizeof(Sums<kTiles, kTokenTiles>) + 15) / 16 * 16;
  SkinnyLaunch launch{.p = p};
  launch.input_stride = input_stride(p.cols);
  const int beside = kSums + p.tokens * launch.input_stride;
  launch.stages = (kSharedMax - beside) / (kStageBytes + 16) / 2 * 2;
  const int outputs = kTiles * (p.gated ? kTileRows / 2 : kTileRows);
  launch.passes = (p.rows + outputs - 1) / outputs;
  const int shared = launch.stages * (kStageBytes + 16) + beside;
  static const bool raised =  // once: the attribute is the kernel's
      cudaFuncSetAttribute(skinny<T, kTiles, kTokenTiles>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedMax) == cudaSuccess;
  if (!raised) return;  // the error stays for who looks after the launches
  launch_overlapped(skinny<T, kTiles, kTokenTiles>, dim3(std::min(launch.passes, multiprocessors())), kThreads, shared, launch,
                    stream);
}

template <class T>
void launch_for(const SkinnyParams& p, cudaStream_t stream) {
  const int tiles = p.rows / (p.gated ? kTileRows / 2 : kTileRows);
  const bool two = p.tokens > 2 && tiles >= 2 * multiprocessors() - multiprocessors() / 8;
  if (p.tokens > 8) return two ? launch_as<T, 2, 2>(p, stream) : launch_as<T, 1, 2>(p, stream);
  return two ? launch_as<T, 2, 1>(p, stream) : launch_as<T, 1, 1>(p, stream);
}

}  // namespace

bool has_skinny(Element element, int rows, int cols, int tokens) noexcept {
  constexpr int kSumsMax = sizeof(Sums<2, 2>) + 16;
  return element != Element::kF32 && rows > 0 && cols % kStepCols == 0 && tokens <= kSkinnyTokensMax &&
         kSumsMax + std::int64_t{tokens} * input_stride(cols) + kStagesMin * (kStageBytes + 16) <= kSharedMax &&
         overlaps_launches();
}

void launch_skinny(const SkinnyParams& p, cudaStream_t stream) {
  if (p.element == Element::kBF16) return launch_for<__nv_bfloat16>(p, stream);
  launch_for<__half>(p, stream);
}

}  // namespace spillway::gpu::cuda
