// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "gpu/cuda/launch.cuh"
#include "gpu/cuda/mma.cuh"
#include "gpu/cuda/sparse_decode.cuh"

// Scores of a prompt's keys. A block has some keys of one KV head and goes through the queries, of which each
// gives a key its probability, summed over the group's heads. With tensor cores where prefill attention has
// them: the keys stay in registers, queries come in tiles of 64 through shared memory, the next tile under
// way while this one is multiplied, and each lane keeps the sums of its own queries until the end. Otherwise
// a product at a time, where a key's score takes in one query after another, so that the sum does not show
// where the prompt was cut.
//
// The limit of the first is the exponential, 16 a clock and multiprocessor: 512 clocks for 128 keys and 64
// queries, as much as shared memory takes to give the queries to four warps.

namespace spillway::gpu::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kQueries = 64;  // of a tile
constexpr int kFewKeys = 32;  // of a block without tensor cores
constexpr int kListed = 16;   // sequences a launch

struct ScoredParams : SparseAttentionParams {
  std::int32_t listed[kListed] = {};  // of slots.sequences, by blockIdx.z
};

/// Which of a chunk's queries a key is seen by.
struct Sight {
  int first, tokens, position, window;
  __device__ Sight(const SparseAttentionParams& p, const SparseSequence& s)
      : first(s.first_scored), tokens(s.tokens), position(s.position), window(p.window) {}
  __device__ bool sees(int token, int key) const {
    const int at = position + token;
    return token >= first && token < tokens && key <= at && (window == 0 || key > at - window);
  }
  /// Whether each of these tokens, all of them the chunk's, sees each of these keys.
  __device__ bool sees_all(int token, int tokens_of, int key, int keys) const {
    return key + keys - 1 <= position + token &&
           (window == 0 || key > position + token + tokens_of - 1 - window);
  }
  /// The first token of the chunk that can see any key from `key` on.
  __device__ int from(int key) const { return max(first, key - position); }
};

__device__ __forceinline__ float old_score(const SparseSequence& s, const UnitSlots& slots, int key) {
  return s.update == static_cast<int>(ScoreUpdate::kAdd) && key < s.span ? *slots.score(key) : 0.0f;
}

/// 16 bytes from global to shared memory; zeros when `from` is null.
__device__ __forceinline__ void copy_or_clear(void* to, const void* from, const void* anywhere) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address),
               "l"(from != nullptr ? from : anywhere), "r"(from != nullptr ? 16 : 0));
}

/// What a block has in shared memory: two tiles of queries, whose place the block's keys take first.
template <class T, int kHeadDim>
struct ScoreTiles {
  static constexpr int kMatrices = kHeadDim > 128 ? 1 : 2;  // of 16 keys, of a warp
  static constexpr int kKeys = kWarps * kMatrices * 16;     // of a block
  static constexpr int kStride = kHeadDim + 8;              // rows of a matrix start in different banks
  static constexpr int kChunks = kHeadDim / 8;
  T rows[2][kQueries * kStride];
  float lse[2][kQueries];  // infinite for queries that do not count
  static_assert(kKeys <= 2 * kQueries);

