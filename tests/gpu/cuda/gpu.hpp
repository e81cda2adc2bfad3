// SPDX-License-Identifier: Apache-2.0
#pragma once

// A GPU for tests, or the word that there is none; arrays that travel there and back.

#include <cuda_runtime_api.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <type_traits>
#include <vector>

#include "gpu/cuda/element.hpp"
#include "tests/support/catch.hpp"

namespace spillway::gpu::cuda {

inline bool has_gpu() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

#define SPW_NEEDS_GPU()                       \
  if (!::spillway::gpu::cuda::has_gpu()) {    \
    WARN("skipped: this machine has no GPU"); \
    return;                                   \
  }

/// Values of an array on the device; starts poisoned with NaN patterns.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t count) : count_(count) {
    REQUIRE(cudaMalloc(&data_, bytes() + 16) == cudaSuccess);  // never empty
    REQUIRE(cudaMemset(data_, 0xff, bytes() + 16) == cudaSuccess);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);  // other streams do not wait for the default one
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    REQUIRE(cudaMemcpy(data_, values.data(), bytes(), cudaMemcpyHostToDevice) == cudaSuccess);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { (void)cudaFree(data_); }

  [[nodiscard]] T* data() const { return static_cast<T*>(data_); }
  [[nodiscard]] std::vector<T> read() const {
    std::vector<T> values(count_);
    REQUIRE(cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost) == cudaSuccess);
    return values;
  }

 private:
  [[nodiscard]] std::size_t bytes() const { return count_ * sizeof(T); }
  std::size_t count_;
  void* data_ = nullptr;
};

/// Round to nearest even in the element type.
inline std::uint16_t to_bits(float value, Element element) {
  if (element == Element::kBF16) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
  }
  const auto half = static_cast<_Float16>(value);
  return std::bit_cast<std::uint16_t>(half);
}
inline float from_bits(std::uint16_t bits, Element element) {
  if (element == Element::kBF16) return std::bit_cast<float>(std::uint32_t{bits} << 16);
  return static_cast<float>(std::bit_cast<_Float16>(bits));
}

/// An array of elements on the device, whose values the host knows as they were rounded.
class ElementArray {
 public:
  ElementArray(Element element, std::vector<float> values) : element_(element), array_(pack(element, values)) {
    for (float& v : values)
      if (element != Element::kF32) v = from_bits(to_bits(v, element), element);
    values_ = std::move(values);
  }
  ElementArray(Element element, std::size_t count)
      : element_(element), values_(count), array_(count * bytes_of(element)) {}

  [[nodiscard]] void* data() const { return array_.data(); }
  [[nodiscard]] const std::vector<float>& values() const { return values_; }
  [[nodiscard]] std::vector<float> read() const {
    const std::vector<std::uint8_t> bytes = array_.read();
    std::vector<float> values(bytes.size() / bytes_of(element_));
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (element_ == Element::kF32) {
        std::memcpy(&values[i], &bytes[4 * i], 4);
      } else {
        std::uint16_t bits;
        std::memcpy(&bits, &bytes[2 * i], 2);
        values[i] = from_bits(bits, element_);
      }
    }
    return values;
  }

 private:
  static std::vector<std::uint8_t> pack(Element element, const std::vector<float>& values) {
    std::vector<std::uint8_t> bytes(values.size() * bytes_of(element));
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (element == Element::kF32) {
        std::memcpy(&bytes[4 * i], &values[i], 4);
      } else {
        const std::uint16_t bits = to_bits(values[i], element);
        std::memcpy(&bytes[2 * i], &bits, 2);
      }
    }
    return bytes;
  }

  Element element_;
  std::vector<float> values_;
  DeviceArray<std::uint8_t> array_;
};

inline std::vector<float> random_values(std::size_t count, unsigned seed, float deviation = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(count);
  for (float& v : values) v = normal(random);
  return values;
}

/// |a - b| / |b|; NaN is never small.
inline double distance(const std::vector<float>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / norm);
}

/// Rounding of one result in the element type, with room for the kernel's own fp32 sums.
inline double tolerance(Element element) {
  return element == Element::kF32 ? 2e-6 : element == Element::kF16 ? 1e-3 : 8e-3;
}

inline void finish() {
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  REQUIRE(cudaGetLastError() == cudaSuccess);
}

}  // namespace spillway::gpu::cuda
