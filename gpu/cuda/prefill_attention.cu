// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/attention.hpp"
#include "gpu/cuda/element.cuh"
#include "gpu/cuda/launch.cuh"
#include "gpu/cuda/mma.cuh"
#include "gpu/cuda/prefill_tiles.hpp"

// FlashAttention-2's loop (Dao 2023) over a paged pool: a block of eight warps holds 128 queries, each warp 16
// of them; keys and values come in tiles of 64 through shared memory, the next tile's copy under way while this
// one is multiplied. Products are mma.sync m16n8k16 with fp32 sums.

namespace spillway::gpu::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kQueries = kPrefillTile;
constexpr int kKeys = 64;

__device__ __forceinline__ void load_matrices_turned(unsigned (&x)[4], const void* at) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(at));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address));
}

/// 16 bytes from global to shared memory; zeros when `valid` is false.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool valid) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(valid ? 16 : 0));
}

template <class T, int kHeadDim>
struct Tile {
  static constexpr int kStride = kHeadDim + 8;  // 16 bytes more: rows of a matrix start in different banks
  T rows[kKeys * kStride];
};

/// Keys [first, first + kKeys) and their values; zeros from `end` on. A thread copies the same 16 bytes of several rows, and
/// looks a row's block up once for both.
template <class T, int kHeadDim>
__device__ __forceinline__ void load_tiles(Tile<T, kHeadDim>& keys, Tile<T, kHeadDim>& values, const AttentionParams& p,
                                           const T* pool, std::int64_t to_value, const std::int32_t* table, int shift,
                                           int first, int end) {
  constexpr int kChunks = kHeadDim / 8, kRounds = (kKeys * kChunks + kWarps * 32 - 1) / (kWarps * 32);
  const int mask = p.block_size - 1;
  std::int32_t blocks[kRounds];
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int i = round * kWarps * 32 + static_cast<int>(threadIdx.x);
    blocks[round] = table[min(first + i / kChunks, end - 1) >> shift];
  }
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int i = round * kWarps * 32 + static_cast<int>(threadIdx.x), row = i / kChunks, chunk = i % kChunks;
    if (kKeys * kChunks % (kWarps * 32) != 0 && row >= kKeys) break;
    const bool valid = first + row < end;
    const T* from = pool + std::int64_t{blocks[round]} * p.block_elements +
                    (min(first + row, end - 1) & mask) * kHeadDim + chunk * 8;
    const int to = row * Tile<T, kHeadDim>::kStride + chunk * 8;
    copy_async(keys.rows + to, from, valid);
    copy_async(values.rows + to, from + to_value, valid);
  }
}

template <class T, int kHeadDim>
__global__ void __launch_bounds__(kWarps * 32) prefill_attention(const AttentionParams p) {
  constexpr int kStride = Tile<T, kHeadDim>::kStride, kSlices = kHeadDim / 16, kColumns = kHeadDim / 8;
  extern __shared__ char memory[];
  auto* keys = reinterpret_cast<Tile<T, kHeadDim>*>(memory);  // [2]
  auto* values = keys + 2;                                    // [2]

  wait_for_producer();
  // The longest tiles first: the last to start should be short.
  const PrefillTile tile = p.tiles[p.num_tiles - 1 - static_cast<int>(blockIdx.y)];
  const int head = blockIdx.x, kv_head = head / (p.heads / p.kv_heads);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int q_stride = (p.heads + 2 * p.kv_heads) * kHeadDim;
  const T* q = static_cast<const T*>(p.qkv) + std::int64_t{tile.row} * q_stride + head * kHeadDim;
  const T* key_pool = static_cast<const T*>(p.pool) + p.layer_offset + std::int64_t{kv_head} * p.block_size * kHeadDim;
  const std::int64_t to_value = std::int64_t{p.kv_heads} * p.block_size * kHeadDim;
  const std::int32_t* table = p.block_table + tile.table;
  const int shift = __ffs(p.block_size) - 1;

  const int end = tile.position + tile.tokens;  // keys the tile's last query sees
  int begin = 0;
  if (p.window > 0) begin = max(0, tile.position - p.window + 1) / kKeys * kKeys;

  // Queries go through the key tiles' memory into registers.
  static_assert(kQueries <= 2 * kKeys);
  T* queries = reinterpret_cast<T*>(memory);
  for (int i = threadIdx.x; i < kQueries * (kHeadDim / 8); i += kWarps * 32) {
    const int row = i / (kHeadDim / 8), chunk = i % (kHeadDim / 8);
    const bool valid = row < tile.tokens;
    copy_async(queries + row * kStride + chunk * 8, q + std::int64_t{valid ? row : 0} * q_stride + chunk * 8,
               valid);
  }
  asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;\n" ::: "memory");
  __syncthreads();
  unsigned query[kSlices][4];
#pragma unroll
  for (int s = 0; s < kSlices; ++s)
    load_matrices(query[s], queries + (warp * 16 + lane % 16) * kStride + s * 16 + lane / 16 * 8);
  __syncthreads();

  float sum[kColumns][4] = {};
  float maximum[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
  const float scale = p.scale * 1.4426950408889634f;
  const int first_row = warp * 16 + lane / 4;  // this lane's queries: first_row and first_row + 8

  load_tiles<T, kHeadDim>(keys[0], values[0], p, key_pool, to_value, table, shift, begin, end);
  asm volatile("cp.async.commit_group;" ::: "memory");
  int stage = 0;
  for (int first = begin; first < end; first += kKeys, stage ^= 1) {
    if (first + kKeys < end) {
      load_tiles<T, kHeadDim>(keys[stage ^ 1], values[stage ^ 1], p, key_pool, to_value, table, shift, first + kKeys,
                              end);
    }
    asm volatile("cp.async.commit_group;\ncp.async.wait_group 1;\n" ::: "memory");
    __syncthreads();

    // A warp without queries, or whose queries all lie before these keys, has nothing to add.
    if (warp * 16 < tile.tokens && first <= tile.position + warp * 16 + 15) {
      float score[kKeys / 8][4] = {};
#pragma unroll
      for (int s = 0; s < kSlices; ++s) {
#pragma unroll
        for (int n = 0; n < kKeys / 16; ++n) {
          unsigned b[4];  // two groups of eight keys, 16 dimensions
          load_matrices(b, keys[stage].rows + (n * 16 + lane % 8 + lane / 16 * 8) * kStride + s * 16 + lane / 8 % 2 * 8);
          multiply<T>(score[2 * n], query[s], b[0], b[1]);
          multiply<T>(score[2 * n + 1], query[s], b[2], b[3]);
        }
      }

      const bool masks = first + kKeys > tile.position || (p.window > 0 && first < end - p.window);
      float next[2] = {maximum[0], maximum[1]};
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (masks) {
            const int key = first + n * 8 + lane % 4 * 2 + i % 2;
            const int position = tile.position + first_row + i / 2 * 8;
            if (key > position || (p.window > 0 && key <= position - p.window)) score[n][i] = -INFINITY;
          }
          next[i / 2] = fmaxf(next[i / 2], score[n][i]);
        }
      }
      float reference[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        next[r] = fmaxf(next[r], __shfl_xor_sync(0xffffffffu, next[r], 1));
        next[r] = fmaxf(next[r], __shfl_xor_sync(0xffffffffu, next[r], 2));
        reference[r] = next[r] == -INFINITY ? 0.0f : next[r] * scale;
        const float old = power_of_two(maximum[r] * scale - reference[r]);
        maximum[r] = next[r];
        total[r] *= old;
#pragma unroll
        for (int n = 0; n < kColumns; ++n) {
          sum[n][2 * r] *= old;
          sum[n][2 * r + 1] *= old;
        }
      }
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          score[n][i] = power_of_two(score[n][i] * scale - reference[i / 2]);
          total[i / 2] += score[n][i];
        }
      }

