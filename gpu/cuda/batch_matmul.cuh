// SPDX-License-Identifier: Apache-2.0
#pragma once

// A block multiplies one tile: some rows of the weight, all tokens. Tokens are wgmma's M side, a warpgroup
// for each 64, so that a tile may have any multiple of 16 rows: 96 of qkv's 12288 make 128 blocks, 88 + 88 of
// gate and up's 22016 make 126, and every multiprocessor reads its share of the weight once, in one wave.
// Where the rows are too few for that, the blocks of a cluster share a tile's columns and send each other
// their sums, which are added in order.
//
// One thread keeps a ring of stages filled by the copy engine, 64 columns of x and of the weight a stage. Of
// the weight it asks for as much as the ring holds before the kernel in front has ended. x comes out of the
// L2 cache once for every tile.

#include <cstdint>
#include <type_traits>

#include "gpu/cuda/activation.cuh"
#include "gpu/cuda/batch_matmul.hpp"
#include "gpu/cuda/batch_stages.hpp"
#include "gpu/cuda/cluster.cuh"
#include "gpu/cuda/element.cuh"
#include "gpu/cuda/launch.cuh"
#include "gpu/cuda/ring.cuh"
#include "gpu/cuda/tensor_map.hpp"
#include "gpu/cuda/wgmma.cuh"

namespace spillway::gpu::cuda {

struct BatchLaunch {
  CUtensorMap x, weight;
  BatchParams p;
  BatchStages stages;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// What a block multiplies, and its shared memory.
struct BatchBlock {
  int split, tile;
  int first, count;  // blocks of 64 columns
  char* ring;
  float4* received;
  std::uint64_t *full, *empty, *joined;

  __device__ BatchBlock(const BatchLaunch& launch, char* shared) : ring(shared) {
    const int blocks = (launch.p.cols + kBatchStageCols - 1) / kBatchStageCols;
    const int splits = launch.p.cut.splits;
    split = splits > 1 ? cluster_rank() : 0;
    tile = static_cast<int>(blockIdx.x) / splits;
    first = blocks * split / splits;
    count = blocks * (split + 1) / splits - first;
    received = reinterpret_cast<float4*>(ring + launch.stages.received_at);
    full = reinterpret_cast<std::uint64_t*>(ring + launch.stages.barriers_at);
    empty = full + launch.stages.count;
    joined = empty + launch.stages.count;
  }
};

/// Of a stage: x [tokens, 64], then the weight [tile rows, 64]. By one thread.
template <int kRows, int kGroups>
struct BatchLoader {
  const BatchLaunch& launch;
  const BatchBlock& at;

  __device__ void make_barriers() const {
    for (int i = 0; i < launch.stages.count; ++i) {
      init_barrier(at.full + i, 1);
      init_barrier(at.empty + i, kGroups * 4);
    }
    init_barrier(at.joined, 1);
    publish_barriers();
    const int splits = launch.p.cut.splits, own = (launch.stages.slices - at.split + splits - 1) / splits;
    if (splits > 1) arrive_expecting(at.joined, (splits - 1) * own * kBatchSliceTokens * kRows * 4);
  }
  __device__ void weight(int stage, int block) const {
    const BatchParams& p = launch.p;
    arrive_expecting(at.full + stage, launch.stages.stage_bytes);
    const int outputs = p.gated ? kRows / 2 : kRows, column = (at.first + block) * kBatchStageCols;
    const int low = at.tile * outputs, high = p.gated ? p.rows + low : low + kRows / 2;
    char* to = at.ring + stage * launch.stages.stage_bytes + launch.stages.x_bytes;
    copy_box(to, launch.weight, column, low, at.full + stage, kReadOnce);
    copy_box(to + kRows / 2 * kBatchRowBytes, launch.weight, column, high, at.full + stage, kReadOnce);
  }
  __device__ void x(int stage, int block) const {
    copy_box(at.ring + stage * launch.stages.stage_bytes, launch.x, (at.first + block) * kBatchStageCols, 0,
             at.full + stage, kReadAgain);
  }
  __device__ int ahead() const { return min(launch.stages.count, at.count); }
  /// What does not depend on the kernel in front.
  __device__ void start() const {
    for (int i = 0; i < ahead(); ++i) weight(i, i);
  }
  __device__ void run() const {
    for (int i = 0; i < ahead(); ++i) x(i, i);
    int stage = 0;
    unsigned phase = 0;
    for (int i = ahead(); i < at.count; ++i) {
      wait(at.empty + stage, phase);
      weight(stage, i);
      x(stage, i);
      if (++stage == launch.stages.count) {
        stage = 0;
        phase ^= 1;
      }
    }
  }
};

template <class Out>
struct alignas(2 * sizeof(Out)) OutPair {
  Out x, y;
};

/// A warpgroup's 64 tokens of a tile, of which each warp has a slice of 16. Of each 8 columns a lane has two
/// in row lane / 4 and two 8 rows below.
template <class T, int kRows>
struct BatchSums {
  static constexpr int kChunks = kRows > 128 ? 2 : 1, kChunk = kRows / kChunks;
  float at[kChunks][kChunk / 2];

