// SPDX-License-Identifier: Apache-2.0
#pragma once

// Prefill attention on compute capability 9.0a: a block holds 128 queries of one head, 64 for each of two
// warpgroups that multiply; a warp more fills a ring of tiles of 128 keys and values from the paged pool by
// tensor copies.
//
// A warpgroup has the product of its queries with the next keys under way while it multiplies this tile's
// weights with the values, and the warpgroups take turns at issuing products, so that one's softmax runs
// under the other's products (Shah et al. 2024, FlashAttention-3, section 3). Weights go from registers;
// values are read turned.
//
// Matrices in shared memory lie in groups of 8 rows: [rows / 8][head_dim / 64][8][64], each 8 by 64 swizzled.
//
// A query meets keys in tiles that begin at multiples of 128, whatever tile it is in itself, and a tile that
// it sees nothing of leaves its sums as they are: its result depends neither on chunks nor on what else the
// step holds.

#include <cmath>
#include <cstdint>

#include "gpu/cuda/attention.hpp"
#include "gpu/cuda/element.cuh"
#include "gpu/cuda/launch.cuh"
#include "gpu/cuda/prefill_tiles.hpp"
#include "gpu/cuda/ring.cuh"
#include "gpu/cuda/tensor_map.hpp"
#include "gpu/cuda/wgmma.cuh"

namespace spillway::gpu::cuda {

constexpr int kTileKeys = 128, kTileStages = 2, kTileGroups = 2, kTileThreads = (kTileGroups + 1) * 128;
static_assert(kTileGroups * 64 == kPrefillTile);

struct PrefillLaunch {
  CUtensorMap pool;  // of the layer
  AttentionParams p;
};

template <int kHeadDim>
struct PrefillLayout {
  static constexpr int kGroupBytes = kHeadDim / 64 * 1024;  // of 8 rows
  static constexpr int kQueryBytes = kPrefillTile / 8 * kGroupBytes, kTileBytes = kTileKeys / 8 * kGroupBytes;
  static constexpr int kBarriersAt = kQueryBytes + 2 * kTileStages * kTileBytes;
  static constexpr int kBytes = kBarriersAt + 4 * kTileStages * 8;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

template <int kHeadDim>
struct PrefillRing {
  using Layout = PrefillLayout<kHeadDim>;
  char *keys, *values;  // [stages]
  std::uint64_t *full_keys, *full_values, *empty_keys, *empty_values;

  __device__ explicit PrefillRing(char* shared)
      : keys(shared + Layout::kQueryBytes),
        values(keys + kTileStages * Layout::kTileBytes),
        full_keys(reinterpret_cast<std::uint64_t*>(shared + Layout::kBarriersAt)),
        full_values(full_keys + kTileStages),
        empty_keys(full_values + kTileStages),
        empty_values(empty_keys + kTileStages) {}

  __device__ void make_barriers() const {
    for (int i = 0; i < 2 * kTileStages; ++i) {
      init_barrier(full_keys + i, 1);
      init_barrier(empty_keys + i, kTileGroups * 4);
    }
    publish_barriers();
  }
};

/// What a block computes.
struct PrefillWork {
  PrefillTile tile;
  int head, kv_head;
  int begin, end, count;  // keys, tiles of them

