// SPDX-License-Identifier: Apache-2.0
#pragma once

// CUDA errors as values, and device memory that frees itself.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>
#include <utility>

#include "runtime/result.hpp"

namespace spillway::gpu::cuda {

[[nodiscard]] inline Error cuda_error(cudaError_t code, const std::string& what) {
  return {code == cudaErrorMemoryAllocation ? Errc::kOutOfMemory : Errc::kDeviceFailed,
          what + ": " + cudaGetErrorString(code) + " (" + cudaGetErrorName(code) + ")"};
}

[[nodiscard]] inline Result<void> check_cuda(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return {};
  return cuda_error(code, what);
}

/// Text such as "13.5 GB".
[[nodiscard]] inline std::string gigabytes(std::size_t bytes) {
  const std::size_t tenths = (bytes + 50'000'000) / 100'000'000;
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " GB";
}

/// Memory of the device or pinned memory of the host. Move-only.
class Memory {
 public:
  Memory() = default;
  Memory(Memory&& other) noexcept { *this = std::move(other); }
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(pinned_, other.pinned_);
    return *this;
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() {
    if (data_ == nullptr) return;
    (void)(pinned_ ? cudaFreeHost(data_) : cudaFree(data_));
  }

  /// Errors: kOutOfMemory, with what the memory is for, what was asked and what is free.
  [[nodiscard]] static Result<Memory> device(std::size_t bytes, const char* purpose) {
    Memory memory;
    memory.bytes_ = bytes == 0 ? 16 : bytes;
    if (const cudaError_t code = cudaMalloc(&memory.data_, memory.bytes_); code != cudaSuccess) {
      memory.data_ = nullptr;
      (void)cudaGetLastError();
      std::size_t free_bytes = 0, total_bytes = 0;
      (void)cudaMemGetInfo(&free_bytes, &total_bytes);
      return Error{Errc::kOutOfMemory, std::string(purpose) + " needs " + gigabytes(bytes) + ", but of the GPU's " +
                                           gigabytes(total_bytes) + " only " + gigabytes(free_bytes) + " are free"};
    }
    return memory;
  }
  [[nodiscard]] static Result<Memory> pinned(std::size_t bytes, const char* purpose) {
    Memory memory;
    memory.bytes_ = bytes == 0 ? 16 : bytes;
    memory.pinned_ = true;
    if (const cudaError_t code = cudaHostAlloc(&memory.data_, memory.bytes_, cudaHostAllocDefault);
        code != cudaSuccess) {
      memory.data_ = nullptr;
      (void)cudaGetLastError();
      return Error{Errc::kOutOfMemory,
                   std::string(purpose) + " needs " + gigabytes(bytes) + " of pinned host memory: " + cudaGetErrorString(code)};
    }
    return memory;
  }

  [[nodiscard]] void* data() const noexcept { return data_; }
  template <class T>
  [[nodiscard]] T* as() const noexcept {
    return static_cast<T*>(data_);
  }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  bool pinned_ = false;
};

}  // namespace spillway::gpu::cuda