  /// The i-th of a lane's kRows / 2; the places are known when this is compiled.
  __device__ __forceinline__ float& value(int i) { return at[i / (kChunk / 2)][i % (kChunk / 2)]; }

  __device__ __forceinline__ void multiply(const BatchBlock& block, const BatchStages& stages, int group) {
    int stage = 0, before = 0;
    unsigned phase = 0;
    for (int i = 0; i < block.count; ++i) {
      wait(block.full + stage, phase);
      const unsigned base = shared_address(block.ring + stage * stages.stage_bytes);
      const std::uint64_t a = operand_at(base + group * 64 * kBatchRowBytes),
                          b = operand_at(base + stages.x_bytes);
      begin_products();
#pragma unroll
      for (int k = 0; k < kBatchStageCols / 16; ++k) {
#pragma unroll
        for (int chunk = 0; chunk < kChunks; ++chunk)
          WarpgroupProduct<T, kChunk>::add(
              at[chunk], a + k * 2, b + k * 2 + chunk * (kChunk * kBatchRowBytes / 16), i > 0 || k > 0);
      }
      commit_products();
      wait_for_products<1>();
      if (i > 0 && threadIdx.x % 32 == 0) arrive(block.empty + before);
      before = stage;
      if (++stage == stages.count) {
        stage = 0;
        phase ^= 1;
      }
    }
    wait_for_products<0>();
  }

  /// Sends the warp's sums to the block that owns their slice; there the splits' sums are added, in an order
  /// that does not depend on who owns them. Returns whether this block does.
  __device__ __forceinline__ bool join(const BatchBlock& block, const BatchStages& stages, int slice,
                                       int splits) {
    const int owner = slice % splits, lane = static_cast<int>(threadIdx.x) % 32;
    constexpr int kFours = kRows / 8, kSent = kFours * 32;
    float4* received = block.received + slice / splits * kSent + lane;  // of the first other split
    const int next = stages.own_slices * kSent;
    if (owner != block.split) {
      const float4* place = received + (block.split - (block.split > owner ? 1 : 0)) * next;
      const unsigned to = shared_address_in(place, owner), barrier = shared_address_in(block.joined, owner);
#pragma unroll
      for (int i = 0; i < kFours; ++i)
        send(to + i * 32 * sizeof(float4),
             {value(4 * i), value(4 * i + 1), value(4 * i + 2), value(4 * i + 3)}, barrier);
      return false;
    }
    wait(block.joined, 0);
    // Two: any order. Three: the first two, then the third. Four: the first two and the last two.
    const auto add = [&](float& own, float a, float b, float c) {
      const bool low = owner < 2;
      if (splits == 2) own += a;
      if (splits == 3) own = low ? own + a + b : a + b + own;
      if (splits == 4) own = low ? own + a + (b + c) : a + b + (own + c);
    };
#pragma unroll
    for (int i = 0; i < kFours; ++i) {
      const float4 a = received[i * 32], b = splits > 2 ? received[next + i * 32] : float4{},
                   c = splits > 3 ? received[2 * next + i * 32] : float4{};
      add(value(4 * i), a.x, b.x, c.x);
      add(value(4 * i + 1), a.y, b.y, c.y);
      add(value(4 * i + 2), a.z, b.z, c.z);
      add(value(4 * i + 3), a.w, b.w, c.w);
    }
    return true;
  }

