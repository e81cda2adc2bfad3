// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/element.cuh"
#include "gpu/cuda/rows.hpp"

namespace spillway::gpu::cuda {
namespace {

constexpr int kWarps = 8;

template <class T>
__global__ void embed(const EmbedParams p) {
  const int row = blockIdx.x;
  const int source = p.from_row[row];
  const int token = source >= 0 ? p.last_tokens[source] : p.tokens[row];
  const T* from = static_cast<const T*>(p.table) + std::int64_t{token} * p.cols;
  const T* position = nullptr;
  if (p.position_table != nullptr) {
    position = static_cast<const T*>(p.position_table) +
               std::int64_t{p.positions[row] + p.position_offset} * p.cols;
  }
  for (int i = threadIdx.x; i < p.cols; i += blockDim.x) {
    if (p.out != nullptr) {
      static_cast<T*>(p.out)[std::int64_t{row} * p.cols + i] = from[i];
    } else {
      p.x[std::int64_t{row} * p.cols + i] =
          to_float(from[i]) + (position != nullptr ? to_float(position[i]) : 0.0f);
    }
  }
}

/// One block a row; the row is kept in shared memory between the passes.
template <class T>
__global__ void norm(const NormParams p) {
  extern __shared__ float values[];  // [cols]
  __shared__ float scratch[33];
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

/// One warp a head: heads [0, heads) are q, then k, then v.
template <class T>
__global__ void rotary(const RotaryParams p) {
  const int row = blockIdx.x, lane = threadIdx.x & 31;
  const int head = blockIdx.y * kWarps + (threadIdx.x >> 5);
  const int all = p.heads + 2 * p.kv_heads;
  if (head >= all) return;
  T* x = static_cast<T*>(p.qkv) + (std::int64_t{row} * all + head) * p.head_dim;
  const bool is_q = head < p.heads, is_v = head >= p.heads + p.kv_heads;
  T* to = nullptr;  // the slot's place in the pool
  if (!is_q) {
    const int slot = p.slots[row];
    if (slot < 0) return;
    const int kv_head = is_v ? head - p.heads - p.kv_heads : head - p.heads;
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

__device__ __forceinline__ float activate(model::Activation activation, float x) {
  switch (activation) {
    case model::Activation::kSilu:
      return x / (1.0f + __expf(-x));
    case model::Activation::kRelu:
      return fmaxf(x, 0.0f);
    case model::Activation::kGelu:
      return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case model::Activation::kGeluTanh:
      return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
  }
  return x;
}

/// Four elements a thread where rows are that even, else one.
template <class T, int kVector>
__global__ void activation(const ActivationParams p) {
  const std::int64_t at = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kVector;
  if (at >= std::int64_t{p.rows} * p.cols) return;
  const std::int64_t row = at / p.cols, col = at % p.cols;
  const T* up = static_cast<const T*>(p.up) + row * p.cols * (p.gated ? 2 : 1) + col;
  struct alignas(sizeof(T) * kVector) Vector {
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
  *reinterpret_cast<Vector*>(static_cast<T*>(p.out) + at) = out;
}

__global__ void add_bias(float* logits, const float* bias, int cols) {
  for (int i = threadIdx.x; i < cols; i += blockDim.x) logits[std::int64_t{blockIdx.x} * cols + i] += bias[i];
}

}  // namespace

void launch_embed(const EmbedParams& p, cudaStream_t stream) {
  with_element(p.element, [&]<class T>(T*) { embed<T><<<p.rows, 256, 0, stream>>>(p); });
}

void launch_norm(const NormParams& p, cudaStream_t stream) {
  const std::size_t shared = static_cast<std::size_t>(p.cols) * sizeof(float);
  const int threads = p.cols >= 2048 ? 512 : 256;
  with_element(p.element, [&]<class T>(T*) {
    if (shared > 40 * 1024)
      (void)cudaFuncSetAttribute(norm<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    norm<T><<<p.rows, threads, shared, stream>>>(p);
  });
}

void launch_rotary(const RotaryParams& p, cudaStream_t stream) {
  const dim3 grid(p.rows, (p.heads + 2 * p.kv_heads + kWarps - 1) / kWarps);
  with_element(p.element, [&]<class T>(T*) { rotary<T><<<grid, kWarps * 32, 0, stream>>>(p); });
}

void launch_activation(const ActivationParams& p, cudaStream_t stream) {
  const std::int64_t count = std::int64_t{p.rows} * p.cols;
  with_element(p.element, [&]<class T>(T*) {
    if (p.cols % 4 == 0) {
      activation<T, 4><<<static_cast<unsigned>((count / 4 + 255) / 256), 256, 0, stream>>>(p);
    } else {
      activation<T, 1><<<static_cast<unsigned>((count + 255) / 256), 256, 0, stream>>>(p);
    }
  });
}

void launch_add_bias(float* logits, const float* bias, int rows, int cols, cudaStream_t stream) {
  add_bias<<<rows, 256, 0, stream>>>(logits, bias, cols);
}

}  // namespace spillway::gpu::cuda