  /// Rows [0, count) from `row_at(i)`, null for zeros, begin to come to `to`.
  template <class RowAt>
  static __device__ void fetch(T* to, int count, const void* anywhere, RowAt&& row_at) {
    for (int i = threadIdx.x; i < count * kChunks; i += kThreads) {
      const T* from = row_at(i / kChunks);
      copy_or_clear(to + i / kChunks * kStride + i % kChunks * 8,
                    from != nullptr ? from + i % kChunks * 8 : nullptr, anywhere);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
};

/// One block up to 128 keys of a KV head and sequence; a warp has 16 or 32 of them, as the products' rows.
template <class T, int kHeadDim>
__global__ void __launch_bounds__(kThreads, kHeadDim > 128 ? 2 : 4) sparse_scores(const ScoredParams p) {
  using Tiles = ScoreTiles<T, kHeadDim>;
  constexpr int kStride = Tiles::kStride, kSlices = kHeadDim / 16, kMatrices = Tiles::kMatrices;
  extern __shared__ char memory[];
  Tiles& tiles = *reinterpret_cast<Tiles*>(memory);
  wait_for_producer();
  const SparseSequence s = p.slots.sequences[p.listed[blockIdx.z]];
  const Sight sight(p, s);
  const int first_key = blockIdx.x * Tiles::kKeys, kv_head = blockIdx.y, group = p.heads / p.kv_heads;
  if (first_key >= s.span) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  const T* pool =
      static_cast<const T*>(p.pool) + p.layer_offset + std::int64_t{kv_head} * p.block_size * kHeadDim;
  Tiles::fetch(tiles.rows[0], Tiles::kKeys, p.qkv, [&](int i) -> const T* {
    const int key = first_key + i;
    if (key >= s.span) return nullptr;
    return pool + p.block_table[s.table + key / p.block_size] * p.block_elements +
           key % p.block_size * kHeadDim;
  });
  asm volatile("cp.async.wait_group 0;" ::: "memory");
  __syncthreads();
  unsigned keys[kMatrices][kSlices][4];
#pragma unroll
  for (int m = 0; m < kMatrices; ++m) {
#pragma unroll
    for (int i = 0; i < kSlices; ++i)
      load_matrices(keys[m][i], tiles.rows[0] + ((warp * kMatrices + m) * 16 + lane % 16) * kStride + i * 16 +
                                    lane / 16 * 8);
  }
  __syncthreads();

  const int row_size = (p.heads + 2 * p.kv_heads) * kHeadDim;
  const int begin = sight.from(first_key);
  const int end = p.window > 0 ? min(s.tokens, first_key + Tiles::kKeys + p.window - s.position) : s.tokens;
  const int rounds =
      max(0, (end - begin + kQueries - 1) / kQueries) * group;  // a tile's heads follow each other
  const auto fetch = [&](int round) {
    const int first = begin + round / group * kQueries, head = kv_head * group + round % group;
    Tiles::fetch(tiles.rows[round % 2], kQueries, p.qkv, [&](int i) -> const T* {
      if (first + i >= end) return nullptr;
      return static_cast<const T*>(p.qkv) + std::int64_t{s.row + first + i} * row_size + head * kHeadDim;
    });
    if (threadIdx.x < kQueries) {
      const int token = first + static_cast<int>(threadIdx.x);
      tiles.lse[round % 2][threadIdx.x] =
          token < end ? p.lse[std::int64_t{s.row + token} * p.heads + head] : INFINITY;
    }
  };

  float sum[kMatrices][2] = {};  // of this lane's queries, for its two rows of each matrix
  const float scale = p.scale * 1.4426950408889634f;
  if (rounds > 0) fetch(0);
  for (int round = 0; round < rounds; ++round) {
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncthreads();  // this tile is here, and all are through with the one before
    if (round + 1 < rounds) fetch(round + 1);
    const int first = begin + round / group * kQueries;
    const T* queries = tiles.rows[round % 2];
    const float* lse = tiles.lse[round % 2];
    const bool all = sight.sees_all(first, kQueries, first_key, Tiles::kKeys);
#pragma unroll
    for (int n = 0; n < kQueries / 16; ++n) {
      float dot[kMatrices][2][4] = {};
#pragma unroll
      for (int i = 0; i < kSlices; ++i) {
        unsigned b[4];  // two groups of eight queries, 16 dimensions
        load_matrices(b, queries + (n * 16 + lane % 8 + lane / 16 * 8) * kStride + i * 16 + lane / 8 % 2 * 8);
#pragma unroll
        for (int m = 0; m < kMatrices; ++m) {
          multiply<T>(dot[m][0], keys[m][i], b[0], b[1]);
          multiply<T>(dot[m][1], keys[m][i], b[2], b[3]);
        }
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int query = n * 16 + h * 8 + lane % 4 * 2;
        const float2 norm = *reinterpret_cast<const float2*>(lse + query);
#pragma unroll
        for (int m = 0; m < kMatrices; ++m) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int key = first_key + (warp * kMatrices + m) * 16 + lane / 4 + i / 2 * 8;
            const float given = power_of_two(dot[m][h][i] * scale - (i % 2 == 0 ? norm.x : norm.y));
            if (all || sight.sees(first + query + i % 2, key)) sum[m][i / 2] += given;
          }
        }
      }
    }
  }

  const UnitSlots slots(p.slots, s.table, p.layer * p.kv_heads + kv_head);
#pragma unroll
  for (int m = 0; m < kMatrices; ++m) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[m][r] += __shfl_xor_sync(0xffffffffu, sum[m][r], 1);
      sum[m][r] += __shfl_xor_sync(0xffffffffu, sum[m][r], 2);
      const int key = first_key + (warp * kMatrices + m) * 16 + lane / 4 + r * 8;
      if (lane % 4 == 0 && key < s.span) *slots.score(key) = old_score(s, slots, key) + sum[m][r];
    }
  }
}