  __device__ explicit PrefillWork(const AttentionParams& p)
      : tile(p.tiles[p.num_tiles - 1 -
                     static_cast<int>(blockIdx.y)]),  // the longest first: the last to start should be short
        head(static_cast<int>(blockIdx.x)),
        kv_head(head / (p.heads / p.kv_heads)),
        begin(p.window > 0 ? max(0, tile.position - p.window + 1) / kTileKeys * kTileKeys : 0),
        end(tile.position + tile.tokens),
        count((end - begin + kTileKeys - 1) / kTileKeys) {}
};

/// By one warp. Blocks that lie wholly behind the last key are not copied.
template <int kHeadDim>
__device__ __forceinline__ void load_pool(const PrefillLaunch& launch, const PrefillWork& work,
                                          const PrefillRing<kHeadDim>& ring) {
  using Layout = PrefillLayout<kHeadDim>;
  const AttentionParams& p = launch.p;
  const int lane = static_cast<int>(threadIdx.x) % 32, rows = min(p.block_size, kTileKeys),
            shift = __ffs(p.block_size) - 1;
  const int bytes = rows / 8 * Layout::kGroupBytes;
  const int block_groups = static_cast<int>(p.block_elements / (8 * kHeadDim)),
            to_value = p.kv_heads * p.block_size / 8;
  const std::int32_t* table = p.block_table + work.tile.table;
  const auto block_of = [&](int first) { return table[min(first + lane * rows, work.end - 1) >> shift]; };

  std::int32_t next = block_of(work.begin);
  for (int i = 0, first = work.begin; i < work.count; ++i, first += kTileKeys) {
    const int stage = i % kTileStages, boxes = (min(kTileKeys, work.end - first) + rows - 1) / rows;
    const unsigned phase = (i / kTileStages - 1) & 1;
    const int own = next * block_groups + (work.kv_head * p.block_size + (first & (p.block_size - 1))) / 8;
    next = block_of(min(first + kTileKeys, work.end - 1));
    const auto load = [&](char* to, std::uint64_t* full, std::uint64_t* empty, int offset) {
      if (i >= kTileStages) wait(empty + stage, phase);
      if (lane == 0) arrive_expecting(full + stage, boxes * bytes);
      for (int box = 0; box < boxes; ++box) {
        const int group = __shfl_sync(0xffffffffu, own, box) + offset;
        if (lane == 0)
          copy_groups(to + stage * Layout::kTileBytes + box * bytes, launch.pool, group, full + stage);
      }
    };
    load(ring.keys, ring.full_keys, ring.empty_keys, 0);
    load(ring.values, ring.full_values, ring.empty_values, to_value);
  }
}

/// A warpgroup's 64 queries. A lane has two of them, 8 apart.
template <class T, int kHeadDim>
struct PrefillQueries {
  using Layout = PrefillLayout<kHeadDim>;
  const AttentionParams& p;
  const PrefillWork& work;
  const PrefillRing<kHeadDim>& ring;
  char* queries;           // of the warpgroup
  int group, thread, row;  // row: the lane's first, of the tile
  float scale;
  float score[kTileKeys / 2], sum[kHeadDim / 2];
  unsigned weight[kTileKeys / 16][4];
  float maximum[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0}, old[2];

  __device__ __forceinline__ PrefillQueries(const AttentionParams& params, const PrefillWork& w,
                                            const PrefillRing<kHeadDim>& r, char* shared)
      : p(params), work(w), ring(r) {
    group = static_cast<int>(threadIdx.x) / 128 - 1;
    thread = static_cast<int>(threadIdx.x) % 128;
    row = group * 64 + thread / 32 * 16 + thread % 32 / 4;
    queries = shared + group * 8 * Layout::kGroupBytes;
    scale = p.scale * 1.4426950408889634f;
#pragma unroll
    for (int i = 0; i < kHeadDim / 2; ++i) sum[i] = 0;
  }

  /// What this warpgroup has written to shared memory is there for its products.
  __device__ __forceinline__ void show_to_products() const {
    show_to_copies();
    meet(3 + group, 128);
  }
  __device__ __forceinline__ void take_turn() const { meet(1 + group, kTileGroups * 128); }
  __device__ __forceinline__ void pass_turn() const { come_by(2 - group, kTileGroups * 128); }

  __device__ __forceinline__ void load() const {
    constexpr int kChunks = kHeadDim / 8;
    const std::int64_t stride = std::int64_t{p.heads + 2 * p.kv_heads} * kHeadDim;
    const T* from = static_cast<const T*>(p.qkv) + work.tile.row * stride + work.head * kHeadDim;
#pragma unroll
    for (int round = 0; round < kChunks / 2; ++round) {
      const int i = round * 128 + thread, r = i / kChunks, chunk = i % kChunks, own = group * 64 + r;
      uint4 x{};
      if (own < work.tile.tokens) x = *reinterpret_cast<const uint4*>(from + own * stride + chunk * 8);
      *reinterpret_cast<uint4*>(queries + r / 8 * Layout::kGroupBytes + chunk / 8 * 1024 + r % 8 * 128 +
                                (chunk % 8 ^ r % 8) * 16) = x;
    }
    show_to_products();
  }

