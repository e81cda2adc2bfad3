// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/rows.hpp"

#include <algorithm>

#include "gpu/cuda/activation.cuh"
#include "gpu/cuda/element.cuh"
#include "gpu/cuda/launch.cuh"
#include "gpu/cuda/quantized.cuh"

namespace spillway::gpu::cuda {
namespace {

constexpr int kWarps = 8;

/// 16 bytes of 16-bit elements, or 32 of fp32.
template <class T>
struct alignas(16) Eight {
  T v[8];
};
template <class T>
__device__ __forceinline__ Eight<T> load_eight(const T* from) {
  return *reinterpret_cast<const Eight<T>*>(from);
}
template <class T>
__device__ __forceinline__ void store_eight(T* to, const Eight<T>& x) {
  *reinterpret_cast<Eight<T>*>(to) = x;
}

template <class T>
__global__ void embed(const EmbedParams p) {
  wait_for_producer();
  const int row = blockIdx.x;
  const int source = p.from_row[row];
  const int token = source >= 0 ? p.last_tokens[source] : p.tokens[row];
  const T* table = static_cast<const T*>(p.table) + std::int64_t{token} * p.cols;
  const PackedRow place = packed_row(token, p.panels.rows, false);
  const auto* region = static_cast<const unsigned char*>(p.panels.data) +
                       std::int64_t{place.tile} * p.panels.panels_a_tile() * panel_bytes(p.panels.type) +
                       place.region * region_bytes(p.panels.type);
  const auto value = [&](int i) {
    if (!p.packed) return table[i];
    return from_float<T>(packed_value(region + std::int64_t{i / kPanelCols} * panel_bytes(p.panels.type), p.panels.type,
                                      place.row, i % kPanelCols));
  };
  const T* position = nullptr;
  if (p.position_table != nullptr) {
    position = static_cast<const T*>(p.position_table) +
               std::int64_t{p.positions[row] + p.position_offset} * p.cols;
  }
  for (int i = threadIdx.x; i < p.cols; i += blockDim.x) {
    if (p.out != nullptr) {
      static_cast<T*>(p.out)[std::int64_t{row} * p.cols + i] = value(i);
    } else {
      p.x[std::int64_t{row} * p.cols + i] =
          to_float(value(i)) + (position != nullptr ? to_float(position[i]) : 0.0f);
    }
  }
}

/// Any width: one block a row; the row is kept in shared memory between the passes.
template <class T>
__global__ void norm(const NormParams p) {
  extern __shared__ float values[];  // [cols]
  __shared__ float scratch[33];
  wait_for_producer();
  const int source = p.row_map != nullptr ? p.row_map[blockIdx.x] : static_cast<int>(blockIdx.x);
  if (source < 0) return;
  float* x = p.x + std::int64_t{source} * p.cols;
  const T* y = p.y != nullptr ? static_cast<const T*>(p.y) + std::int64_t{source} * p.cols : nullptr;
  const T* position = nullptr;
  if (p.position_table != nullptr) {
    position = static_cast<const T*>(p.position_table) +
               std::int64_t{p.positions[source] + p.position_offset} * p.cols;
  }
  T* out = static_cast<T*>(p.out) + std::int64_t{blockIdx.x} * p.cols;
  const bool writes_x = p.row_map == nullptr;
  float sum = 0;
  for (int i = threadIdx.x; i < p.cols; i += blockDim.x) {
    float v = p.replace_x ? 0.0f : x[i];
    if (y != nullptr) v += to_float(y[i]);
    if (position != nullptr) v += to_float(position[i]);
    values[i] = v;
    sum += p.kind == model::NormKind::kRms ? v * v : v;
    if (writes_x && !p.post) x[i] = v;
  }
  float mean = 0, scale = 1;
  if (p.weight != nullptr) {
    const float total = block_sum(sum, scratch);
    if (p.kind == model::NormKind::kRms) {
      scale = rsqrtf(total / p.cols + p.eps);
    } else {
      mean = total / p.cols;
      float squares = 0;
      for (int i = threadIdx.x; i < p.cols; i += blockDim.x)
        squares += (values[i] - mean) * (values[i] - mean);
      scale = rsqrtf(block_sum(squares, scratch) / p.cols + p.eps);
    }
  }
  for (int i = threadIdx.x; i < p.cols; i += blockDim.x) {
    float v = values[i];
    if (p.weight != nullptr) {
      v = (v - mean) * scale * p.weight[i];
      if (p.bias != nullptr) v += p.bias[i];
    }
    if (writes_x && p.post) x[i] = v;
    out[i] = from_float<T>(v);
  }
}

/// Widths of eight elements a thread, kept in registers: the same sums as above.
template <class T, int kEights>
__global__ void norm_in_registers(const NormParams p) {
  __shared__ float scratch[33];
  let_next_start();
  const int source = p.row_map != nullptr ? p.row_map[blockIdx.x] : static_cast<int>(blockIdx.x);
  Eight<float> first_weight{};  // weights come while the kernel in front still runs
  if (kEights == 1 && p.weight != nullptr && static_cast<int>(threadIdx.x) * 8 < p.cols)
    first_weight = load_eight(p.weight + threadIdx.x * 8);
  wait_for_producer();
  if (source < 0) return;
  float* x = p.x + std::int64_t{source} * p.cols;
  const bool writes_x = p.row_map == nullptr;
  float values[kEights][8];
  float sum = 0;
#pragma unroll
  for (int e = 0; e < kEights; ++e) {
    const int at = (e * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * 8;
    if (at >= p.cols) break;
    Eight<float> old{};
    if (!p.replace_x) old = load_eight(x + at);
#pragma unroll
    for (int i = 0; i < 8; ++i) values[e][i] = old.v[i];
    if (p.y != nullptr) {
      const Eight<T> y = load_eight(static_cast<const T*>(p.y) + std::int64_t{source} * p.cols + at);
#pragma unroll
      for (int i = 0; i < 8; ++i) values[e][i] += to_float(y.v[i]);
    }
    if (p.position_table != nullptr) {
      const Eight<T> y = load_eight(static_cast<const T*>(p.position_table) +
                                    std::int64_t{p.positions[source] + p.position_offset} * p.cols + at);
#pragma unroll
      for (int i = 0; i < 8; ++i) values[e][i] += to_float(y.v[i]);
    }
    Eight<float> whole;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      whole.v[i] = values[e][i];
      sum += p.kind == model::NormKind::kRms ? values[e][i] * values[e][i] : values[e][i];
    }
    if (writes_x && !p.post) store_eight(x + at, whole);
  }
  float mean = 0, scale = 1;
  if (p.weight != nullptr) {
    const float total = block_sum(sum, scratch);
    if (p.kind == model::NormKind::kRms) {
      scale = rsqrtf(total / p.cols + p.eps);
    } else {
      mean = total / p.cols;
      float squares = 0;
#pragma unroll
      for (int e = 0; e < kEights; ++e) {
        if ((e * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * 8 >= p.cols) break;
#pragma unroll
        for (int i = 0; i < 8; ++i) squares += (values[e][i] - mean) * (values[e][i] - mean);
      }
      scale = rsqrtf(block_sum(squares, scratch) / p.cols + p.eps);
    }
  }
#pragma unroll
  for (int e = 0; e < kEights; ++e) {
    const int at = (e * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * 8;
    if (at >= p.cols) break;
    Eight<float> whole;
#pragma unroll
    for (int i = 0; i < 8; ++i) whole.v[i] = values[e][i];
    if (p.weight != nullptr) {
      const Eight<float> weight = kEights == 1 ? first_weight : load_eight(p.weight + at);
#pragma unroll
      for (int i = 0; i < 8; ++i) whole.v[i] = (whole.v[i] - mean) * scale * weight.v[i];
      if (p.bias != nullptr) {
        const Eight<float> bias = load_eight(p.bias + at);
#pragma unroll
        for (int i = 0; i < 8; ++i) whole.v[i] += bias.v[i];
      }
    }
    if (writes_x && p.post) store_eight(x + at, whole);
    Eight<T> out;
#pragma unroll
    for (int i = 0; i < 8; ++i) out.v[i] = from_float<T>(whole.v[i]);
    store_eight(static_cast<T*>(p.out) + std::int64_t{blockIdx.x} * p.cols + at, out);
  }
}

/// In words of the largest size that divides the rows.
template <class Word>
__global__ void gather(const GatherParams p) {
  wait_for_producer();
  const int source = p.row_map[blockIdx.x], words = p.row_bytes / static_cast<int>(sizeof(Word));
  if (source < 0) return;
  const Word* from = static_cast<const Word*>(p.from) + std::int64_t{source} * words;
  Word* to = static_cast<Word*>(p.to) + std::int64_t{blockIdx.x} * words;
  for (int i = static_cast<int>(threadIdx.x); i < words; i += static_cast<int>(blockDim.x)) to[i] = from[i];
}

/// Where the row's key and value of a KV head go; negative: nowhere.
__device__ __forceinline__ int slot_of(const RotaryParams& p, int slot, int kv_head) {
  return slot < -1 ? p.places[(-2 - slot) * p.kv_heads + kv_head].in_pool : slot;
}

/// Any head: one warp a head; heads [0, heads) are q, then k, then v.
template <class T>
__global__ void rotary(const RotaryParams p) {
  wait_for_producer();
  const int row = blockIdx.x, lane = threadIdx.x & 31;
  const int head = blockIdx.y * kWarps + (threadIdx.x >> 5);
  const int all = p.heads + 2 * p.kv_heads;
  if (head >= all) return;
  T* x = static_cast<T*>(p.qkv) + (std::int64_t{row} * all + head) * p.head_dim;
  const bool is_q = head < p.heads, is_v = head >= p.heads + p.kv_heads;
  T* to = nullptr;  // the slot's place in the pool
  if (!is_q) {
    const int kv_head = is_v ? head - p.heads - p.kv_heads : head - p.heads;
    const int slot = slot_of(p, p.slots[row], kv_head);
    if (slot < 0) return;
    const std::int64_t block = slot / p.block_size;
    to = static_cast<T*>(p.pool) + block * p.block_elements + p.layer_offset +
         ((std::int64_t{is_v ? p.kv_heads : 0} + kv_head) * p.block_size + slot % p.block_size) * p.head_dim;
  }
  if (is_v) {
    for (int i = lane; i < p.head_dim; i += 32) to[i] = x[i];
    return;
  }
  const float* weight = is_q ? p.q_norm : p.k_norm;
  float scale = 1;
  if (weight != nullptr) {
    float squares = 0;
    for (int i = lane; i < p.head_dim; i += 32) squares += to_float(x[i]) * to_float(x[i]);
    scale = rsqrtf(warp_sum(squares) / p.head_dim + p.eps);
  }
  const auto read = [&](int i) {
    const float v = to_float(x[i]);
    return weight != nullptr ? v * scale * weight[i] : v;
  };
  T* out = is_q ? x : to;
  const int half = p.inv_freq != nullptr ? p.half : 0;
  const float position = static_cast<float>(p.positions[row]);
  for (int i = lane; i < half; i += 32) {
    const int first = p.interleaved ? 2 * i : i, second = p.interleaved ? 2 * i + 1 : i + half;
    const float a = read(first), b = read(second);
    float sine, cosine;
    sincosf(position * p.inv_freq[i], &sine, &cosine);
    out[first] = from_float<T>(a * cosine - b * sine);
    out[second] = from_float<T>(b * cosine + a * sine);
  }
  for (int i = 2 * half + lane; i < p.head_dim; i += 32) out[i] = from_float<T>(read(i));
}

/// Heads without norms whose half is a multiple of eight and which are rotated whole: a thread turns the same eight
/// pairs of several heads, so that it computes their sines once, and that before the product in front has ended.
/// Block: (half / 8) threads by groups of heads.
template <class T>
__global__ void rotary_eights(const RotaryParams p) {
  let_next_start();
  const int row = blockIdx.x, parts = p.half / 8, part = static_cast<int>(threadIdx.x) % parts;
  const int groups = static_cast<int>(blockDim.x) / parts * static_cast<int>(gridDim.y);
  const int group = static_cast<int>(blockIdx.y) * (static_cast<int>(blockDim.x) / parts) + static_cast<int>(threadIdx.x) / parts;
  const int all = p.heads + 2 * p.kv_heads;
  float sine[8], cosine[8];
  const float position = static_cast<float>(p.positions[row]);
#pragma unroll
  for (int i = 0; i < 8; ++i) sincosf(position * p.inv_freq[part * 8 + i], &sine[i], &cosine[i]);
  const int row_slot = p.slots[row];
  wait_for_producer();
  // Interleaved pairs lie in 16 elements side by side, others in 8 of each half.
  const int first_at = p.interleaved ? part * 16 : part * 8, second_at = p.interleaved ? first_at + 8 : first_at + p.half;
  T* const heads = static_cast<T*>(p.qkv) + std::int64_t{row} * all * p.head_dim;
  Eight<T> next_first{}, next_second{};  // of the head behind
  const auto load = [&](int head) {
    next_first = load_eight(heads + head * p.head_dim + first_at);
    next_second = load_eight(heads + head * p.head_dim + second_at);
  };
  if (group < all) load(group);
  for (int head = group; head < all; head += groups) {
    T* out = heads + head * p.head_dim;
    Eight<T> first = next_first, second = next_second;
    if (head + groups < all) load(head + groups);
    if (head >= p.heads) {
      const int slot = slot_of(p, row_slot, (head - p.heads) % p.kv_heads);
      if (slot < 0) return;
      out = static_cast<T*>(p.pool) + slot / p.block_size * p.block_elements + p.layer_offset +
            (std::int64_t{head - p.heads} * p.block_size + slot % p.block_size) * p.head_dim;  // values follow keys
    }
    if (head < p.heads + p.kv_heads) {
      const Eight<T> a = first, b = second;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (p.interleaved) {
          const Eight<T>& from = i < 4 ? a : b;
          Eight<T>& to = i < 4 ? first : second;
          const float u = to_float(from.v[i % 4 * 2]), v = to_float(from.v[i % 4 * 2 + 1]);
          to.v[i % 4 * 2] = from_float<T>(u * cosine[i] - v * sine[i]);
          to.v[i % 4 * 2 + 1] = from_float<T>(v * cosine[i] + u * sine[i]);
        } else {
          const float u = to_float(a.v[i]), v = to_float(b.v[i]);
          first.v[i] = from_float<T>(u * cosine[i] - v * sine[i]);
          second.v[i] = from_float<T>(v * cosine[i] + u * sine[i]);
        }
      }
    }
    store_eight(out + first_at, first);
    store_eight(out + second_at, second);
  }
}

/// kVector elements a thread: eight where rows are that even, else one.
template <class T, int kVector>
__global__ void activation(const ActivationParams p) {
  wait_for_producer();
  const int col = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) * kVector;
  if (col >= p.cols) return;
  const std::int64_t row = blockIdx.x;
  const T* up = static_cast<const T*>(p.up) + row * p.cols * (p.gated ? 2 : 1) + col;
  struct alignas(sizeof(T) * kVector > 16 ? 16 : sizeof(T) * kVector) Vector {
    T v[kVector];
  };
  const Vector first = *reinterpret_cast<const Vector*>(up);
  Vector out;
  if (p.gated) {
    const Vector second = *reinterpret_cast<const Vector*>(up + p.cols);
#pragma unroll
    for (int i = 0; i < kVector; ++i)
      out.v[i] = from_float<T>(activate(p.activation, to_float(first.v[i])) * to_float(second.v[i]));
  } else {
#pragma unroll
    for (int i = 0; i < kVector; ++i) out.v[i] = from_float<T>(activate(p.activation, to_float(first.v[i])));
  }
  *reinterpret_cast<Vector*>(static_cast<T*>(p.out) + row * p.cols + col) = out;
}

__global__ void join_logits(const JoinLogitsParams p) {
  wait_for_producer();
  const std::int64_t row = blockIdx.x;
  for (int i = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x); i < p.vocab; i += static_cast<int>(gridDim.y * blockDim.x))
    p.to[row * p.vocab + i] = p.from[(std::int64_t{i / p.part} * p.rows + row) * p.part + i % p.part];
}

__global__ void add_bias(float* logits, const float* bias, int cols) {
  wait_for_producer();
  for (int i = threadIdx.x; i < cols; i += blockDim.x) logits[std::int64_t{blockIdx.x} * cols + i] += bias[i];
}

}  // namespace

