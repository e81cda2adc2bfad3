// SPDX-License-Identifier: Apache-2.0
#include "runtime/pool.hpp"

#include <algorithm>
#include <mutex>
#include <new>

namespace spillway::runtime::detail {
namespace {

constexpr std::uint32_t kChainBlocks = kPoolListMax / 2;

/// Chains of exactly kChainBlocks free blocks, shared by all threads; odd remainders of ended threads beside them.
struct Depot {
  std::mutex mutex;
  FreeBlock* chains = nullptr;
  FreeBlock* loose = nullptr;
};

struct Shared {
  Depot depots[kPoolClasses];
  std::mutex slab_mutex;
  FreeBlock* slabs = nullptr;  // keeps every slab reachable
};

Shared& shared() {
  // Outlives every thread and static object: blocks may be freed during exit.
  static Shared* instance = new Shared;
  return *instance;
}

/// Hands a thread's free lists to the depot when it ends.
struct FlushAtThreadExit {
  ~FlushAtThreadExit() {
    for (std::size_t c = 0; c < kPoolClasses; ++c) {
      LocalFreeList& list = tls_pool.lists[c];
      if (list.head == nullptr) continue;
      FreeBlock* last = list.head;
      while (last->next != nullptr) last = last->next;
      Depot& depot = shared().depots[c];
      const std::lock_guard lock(depot.mutex);
      last->next = depot.loose;
      depot.loose = list.head;
      list = {};
    }
  }
};

void register_flush() { static thread_local FlushAtThreadExit flush; (void)flush; }

}  // namespace

void* pool_refill(std::size_t size_class) {
  register_flush();
  LocalFreeList& list = tls_pool.lists[size_class];
  Depot& depot = shared().depots[size_class];
  {
    const std::lock_guard lock(depot.mutex);
    if (depot.chains != nullptr) {
      FreeBlock* chain = depot.chains;
      depot.chains = chain->next_chain;
      list.head = chain->next;
      list.count = kChainBlocks - 1;
      return chain;
    }
    for (std::uint32_t i = 0; i < kChainBlocks && depot.loose != nullptr; ++i) {
      FreeBlock* block = depot.loose;
      depot.loose = block->next;
      block->next = list.head;
      list.head = block;
      ++list.count;
    }
  }
  if (list.head == nullptr) {
    const std::size_t block_bytes = (size_class + 1) * kPoolGranule;
    const std::size_t blocks = std::clamp<std::size_t>(16384 / block_bytes, 4, kChainBlocks);
    auto* slab = static_cast<std::byte*>(
        ::operator new(kPoolGranule + blocks * block_bytes, std::align_val_t{kPoolGranule}));
    {
      const std::lock_guard lock(shared().slab_mutex);
      auto* header = reinterpret_cast<FreeBlock*>(slab);
      header->next = shared().slabs;
      shared().slabs = header;
    }
    for (std::size_t i = blocks; i-- > 0;) {
      auto* block = reinterpret_cast<FreeBlock*>(slab + kPoolGranule + i * block_bytes);
      block->next = list.head;
      list.head = block;
    }
    list.count = static_cast<std::uint32_t>(blocks);
  }
  FreeBlock* block = list.head;
  list.head = block->next;
  --list.count;
  return block;
}

void pool_overflow(std::size_t size_class) noexcept {
  register_flush();
  LocalFreeList& list = tls_pool.lists[size_class];
  FreeBlock* chain = list.head;
  FreeBlock* last = chain;
  for (std::uint32_t i = 1; i < kChainBlocks; ++i) last = last->next;
  list.head = last->next;
  list.count -= kChainBlocks;
  last->next = nullptr;
  Depot& depot = shared().depots[size_class];
  const std::lock_guard lock(depot.mutex);
  chain->next_chain = depot.chains;
  depot.chains = chain;
}

void* pool_allocate_large(std::size_t bytes) { return ::operator new(bytes, std::align_val_t{kPoolGranule}); }

void pool_deallocate_large(void* memory, std::size_t) noexcept {
  ::operator delete(memory, std::align_val_t{kPoolGranule});
}

}  // namespace spillway::runtime::detail