/// One block 32 keys of a KV head and sequence, four threads a key.
template <class T>
__global__ void __launch_bounds__(kThreads) sparse_scores_any(const ScoredParams p) {
  __shared__ float keys[kFewKeys][257], query[256];
  wait_for_producer();
  const SparseSequence s = p.slots.sequences[p.listed[blockIdx.z]];
  const Sight sight(p, s);
  const int first_key = blockIdx.x * kFewKeys, kv_head = blockIdx.y, queries = p.heads / p.kv_heads;
  if (first_key >= s.span) return;
  const UnitSlots slots(p.slots, s.table, p.layer * p.kv_heads + kv_head);
  for (int i = threadIdx.x; i < kFewKeys * p.head_dim; i += kThreads) {
    const int key = min(first_key + i / p.head_dim, s.span - 1);
    const T* k = static_cast<const T*>(p.pool) +
                 p.block_table[s.table + key / p.block_size] * p.block_elements + p.layer_offset +
                 (std::int64_t{kv_head} * p.block_size + key % p.block_size) * p.head_dim;
    keys[i / p.head_dim][i % p.head_dim] = to_float(k[i % p.head_dim]);
  }
  const int own = threadIdx.x / 4, part = threadIdx.x % 4, key = first_key + own;
  float score = old_score(s, slots, key);
  const float scale = p.scale * 1.4426950408889634f;
  for (int token = sight.from(first_key); token < s.tokens; ++token) {
    float given = 0;
    for (int g = 0; g < queries; ++g) {
      const std::int64_t row = s.row + token, head = kv_head * queries + g;
      __syncthreads();
      for (int i = threadIdx.x; i < p.head_dim; i += kThreads)
        query[i] = to_float(
            static_cast<const T*>(p.qkv)[(row * (p.heads + 2 * p.kv_heads) + head) * p.head_dim + i]);
      __syncthreads();
      float dot = 0;
      for (int i = part; i < p.head_dim; i += 4) dot += keys[own][i] * query[i];
      dot += __shfl_xor_sync(0xffffffffu, dot, 1);
      dot += __shfl_xor_sync(0xffffffffu, dot, 2);
      if (sight.sees(token, key)) given += power_of_two(dot * scale - p.lse[row * p.heads + head]);
    }
    score += given;
  }
  if (part == 0 && key < s.span) *slots.score(key) = score;
}

template <class T, int kHeadDim>
void launch(const ScoredParams& p, int span_max, int sequences, cudaStream_t stream) {
  using Tiles = ScoreTiles<T, kHeadDim>;
  if (!raise_shared_limit<sparse_scores<T, kHeadDim>>(sizeof(Tiles))) return;
  const dim3 grid((span_max + Tiles::kKeys - 1) / Tiles::kKeys, p.kv_heads, sequences);
  launch_overlapped(sparse_scores<T, kHeadDim>, grid, kThreads, sizeof(Tiles), p, stream);
}

template <class T>
void launch_for_head(const ScoredParams& p, int span_max, int sequences, cudaStream_t stream) {
  switch (p.head_dim) {
    case 64:
      return launch<T, 64>(p, span_max, sequences, stream);
    case 80:
      return launch<T, 80>(p, span_max, sequences, stream);
    case 96:
      return launch<T, 96>(p, span_max, sequences, stream);
    case 128:
      return launch<T, 128>(p, span_max, sequences, stream);
    case 256:
      return launch<T, 256>(p, span_max, sequences, stream);
    default:
      return;
  }
}

void launch_listed(const ScoredParams& p, int span_max, int sequences, cudaStream_t stream) {
  if (has_fast_prefill(p.element, p.head_dim)) {
    if (p.element == Element::kBF16) return launch_for_head<__nv_bfloat16>(p, span_max, sequences, stream);
    return launch_for_head<__half>(p, span_max, sequences, stream);
  }
  const dim3 grid((span_max + kFewKeys - 1) / kFewKeys, p.kv_heads, sequences);
  with_element(p.element,
               [&]<class T>(T*) { launch_overlapped(sparse_scores_any<T>, grid, kThreads, 0, p, stream); });
}

}  // namespace

void launch_sparse_scores(const SparseAttentionParams& p, std::span<const std::int32_t> scored, int span_max,
                          cudaStream_t stream) {
  ScoredParams listed{p};
  while (!scored.empty()) {
    const std::size_t count = std::min<std::size_t>(scored.size(), kListed);
    std::copy_n(scored.begin(), count, listed.listed);
    launch_listed(listed, span_max, static_cast<int>(count), stream);
    scored = scored.subspan(count);
  }
}

}  // namespace spillway::gpu::cuda
