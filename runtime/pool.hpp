// SPDX-License-Identifier: Apache-2.0
#pragma once

// Memory for message nodes and coroutine frames: thread-local free lists of 64-byte size classes. A block may be
// freed on another thread than the one that took it; full lists travel in chains through a shared depot, so one-way
// traffic between threads allocates nothing in steady state either. Slabs are never given back to the system.
// Under AddressSanitizer every block is an allocation of its own, so that lifetimes and leaks are seen.

#include <cstddef>
#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)
#define SPILLWAY_POOL_BYPASS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SPILLWAY_POOL_BYPASS 1
#endif
#endif
#ifndef SPILLWAY_POOL_BYPASS
#define SPILLWAY_POOL_BYPASS 0
#endif

namespace spillway::runtime::detail {

inline constexpr std::size_t kPoolGranule = 64;
inline constexpr std::size_t kPoolClasses = 64;  // up to 4 KiB; larger blocks come from operator new

struct FreeBlock {
  FreeBlock* next;
  FreeBlock* next_chain;  // used only by the first block of a chain in the depot
};

struct LocalFreeList {
  FreeBlock* head = nullptr;
  std::uint32_t count = 0;
};

struct LocalPool {
  LocalFreeList lists[kPoolClasses];
};

inline constinit thread_local LocalPool tls_pool{};

void* pool_refill(std::size_t size_class);
void pool_overflow(std::size_t size_class) noexcept;
void* pool_allocate_large(std::size_t bytes);
void pool_deallocate_large(void* memory, std::size_t bytes) noexcept;

inline constexpr std::uint32_t kPoolListMax = 128;

[[nodiscard]] inline void* pool_allocate(std::size_t bytes) {
  const std::size_t size_class = (bytes - 1) / kPoolGranule;
  if (SPILLWAY_POOL_BYPASS || size_class >= kPoolClasses) return pool_allocate_large(bytes);
  LocalFreeList& list = tls_pool.lists[size_class];
  FreeBlock* block = list.head;
  if (block == nullptr) [[unlikely]] return pool_refill(size_class);
  list.head = block->next;
  --list.count;
  return block;
}

inline void pool_deallocate(void* memory, std::size_t bytes) noexcept {
  const std::size_t size_class = (bytes - 1) / kPoolGranule;
  if (SPILLWAY_POOL_BYPASS || size_class >= kPoolClasses) return pool_deallocate_large(memory, bytes);
  LocalFreeList& list = tls_pool.lists[size_class];
  auto* block = static_cast<FreeBlock*>(memory);
  block->next = list.head;
  list.head = block;
  if (++list.count >= kPoolListMax) [[unlikely]] pool_overflow(size_class);
}

}  // namespace spillway::runtime::detail
