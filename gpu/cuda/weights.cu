// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/element.cuh"
#include "gpu/cuda/weights.hpp"

namespace spillway::gpu::cuda {
namespace {

constexpr int kThreads = 256;

/// A file's numbers lie at any address.
__device__ __forceinline__ unsigned short read16(const unsigned char* from) {
  return static_cast<unsigned short>(from[0] | from[1] << 8);
}
__device__ __forceinline__ float read_half(const unsigned char* from) {
  return __half2float(__ushort_as_half(read16(from)));
}
__device__ __forceinline__ int nibble(const unsigned char* quants, int i) {
  return i < 16 ? quants[i] & 15 : quants[i - 16] >> 4;
}
__device__ __forceinline__ int bit(const unsigned char* bits, int i) { return bits[i / 8] >> (i % 8) & 1; }

template <class T>
__global__ void convert(const unsigned char* from, model::DType dtype, int block_elements, int block_bytes, T* to,
                        std::int64_t count) {
  const std::int64_t at = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at >= count) return;
  const unsigned char* block = from + at / block_elements * block_bytes;
  const int i = static_cast<int>(at % block_elements);
  float value = 0;
  switch (dtype) {
    case model::DType::kF32:
      value = __uint_as_float(read16(block) | static_cast<unsigned>(read16(block + 2)) << 16);
      break;
    case model::DType::kF16:
      value = read_half(block);
      break;
    case model::DType::kBF16:
      value = __uint_as_float(static_cast<unsigned>(read16(block)) << 16);
      break;
    case model::DType::kQ8_0:
      value = read_half(block) * static_cast<signed char>(block[2 + i]);
      break;
    case model::DType::kQ4_0:
      value = read_half(block) * (nibble(block + 2, i) - 8);
      break;
    case model::DType::kQ4_1:
      value = read_half(block) * nibble(block + 4, i) + read_half(block + 2);
      break;
    case model::DType::kQ5_0:
      value = read_half(block) * (nibble(block + 6, i) + 16 * bit(block + 2, i) - 16);
      break;
    case model::DType::kQ5_1:
      value = read_half(block) * (nibble(block + 8, i) + 16 * bit(block + 4, i)) + read_half(block + 2);
      break;
  }
  to[at] = from_float<T>(value);
}

template <class T>
__global__ void fill_random(T* to, std::int64_t count, float range, std::uint64_t seed) {
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count;
       i += std::int64_t{gridDim.x} * kThreads) {
    std::uint64_t z = seed + static_cast<std::uint64_t>(i) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    const float unit = static_cast<float>((z ^ (z >> 31)) >> 40) * 0x1p-23f - 1.0f;  // [-1, 1)
    to[i] = from_float<T>(unit * range);
  }
}

template <class T>
__global__ void fill(T* to, std::int64_t count, float value) {
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count;
       i += std::int64_t{gridDim.x} * kThreads)
    to[i] = from_float<T>(value);
}

}  // namespace

void launch_convert(const void* from, model::DType dtype, void* to, Element element, std::int64_t count,
                    cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((count + kThreads - 1) / kThreads);
  const int elements = static_cast<int>(model::block_elements(dtype)), bytes = static_cast<int>(model::block_bytes(dtype));
  with_element(element, [&]<class T>(T*) {
    convert<T><<<blocks, kThreads, 0, stream>>>(static_cast<const unsigned char*>(from), dtype, elements, bytes,
                                                static_cast<T*>(to), count);
  });
}

void launch_fill_random(void* to, Element element, std::int64_t count, float range, std::uint64_t seed,
                        cudaStream_t stream) {
  with_element(element, [&]<class T>(T*) {
    fill_random<T><<<1024, kThreads, 0, stream>>>(static_cast<T*>(to), count, range, seed);
  });
}

void launch_fill(void* to, Element element, std::int64_t count, float value, cudaStream_t stream) {
  with_element(element,
               [&]<class T>(T*) { fill<T><<<1024, kThreads, 0, stream>>>(static_cast<T*>(to), count, value); });
}

}  // namespace spillway::gpu::cuda