  __device__ __forceinline__ void add_bias(const BatchParams& p, int tile) {
    if (p.bias == nullptr) return;
    const T* bias = static_cast<const T*>(p.bias);
#pragma unroll
    for (int i = 0; i < kRows / 2; ++i) {
      const int column = i / 4 * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + i % 2;  // of the tile
      int row = tile * kRows + column;
      if (p.gated) row = tile * (kRows / 2) + (i < kRows / 4 ? column : p.rows + column - kRows / 2);
      value(i) += to_float(bias[min(row, (p.gated ? 2 : 1) * p.rows - 1)]);
    }
  }

  /// To this warp's part of the scratch, [16, kStride] words: 8 rows fall into all banks.
  template <class Out>
  __device__ __forceinline__ void store(char* scratch) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    Out* to = reinterpret_cast<Out*>(scratch + lane / 4 * kScratchBytes<Out>) + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < kRows / 2; i += 2) {
      Out* at_pair = to + i / 4 * 8 + i % 4 / 2 * 8 * (kScratchBytes<Out> / sizeof(Out));
      *reinterpret_cast<OutPair<Out>*>(at_pair) = {from_float<Out>(value(i)), from_float<Out>(value(i + 1))};
    }
  }
  /// Of a row in words: an odd number of fours.
  template <class Out>
  static constexpr int kScratchBytes = (kRows * static_cast<int>(sizeof(Out)) / 16 | 1) * 16;
};

/// act(gate) * up of 8 each.
template <class T>
__device__ __forceinline__ uint4 gate_eight(const BatchParams& p, const char* gate, const char* up) {
  union Eight {
    uint4 words;
    T values[8];
  } g{*reinterpret_cast<const uint4*>(gate)}, u{*reinterpret_cast<const uint4*>(up)};
  // A division by the special function unit, unlike activate's: all tokens' gates are at a kernel's very end.
  const auto act = [&](float v) {
    return p.activation == model::Activation::kSilu ? __fdividef(v, 1.0f + __expf(-v))
                                                    : activate(p.activation, v);
  };
#pragma unroll
  for (int i = 0; i < 8; ++i) g.values[i] = from_float<T>(act(to_float(g.values[i])) * to_float(u.values[i]));
  return g.words;
}

/// Writes a warp's 16 tokens of a tile, by way of `own`, its part of the scratch, so that rows leave in
/// pieces of 16 bytes.
template <class Out, class T, int kRows>
__device__ __forceinline__ void write_slice(const BatchParams& p, BatchSums<T, kRows>& sums, char* own,
                                            int slice, int tile) {
  constexpr int kBytes = BatchSums<T, kRows>::template kScratchBytes<Out>,
                kPiece = 16 / static_cast<int>(sizeof(Out));
  sums.template store<Out>(own);
  __syncwarp();
  const int first = slice * kBatchSliceTokens, tokens = min(kBatchSliceTokens, p.tokens - first);
  // In pieces of 16 bytes, as the lanes come.
  const auto write = [&]<int kOutputs>(std::integral_constant<int, kOutputs>, auto piece_at) {
    constexpr int kPieces = kOutputs / kPiece;
    for (int i = static_cast<int>(threadIdx.x) % 32; i < tokens * kPieces; i += 32) {
      const int token = i / kPieces, row = tile * kOutputs + i % kPieces * kPiece;
      if (row >= p.rows) continue;
      *reinterpret_cast<uint4*>(static_cast<Out*>(p.y) + std::int64_t{first + token} * p.rows + row) =
          piece_at(own + token * kBytes + i % kPieces * 16);
    }
  };
  if (p.gated)
    return write(std::integral_constant<int, kRows / 2>{},
                 [&](const char* at) { return gate_eight<T>(p, at, at + kRows / 2 * sizeof(T)); });
  write(std::integral_constant<int, kRows>{},
        [](const char* at) { return *reinterpret_cast<const uint4*>(at); });
}
#endif