  /// score = queries * keys^T.
  __device__ __forceinline__ void multiply_keys(int stage) {
    const std::uint64_t a = operand_at(shared_address(queries), 16, Layout::kGroupBytes),
                        b = operand_at(shared_address(ring.keys + stage * Layout::kTileBytes), 16,
                                       Layout::kGroupBytes);
#pragma unroll
    for (int k = 0; k < kHeadDim / 16; ++k) {
      const int step = k / 4 * (1024 / 16) + k % 4 * 2;
      WarpgroupProduct<T, kTileKeys>::add(score, a + step, b + step, k > 0);
    }
    commit_products();
  }
  /// sum += weight * values.
  __device__ __forceinline__ void multiply_values(int stage) {
    const unsigned at = shared_address(ring.values + stage * Layout::kTileBytes);
    const std::uint64_t b = operand_at(at, 1024, Layout::kGroupBytes);
#pragma unroll
    for (int k = 0; k < kTileKeys / 16; ++k)
      WarpgroupProductTurned<T, kHeadDim>::add(sum, weight[k], b + k * (2 * Layout::kGroupBytes / 16));
    commit_products();
  }

  __device__ __forceinline__ void mask(int first) {
    const int position = work.tile.position + row;
#pragma unroll
    for (int i = 0; i < kTileKeys / 2; ++i) {
      const int key = first + i / 4 * 8 + thread % 4 * 2 + i % 2, own = position + i % 4 / 2 * 8;
      if (key > own || (p.window > 0 && key <= own - p.window)) score[i] = -INFINITY;
    }
  }

  /// score = 2^(score - maximum), where the maximum is that of all keys so far; `old` is what sums so far are
  /// to be multiplied by.
  __device__ __forceinline__ void soften(int first) {
    const int lowest = work.tile.position + group * 64;
    if (first + kTileKeys - 1 > lowest || (p.window > 0 && first <= lowest + 63 - p.window)) mask(first);
    float next[2] = {maximum[0], maximum[1]}, reference[2];
#pragma unroll
    for (int i = 0; i < kTileKeys / 2; ++i) next[i % 4 / 2] = fmaxf(next[i % 4 / 2], score[i]);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      next[r] = fmaxf(next[r], __shfl_xor_sync(0xffffffffu, next[r], 1));
      next[r] = fmaxf(next[r], __shfl_xor_sync(0xffffffffu, next[r], 2));
      reference[r] = next[r] == -INFINITY ? 0.0f : next[r] * scale;
      old[r] = next[r] == -INFINITY
                   ? 1.0f
                   : power_of_two((maximum[r] - next[r]) * scale);  // exactly 1 where nothing changes
      maximum[r] = next[r];
      total[r] *= old[r];
    }
#pragma unroll
    for (int i = 0; i < kTileKeys / 2; ++i) {
      score[i] = power_of_two(score[i] * scale - reference[i % 4 / 2]);
      total[i % 4 / 2] += score[i];
    }
  }

  __device__ __forceinline__ void pack_weights() {
#pragma unroll
    for (int k = 0; k < kTileKeys / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        weight[k][i] = pack_two<T>(score[k * 8 + i * 2], score[k * 8 + i * 2 + 1]);
        asm volatile("" : "+r"(weight[k][i]));
      }
    }
  }
  __device__ __forceinline__ void rescale() {
#pragma unroll
    for (int i = 0; i < kHeadDim / 2; ++i) sum[i] *= old[i % 4 / 2];
  }

  /// Behind the last key lies anything: a weight of zero times that might be no number.
  __device__ __forceinline__ void clear_values(int stage, int from) const {
    constexpr int kChunks = kHeadDim / 8;
    char* values = ring.values + stage * Layout::kTileBytes;
    for (int i = from * kChunks + thread; i < kTileKeys * kChunks; i += 128) {
      const int r = i / kChunks, chunk = i % kChunks;
      *reinterpret_cast<uint4*>(values + r / 8 * Layout::kGroupBytes + chunk / 8 * 1024 + r % 8 * 128 +
                                chunk % 8 * 16) = uint4{};
    }
    show_to_products();
  }

  __device__ __forceinline__ void release(std::uint64_t* empty) const {
    if (thread % 32 == 0) arrive(empty);
  }

