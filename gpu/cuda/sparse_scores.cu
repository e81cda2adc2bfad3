// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/launch.cuh"
#include "gpu/cuda/mma.cuh"
#include "gpu/cuda/sparse_decode.cuh"

// Scores of a prompt's keys. A block has some keys of one KV head and goes through the queries in order; a
// key's score takes in one query after another, each the sum over its group's heads, so that the sum does
// not show where the prompt was cut. With tensor cores where prefill attention has them, otherwise a product
// at a time.

namespace spillway::gpu::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kKeys = 64, kQueries = 64;  // of a tile
constexpr int kFewKeys = 32;              // without tensor cores

/// Which of a chunk's queries a key is seen by.
struct Sight {
  int first, tokens, position, window;
  __device__ Sight(const SparseAttentionParams& p, const SparseSequence& s)
      : first(s.first_scored), tokens(s.tokens), position(s.position), window(p.window) {}
  __device__ bool sees(int token, int key) const {
    const int at = position + token;
    return token >= first && token < tokens && key <= at && (window == 0 || key > at - window);
  }
  /// The first token of the chunk that can see any key from `key` on.
  __device__ int from(int key) const { return max(first, key - position); }
};

/// Writes the new score of a key that is thread `key - first_key`'s.
__device__ __forceinline__ float old_score(const SparseSequence& s, const UnitSlots& slots, int key) {
  return s.update == static_cast<int>(ScoreUpdate::kAdd) && key < s.span ? *slots.score(key) : 0.0f;
}

/// Rows [first, first + kKeys) from `row_at`, in shared memory; zeros where it gives null.
template <class T, int kHeadDim, class RowAt>
__device__ void load_rows(T* to, RowAt&& row_at) {
  constexpr int kChunks = kHeadDim / 8, kStride = kHeadDim + 8;
  for (int i = threadIdx.x; i < kKeys * kChunks; i += kThreads) {
    const T* from = row_at(i / kChunks);
    *reinterpret_cast<Packed*>(to + i / kChunks * kStride + i % kChunks * 8) =
        from != nullptr ? *reinterpret_cast<const Packed*>(from + i % kChunks * 8) : Packed{};
  }
}

__device__ __forceinline__ void load_matrices(unsigned (&x)[4], const void* at) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(at));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address));
}