/// Bounds that keep a block's registers few, so that the small kernels around find room beside it.
constexpr int batch_threads_bound(int rows, int groups) {
  return rows > 192 ? 384 : rows > 128 ? 448 : groups * 128 + 32;
}

template <class T, int kRows, int kGroups>
__global__ void __launch_bounds__(batch_threads_bound(kRows, kGroups), kRows > 128 ? 1 : 2)
    batch_product(const __grid_constant__ BatchLaunch launch) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) char shared[];
  const BatchBlock block(launch, shared);
  const BatchLoader<kRows, kGroups> loader{launch, block};
  const int group = static_cast<int>(threadIdx.x) / 128;
  const int splits = launch.p.cut.splits;
  const bool loads = threadIdx.x == kGroups * 128;
  let_next_start();
  if (loads) {
    loader.make_barriers();
    loader.start();
  }
  __syncthreads();
  wait_for_producer();
  if (loads) loader.run();
  BatchSums<T, kRows> sums;
  if (group < kGroups) sums.multiply(block, launch.stages, group);
  __syncthreads();   // nobody reads the ring any more,
  if (splits > 1) {  // nor those of the cluster
    arrive_at_cluster();
    wait_for_cluster();
  }
  const int slice = static_cast<int>(threadIdx.x) / 32;
  if (slice >= launch.stages.slices || group == kGroups) return;
  if (splits > 1 && !sums.join(block, launch.stages, slice, splits)) return;
  sums.add_bias(launch.p, block.tile);
  char* own = shared + slice / splits * kBatchSliceTokens * (kRows + 8) * 4;
  if (launch.p.wide) return write_slice<float>(launch.p, sums, own, slice, block.tile);
  write_slice<T>(launch.p, sums, own, slice, block.tile);
#endif
}

template <class T, int kRows, int kGroups>
bool launch_batch_as(const BatchParams& p, cudaStream_t stream) {
  BatchLaunch launch{{}, {}, p, batch_stages(p.tokens, p.cut)};
  if (!raise_shared_limit<batch_product<T, kRows, kGroups>>(kBatchSharedMax)) return false;
  const int outputs = p.gated ? kRows / 2 : kRows, weight_rows = p.gated ? 2 * p.rows : p.rows;
  if (!map_rows(launch.x, p.element, p.x, p.tokens, p.cols, launch.stages.x_rows, kBatchStageCols))
    return false;
  if (!map_rows(launch.weight, p.element, p.weight, weight_rows, p.cols, kRows / 2, kBatchStageCols))
    return false;
  const auto tiles = static_cast<unsigned>((p.rows + outputs - 1) / outputs);
  launch_overlapped(batch_product<T, kRows, kGroups>, dim3(tiles * static_cast<unsigned>(p.cut.splits)),
                    kGroups * 128 + 32, static_cast<std::size_t>(launch.stages.shared_bytes()), launch,
                    stream, p.cut.splits);
  return cudaPeekAtLastError() == cudaSuccess;
}

template <class T, int kRows>
bool launch_batch_rows(const BatchParams& p, cudaStream_t stream) {
  if (batch_groups(p.tokens) == 1) return launch_batch_as<T, kRows, 1>(p, stream);
  return launch_batch_as<T, kRows, 2>(p, stream);
}

template <class T>
bool launch_batch_for(const BatchParams& p, cudaStream_t stream) {
  switch (p.cut.tile_rows) {
    case 32:
      return launch_batch_rows<T, 32>(p, stream);
    case 64:
      return launch_batch_rows<T, 64>(p, stream);
    case 96:
      return launch_batch_rows<T, 96>(p, stream);
    case 128:
      return launch_batch_rows<T, 128>(p, stream);
    case 176:
      return launch_batch_rows<T, 176>(p, stream);
    case 192:
      return launch_batch_rows<T, 192>(p, stream);
    case 224:
      return launch_batch_rows<T, 224>(p, stream);
    case 256:
      return launch_batch_rows<T, 256>(p, stream);
    default:
      return false;
  }
}

}  // namespace spillway::gpu::cuda