  __device__ __forceinline__ void run() {
    if (group == 1) pass_turn();
    load();
    const int last = work.count - 1;
    wait(ring.full_keys, 0);
    take_turn();
    begin_products();
    multiply_keys(0);
    if (group == 0 || last > 0) pass_turn();
    wait_for_products<0>();
    hold(score);
    release(ring.empty_keys);
    for (int i = 0;; ++i) {
      soften(work.begin + i * kTileKeys);
      wait_for_products<0>();
      hold(sum);
      if (i > 0) release(ring.empty_values + (i - 1) % kTileStages);
      rescale();
      pack_weights();
      if (i == last) break;
      const int stage = i % kTileStages, next = (i + 1) % kTileStages;
      wait(ring.full_keys + next, (i + 1) / kTileStages & 1);
      wait(ring.full_values + stage, i / kTileStages & 1);
      take_turn();
      begin_products();
      multiply_keys(next);
      multiply_values(stage);
      if (group == 0 || i + 1 < last) pass_turn();
      wait_for_products<1>();
      hold(score);
      release(ring.empty_keys + next);
    }
    const int stage = last % kTileStages, first = work.begin + last * kTileKeys;
    wait(ring.full_values + stage, last / kTileStages & 1);
    if (first + kTileKeys > work.end) clear_values(stage, work.end - first);
    begin_products();
    multiply_values(stage);
    wait_for_products<0>();
    hold(sum);
    write();
  }

  __device__ __forceinline__ void write() {
    T* out = static_cast<T*>(p.out) + std::int64_t{work.tile.row} * p.heads * kHeadDim + work.head * kHeadDim;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      total[r] += __shfl_xor_sync(0xffffffffu, total[r], 1);
      total[r] += __shfl_xor_sync(0xffffffffu, total[r], 2);
      const int own = row + r * 8;
      if (own >= work.tile.tokens) continue;
      if (p.lse != nullptr && thread % 4 == 0)
        p.lse[std::int64_t{work.tile.row + own} * p.heads + work.head] = maximum[r] * scale + log2f(total[r]);
      const float inverse = 1.0f / total[r];
      T* to = out + std::int64_t{own} * p.heads * kHeadDim + thread % 4 * 2;
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        *reinterpret_cast<unsigned*>(to + n * 8) =
            pack_two<T>(sum[n * 4 + r * 2] * inverse, sum[n * 4 + r * 2 + 1] * inverse);
      }
    }
  }
};
#endif

template <class T, int kHeadDim>
__global__ void __launch_bounds__(kTileThreads, 1)
    prefill_tiles(const __grid_constant__ PrefillLaunch launch) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) char shared[];
  const PrefillRing<kHeadDim> ring(shared);
  if (threadIdx.x == 0) ring.make_barriers();
  __syncthreads();
  wait_for_producer();
  const PrefillWork work(launch.p);
  if (threadIdx.x < 128) {
    give_registers<24>();
    if (threadIdx.x < 32) load_pool<kHeadDim>(launch, work, ring);
  } else {
    take_registers<240>();
    PrefillQueries<T, kHeadDim> queries(launch.p, work, ring, shared);
    queries.run();
  }
#endif
}

template <class T, int kHeadDim>
bool launch_prefill_tiles_as(const AttentionParams& p, cudaStream_t stream) {
  PrefillLaunch launch{{}, p};
  constexpr int kBytes = PrefillLayout<kHeadDim>::kBytes;
  const auto* layer = static_cast<const T*>(p.pool) + p.layer_offset;
  const std::int64_t rows = (p.pool_blocks * p.block_elements - p.layer_offset) / (8 * kHeadDim) * 8;
  if (!raise_shared_limit<prefill_tiles<T, kHeadDim>>(kBytes)) return false;
  if (!map_groups(launch.pool, p.element, layer, rows, kHeadDim,
                  p.block_size < kTileKeys ? p.block_size : kTileKeys))
    return false;
  launch_overlapped(prefill_tiles<T, kHeadDim>,
                    dim3(static_cast<unsigned>(p.heads), static_cast<unsigned>(p.num_tiles)), kTileThreads,
                    kBytes, launch, stream);
  return true;
}

/// Of launch_prefill_tiles.
template <class T>
bool launch_prefill_tiles_for(const AttentionParams& p, cudaStream_t stream) {
  if (p.head_dim == 64) return launch_prefill_tiles_as<T, 64>(p, stream);
  return launch_prefill_tiles_as<T, 128>(p, stream);
}

}  // namespace spillway::gpu::cuda