#pragma unroll
      for (int s = 0; s < kKeys / 16; ++s) {  // 16 keys
        const unsigned weight[4] = {pack_two<T>(score[2 * s][0], score[2 * s][1]),
                                    pack_two<T>(score[2 * s][2], score[2 * s][3]),
                                    pack_two<T>(score[2 * s + 1][0], score[2 * s + 1][1]),
                                    pack_two<T>(score[2 * s + 1][2], score[2 * s + 1][3])};
#pragma unroll
        for (int n = 0; n < kColumns / 2; ++n) {
          unsigned b[4];  // 16 keys, two groups of eight dimensions
          load_matrices_turned(b, values[stage].rows + (s * 16 + lane % 16) * kStride + n * 16 + lane / 16 * 8);
          multiply<T>(sum[2 * n], weight, b[0], b[1]);
          multiply<T>(sum[2 * n + 1], weight, b[2], b[3]);
        }
      }
    }
    __syncthreads();
  }
  asm volatile("cp.async.wait_group 0;" ::: "memory");

  T* out = static_cast<T*>(p.out) + std::int64_t{tile.row} * p.heads * kHeadDim + head * kHeadDim;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    total[r] += __shfl_xor_sync(0xffffffffu, total[r], 1);
    total[r] += __shfl_xor_sync(0xffffffffu, total[r], 2);
    const int row = first_row + r * 8;
    if (row >= tile.tokens) continue;
    if (p.lse != nullptr && lane % 4 == 0)
      p.lse[std::int64_t{tile.row + row} * p.heads + head] = maximum[r] * scale + log2f(total[r]);
    const float inverse = 1.0f / total[r];
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      *reinterpret_cast<unsigned*>(out + std::int64_t{row} * p.heads * kHeadDim + n * 8 + lane % 4 * 2) =
          pack_two<T>(sum[n][2 * r] * inverse, sum[n][2 * r + 1] * inverse);
    }
  }
}

template <class T, int kHeadDim>
void launch(const AttentionParams& p, cudaStream_t stream) {
  constexpr int kShared = 4 * sizeof(Tile<T, kHeadDim>);
  if (!raise_shared_limit<prefill_attention<T, kHeadDim>>(kShared)) return;
  launch_overlapped(prefill_attention<T, kHeadDim>, dim3(p.heads, p.num_tiles), kWarps * 32, kShared, p, stream);
}

template <class T>
void launch_for_head(const AttentionParams& p, cudaStream_t stream) {
  switch (p.head_dim) {
    case 64:
      return launch<T, 64>(p, stream);
    case 80:
      return launch<T, 80>(p, stream);
    case 96:
      return launch<T, 96>(p, stream);
    case 128:
      return launch<T, 128>(p, stream);
    case 256:
      return launch<T, 256>(p, stream);
    default:
      return;
  }
}

}  // namespace

bool has_fast_prefill(Element element, int head_dim) noexcept {
  return element != Element::kF32 && (head_dim == 64 || head_dim == 80 || head_dim == 96 || head_dim == 128 || head_dim == 256);
}

void launch_prefill_attention(const AttentionParams& p, cudaStream_t stream) {
  if (p.warpgroups && launch_prefill_tiles(p, stream)) return;
  if (p.element == Element::kBF16) return launch_for_head<__nv_bfloat16>(p, stream);
  launch_for_head<__half>(p, stream);
}

}  // namespace spillway::gpu::cuda