/// One block 64 keys of a KV head and sequence; a warp has 16 of them, as the product's rows.
template <class T, int kHeadDim>
__global__ void __launch_bounds__(kThreads) sparse_scores(const SparseAttentionParams p) {
  constexpr int kStride = kHeadDim + 8, kSlices = kHeadDim / 16;
  __shared__ __align__(16) T rows[kKeys * kStride];
  __shared__ float given[kKeys][kQueries + 1], lse[kQueries];
  wait_for_producer();
  const SparseSequence s = p.slots.sequences[blockIdx.z];
  const Sight sight(p, s);
  const int first_key = blockIdx.x * kKeys, kv_head = blockIdx.y, queries = p.heads / p.kv_heads;
  if (s.tokens == 1 || sight.first >= s.tokens || first_key >= s.span) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const UnitSlots slots(p.slots, s.table, p.layer * p.kv_heads + kv_head);
  const T* pool =
      static_cast<const T*>(p.pool) + p.layer_offset + std::int64_t{kv_head} * p.block_size * kHeadDim;
  load_rows<T, kHeadDim>(rows, [&](int i) -> const T* {
    const int key = first_key + i;
    if (key >= s.span) return nullptr;
    return pool + p.block_table[s.table + key / p.block_size] * p.block_elements +
           key % p.block_size * kHeadDim;
  });
  __syncthreads();
  unsigned keys[kSlices][4];
#pragma unroll
  for (int i = 0; i < kSlices; ++i)
    load_matrices(keys[i], rows + (warp * 16 + lane % 16) * kStride + i * 16 + lane / 16 * 8);

  float score = threadIdx.x < kKeys ? old_score(s, slots, first_key + static_cast<int>(threadIdx.x)) : 0.0f;
  const float scale = p.scale * 1.4426950408889634f;
  const int row_size = (p.heads + 2 * p.kv_heads) * kHeadDim;
  const int end = p.window > 0 ? min(s.tokens, first_key + kKeys + p.window - s.position) : s.tokens;
  for (int first = sight.from(first_key); first < end; first += kQueries) {
    float sum[kQueries / 8][4] = {};
    for (int g = 0; g < queries; ++g) {
      const int head = kv_head * queries + g;
      __syncthreads();
      load_rows<T, kHeadDim>(rows, [&](int i) -> const T* {
        if (first + i >= s.tokens) return nullptr;
        return static_cast<const T*>(p.qkv) + std::int64_t{s.row + first + i} * row_size + head * kHeadDim;
      });
      if (threadIdx.x < kQueries)
        lse[threadIdx.x] =
            p.lse[std::int64_t{s.row + min(first + static_cast<int>(threadIdx.x), s.tokens - 1)} * p.heads +
                  head];
      __syncthreads();
#pragma unroll
      for (int n = 0; n < kQueries / 16; ++n) {
        float dot[2][4] = {};
#pragma unroll
        for (int i = 0; i < kSlices; ++i) {
          unsigned b[4];  // two groups of eight queries, 16 dimensions
          load_matrices(b, rows + (n * 16 + lane % 8 + lane / 16 * 8) * kStride + i * 16 + lane / 8 % 2 * 8);
          multiply<T>(dot[0], keys[i], b[0], b[1]);
          multiply<T>(dot[1], keys[i], b[2], b[3]);
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const int query = n * 16 + i / 4 * 8 + lane % 4 * 2 + i % 2,
                    key = first_key + warp * 16 + lane / 4 + i % 4 / 2 * 8;
          if (sight.sees(first + query, key))
            sum[n * 2 + i / 4][i % 4] += power_of_two(dot[i / 4][i % 4] * scale - lse[query]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kQueries / 2; ++i)
      given[warp * 16 + lane / 4 + i % 4 / 2 * 8][i / 4 * 8 + lane % 4 * 2 + i % 2] = sum[i / 4][i % 4];
    __syncthreads();
    for (int i = 0; i < kQueries && threadIdx.x < kKeys; ++i) score += given[threadIdx.x][i];
  }
  const int key = first_key + static_cast<int>(threadIdx.x);
  if (threadIdx.x < kKeys && key < s.span) *slots.score(key) = score;
}

/// One block 32 keys of a KV head and sequence, four threads a key.
template <class T>
__global__ void __launch_bounds__(kThreads) sparse_scores_any(const SparseAttentionParams p) {
  __shared__ float keys[kFewKeys][257], query[256];
  wait_for_producer();
  const SparseSequence s = p.slots.sequences[blockIdx.z];
  const Sight sight(p, s);
  const int first_key = blockIdx.x * kFewKeys, kv_head = blockIdx.y, queries = p.heads / p.kv_heads;
  if (s.tokens == 1 || sight.first >= s.tokens || first_key >= s.span) return;
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
void launch(const SparseAttentionParams& p, int span_max, cudaStream_t stream) {
  const dim3 grid((span_max + kKeys - 1) / kKeys, p.kv_heads, p.slots.launched);
  launch_overlapped(sparse_scores<T, kHeadDim>, grid, kThreads, 0, p, stream);
}

template <class T>
void launch_for_head(const SparseAttentionParams& p, int span_max, cudaStream_t stream) {
  switch (p.head_dim) {
    case 64:
      return launch<T, 64>(p, span_max, stream);
    case 80:
      return launch<T, 80>(p, span_max, stream);
    case 96:
      return launch<T, 96>(p, span_max, stream);
    case 128:
      return launch<T, 128>(p, span_max, stream);
    default:
      return;
  }
}

}  // namespace

void launch_sparse_scores(const SparseAttentionParams& p, int span_max, cudaStream_t stream) {
  if (has_fast_prefill(p.element, p.head_dim)) {
    if (p.element == Element::kBF16) return launch_for_head<__nv_bfloat16>(p, span_max, stream);
    return launch_for_head<__half>(p, span_max, stream);
  }
  const dim3 grid((span_max + kFewKeys - 1) / kFewKeys, p.kv_heads, p.slots.launched);
  with_element(p.element,
               [&]<class T>(T*) { launch_overlapped(sparse_scores_any<T>, grid, kThreads, 0, p, stream); });
}

}  // namespace spillway::gpu::cuda