void launch_embed(const EmbedParams& p, cudaStream_t stream) {
  with_element(p.element, [&]<class T>(T*) { launch_overlapped(embed<T>, dim3(p.rows), 256, 0, p, stream); });
}

void launch_norm(const NormParams& p, cudaStream_t stream) {
  const dim3 grid(p.rows);
  with_element(p.element, [&]<class T>(T*) {
    if (p.cols % 8 == 0 && p.cols <= 16384) {
      const int threads = (p.cols / 8 + 31) / 32 * 32;
      if (threads <= 512) return launch_overlapped(norm_in_registers<T, 1>, grid, threads, 0, p, stream);
      if (threads <= 1024) return launch_overlapped(norm_in_registers<T, 2>, grid, (threads + 63) / 64 * 32, 0, p, stream);
      return launch_overlapped(norm_in_registers<T, 4>, grid, 512, 0, p, stream);
    }
    const std::size_t shared = static_cast<std::size_t>(p.cols) * sizeof(float);
    if (shared > 40 * 1024)
      (void)cudaFuncSetAttribute(norm<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    launch_overlapped(norm<T>, grid, p.cols >= 2048 ? 512 : 256, shared, p, stream);
  });
}

void launch_gather(const GatherParams& p, cudaStream_t stream) {
  const dim3 grid(p.rows);
  if (p.row_bytes % 16 == 0) return launch_overlapped(gather<uint4>, grid, 256, 0, p, stream);
  launch_overlapped(gather<std::uint16_t>, grid, 256, 0, p, stream);
}

void launch_rotary(const RotaryParams& p, cudaStream_t stream) {
  const int all = p.heads + 2 * p.kv_heads;
  const bool eights = p.inv_freq != nullptr && p.half % 8 == 0 && p.half * 2 == p.head_dim && p.half <= 128 &&
                      p.q_norm == nullptr && p.k_norm == nullptr;
  with_element(p.element, [&]<class T>(T*) {
    if (eights) {
      // Of few rows the heads are shared out over blocks: two a multiprocessor find room beside the product in front.
      const int parts = p.half / 8, groups = 256 / parts, shares = std::max(1, 2 * multiprocessors() / p.rows);
      const dim3 grid(p.rows, std::min(shares, (all + groups - 1) / groups));
      return launch_overlapped(rotary_eights<T>, grid, parts * groups, 0, p, stream);
    }
    launch_overlapped(rotary<T>, dim3(p.rows, (all + kWarps - 1) / kWarps), kWarps * 32, 0, p, stream);
  });
}

void launch_activation(const ActivationParams& p, cudaStream_t stream) {
  with_element(p.element, [&]<class T>(T*) {
    const int vector = p.cols % 8 == 0 ? 8 : 1;
    const dim3 grid(p.rows, (p.cols / vector + 255) / 256);
    if (vector == 8) {
      launch_overlapped(activation<T, 8>, grid, 256, 0, p, stream);
    } else {
      launch_overlapped(activation<T, 1>, grid, 256, 0, p, stream);
    }
  });
}

void launch_join_logits(const JoinLogitsParams& p, cudaStream_t stream) {
  launch_overlapped(join_logits, dim3(p.rows, 16), 256, 0, p, stream);
}

void launch_add_bias(float* logits, const float* bias, int rows, int cols, cudaStream_t stream) {
  add_bias<<<rows, 256, 0, stream>>>(logits, bias, cols);
}

}  // namespace spillway::gpu::cuda
