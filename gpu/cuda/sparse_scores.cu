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
  /// How far back a query looks, itself with it: it sees key k if unsigned(its position - k) is less.
  __device__ unsigned reach() const { return window > 0 ? window : 0x7fffffffu; }
  /// The first token of the chunk that can see any key from `key` on.
  __device__ int from(int key) const { return max(first, key - position); }
};

__device__ __forceinline__ float old_score(const SparseSequence& s, const UnitSlots& slots, int key) {
  return s.update == static_cast<int>(ScoreUpdate::kAdd) && key < s.span ? *slots.score(key) : 0.0f;
}

/// 16 bytes from global to shared memory.
__device__ __forceinline__ void copy_16(void* to, const void* from) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from));
}

__device__ __forceinline__ void copy_4(float* to, const float* from) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(address), "l"(from));
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

  /// Rows [0, kCount) from `row_at(i)` begin to come to `to`.
  template <int kCount, class RowAt>
  static __device__ void fetch(T* to, RowAt&& row_at) {
    constexpr int kRounds = (kCount * kChunks + kThreads - 1) / kThreads;
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {  // whose addresses do not wait for each other
      const int i = round * kThreads + static_cast<int>(threadIdx.x);
      if (kCount * kChunks % kThreads != 0 && i >= kCount * kChunks) break;
      copy_16(to + i / kChunks * kStride + i % kChunks * 8, row_at(i / kChunks) + i % kChunks * 8);
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
  const int shift = __ffs(p.block_size) - 1;
  // What is over is the last key again, and the last query below: neither counts.
  Tiles::template fetch<Tiles::kKeys>(tiles.rows[0], [&](int i) {
    const int key = min(first_key + i, s.span - 1);
    const std::int64_t block = p.block_table[s.table + (key >> shift)];
    return pool + block * p.block_elements + (key & (p.block_size - 1)) * kHeadDim;
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
  const auto fetch = [&](int to, int first, int member) {
    const int last = end - 1 - first, head = kv_head * group + member;
    const T* queries = static_cast<const T*>(p.qkv) + std::int64_t{s.row + first} * row_size + head * kHeadDim;
    if (threadIdx.x < kQueries) {
      const int i = threadIdx.x;
      if (i <= last) {
        copy_4(&tiles.lse[to][i], p.lse + std::int64_t{s.row + first + i} * p.heads + head);
      } else {
        tiles.lse[to][i] = INFINITY;
      }
    }
    Tiles::template fetch<kQueries>(tiles.rows[to],
                                    [&](int i) { return queries + std::int64_t{min(i, last)} * row_size; });
  };

  float sum[kMatrices][2] = {};  // of this lane's queries, for its two rows of each matrix
  const float scale = p.scale * 1.4426950408889634f;
  const unsigned reach = sight.reach();
  int first = begin, member = 0;  // a tile's tokens and query head; its heads follow each other
  if (first < end) fetch(0, first, member);
  for (int now = 0; first < end; now ^= 1) {
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncthreads();  // this tile is here, and all are through with the one before
    const int next_member = member + 1 < group ? member + 1 : 0;
    const int next = next_member == 0 ? first + kQueries : first;
    if (next < end) fetch(now ^ 1, next, next_member);
    const T* queries = tiles.rows[now];
    const float* lse = tiles.lse[now];
    const int ahead = sight.position + first + lane % 4 * 2 - (first_key + warp * kMatrices * 16 + lane / 4);
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
            // Tokens before the first that is scored have no round, those after the chunk give nothing.
            const float given = power_of_two(dot[m][h][i] * scale - (i % 2 == 0 ? norm.x : norm.y));
            const unsigned back = ahead + n * 16 + h * 8 + i % 2 - (m * 16 + i / 2 * 8);
            sum[m][i / 2] += back < reach ? given : 0.0f;
          }
        }
      }
    }
    first = next;
    member = next_member;
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
