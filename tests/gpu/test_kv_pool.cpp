// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/kv_pool.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "gpu/host/available_memory.hpp"
#include "gpu/host/page_populator.hpp"
#include "tests/support/catch.hpp"

namespace spillway::gpu::host {
namespace {

model::ModelSpec spec(std::int32_t layers, std::int32_t kv_heads, std::int32_t head_dim) {
  model::ModelSpec s;
  s.num_layers = layers;
  s.num_kv_heads = kv_heads;
  s.head_dim = head_dim;
  return s;
}

std::size_t resident_pages(const std::byte* from, std::size_t bytes) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> present((bytes + page - 1) / page);
  REQUIRE(mincore(const_cast<std::byte*>(from), bytes, present.data()) == 0);
  std::size_t count = 0;
  for (const unsigned char p : present) count += p & 1;
  return count;
}

}  // namespace

TEST_CASE(
    "KV pool: SmolLM2's block of 16 tokens in fp16 takes 30 layers x 2 x 3 heads x 64 x 2 bytes a token") {
  const Result<KvLayout> layout = make_kv_layout(spec(30, 3, 64), KvDType::kF16, 16);
  REQUIRE(layout.ok());
  CHECK(layout->block_bytes == std::size_t{16} * 30 * 2 * 3 * 64 * 2);
}

TEST_CASE("KV pool: chunks of a block do not overlap and lie within it") {
  const KvDType dtype = GENERATE(KvDType::kF32, KvDType::kF16, KvDType::kBF16, KvDType::kQ8_0);
  const Result<KvLayout> layout = make_kv_layout(spec(3, 2, 96), dtype, 8);
  REQUIRE(layout.ok());
  std::set<std::pair<std::size_t, std::size_t>> chunks;
  for (std::uint32_t layer = 0; layer < 3; ++layer)
    for (std::uint32_t head = 0; head < 2; ++head) {
      chunks.emplace(layout->k_offset(layer, head), layout->k_offset(layer, head) + layout->k_chunk_bytes);
      chunks.emplace(layout->v_offset(layer, head), layout->v_offset(layer, head) + layout->v_chunk_bytes);
    }
  REQUIRE(chunks.size() == 12);
  std::size_t end = 0;
  for (const auto& [begin, stop] : chunks) {
    CHECK(begin >= end);
    CHECK(begin % 64 == 0);
    end = stop;
  }
  CHECK(end <= layout->block_bytes);
}

TEST_CASE("KV pool: unsupported combinations are refused by name") {
  const Result<KvLayout> size = make_kv_layout(spec(1, 1, 64), KvDType::kF16, 24);
  REQUIRE_FALSE(size.ok());
  CHECK(size.error().code == Errc::kInvalidArgument);
  CHECK(size.error().message.find("block size 24") != std::string::npos);
  const Result<KvLayout> q8 = make_kv_layout(spec(1, 1, 20), KvDType::kQ8_0, 16);
  REQUIRE_FALSE(q8.ok());
  CHECK(q8.error().code == Errc::kUnsupported);
  CHECK(q8.error().message.find("head_dim") != std::string::npos);
}

TEST_CASE("KV pool: too little memory for one block is refused, and says what a block takes") {
  const Result<KvLayout> layout = make_kv_layout(spec(30, 3, 64), KvDType::kF16, 16);
  const Result<KvPool> pool = KvPool::create(*layout, layout->block_bytes - 1);
  REQUIRE_FALSE(pool.ok());
  CHECK(pool.error().code == Errc::kInvalidArgument);
  CHECK(pool.error().message.find(std::to_string(layout->block_bytes)) != std::string::npos);
}

TEST_CASE("KV pool: blocks that were never written cost no memory") {
  const Result<KvLayout> layout = make_kv_layout(spec(30, 3, 64), KvDType::kF16, 16);
  Result<KvPool> pool = KvPool::create(*layout, std::size_t{1} << 30);
  REQUIRE(pool.ok());
  CHECK(pool->num_blocks() == (std::size_t{1} << 30) / layout->block_bytes);
  const std::size_t bytes = layout->block_bytes * pool->num_blocks();
  CHECK(resident_pages(pool->data(), bytes) == 0);
  pool->block(BlockId{pool->num_blocks() / 2})[0] = std::byte{1};
  const std::size_t touched = resident_pages(pool->data(), bytes);
  CHECK(touched >= 1);
  CHECK(touched <= 512);  // one huge page at most
}

TEST_CASE("KV pool: populated in the background, every page is resident and what was written is kept") {
  const Result<KvLayout> layout = make_kv_layout(spec(30, 3, 64), KvDType::kF16, 16);
  Result<KvPool> pool = KvPool::create(*layout, std::size_t{24} << 20);
  REQUIRE(pool.ok());
  const auto pages = pool->mapped_bytes() / static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  REQUIRE(resident_pages(pool->data(), pool->mapped_bytes()) == 0);
  pool->block(BlockId{7})[5] = std::byte{42};
  {
    constexpr std::size_t kFirst = std::size_t{5} << 20;  // whole pieces of 2 MiB: 6
    PagePopulator populator(pool->data(), pool->mapped_bytes(), kFirst);
    while (!populator.done()) std::this_thread::yield();
    const std::size_t begun = resident_pages(pool->data(), pool->mapped_bytes());
    // Huge pages may reach beyond: the last one, and that of the block above.
    const bool some = begun >= (std::size_t{6} << 20) / 4096 && begun < pages;
    CHECK((some || madvise(pool->data(), 4096, 23) != 0));
    populator.extend_to(kFirst);  // is there
    populator.extend_to(pool->mapped_bytes() + 1);
    while (!populator.done()) std::this_thread::yield();
  }
  CHECK(pool->block(BlockId{7})[5] == std::byte{42});
  const std::size_t resident = resident_pages(pool->data(), pool->mapped_bytes());
  // An old kernel populates nothing; a new one everything.
  CHECK((resident == pages || madvise(pool->data(), 4096, 23) != 0));
}

TEST_CASE("available memory: the least of what the system and the cgroups around a process have left") {
  namespace fs = std::filesystem;
  const fs::path root = fs::temp_directory_path() / ("spw_memory_" + std::to_string(getpid()));
  const auto put = [&](const char* path, const std::string& text) {
    fs::create_directories((root / path).parent_path());
    std::ofstream(root / path) << text;
  };
  CHECK(available_memory_bytes(root) == std::numeric_limits<std::size_t>::max());
  put("proc/meminfo", "MemTotal:       9000 kB\nMemFree:  10 kB\nMemAvailable:    8000 kB\nBuffers: 1 kB\n");
  CHECK(available_memory_bytes(root) == 8000u << 10);
  put("proc/sys/vm/overcommit_memory", "2\n");
  CHECK(available_memory_bytes(root) == 8000u << 10);
  put("proc/meminfo", "MemAvailable: 8000 kB\nCommitLimit: 7000 kB\nCommitted_AS: 5000 kB\n");
  CHECK(available_memory_bytes(root) == 2000u << 10);
  put("proc/sys/vm/overcommit_memory", "0\n");
  CHECK(available_memory_bytes(root) == 8000u << 10);
  put("proc/self/cgroup", "0::/a/b\n");
  put("sys/fs/cgroup/a/b/memory.max", "max\n");
  put("sys/fs/cgroup/a/b/memory.current", "5000\n");
  CHECK(available_memory_bytes(root) == 8000u << 10);
  put("sys/fs/cgroup/a/memory.max", "1000000\n");
  put("sys/fs/cgroup/a/memory.current", "400000\n");
  put("sys/fs/cgroup/a/memory.stat", "anon 100000\nfile 300000\ninactive_file 250000\n");
  CHECK(available_memory_bytes(root) == 850'000);
  put("sys/fs/cgroup/a/b/memory.max", "6000\n");
  CHECK(available_memory_bytes(root) == 1000);
  put("sys/fs/cgroup/a/b/memory.current", "7000\n");
  CHECK(available_memory_bytes(root) == 0);
  fs::remove_all(root / "sys/fs/cgroup/a");
  put("proc/self/cgroup", "9:cpu,cpuacct:/x\n7:memory:/docker/c\n0::/\n");
  put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  put("sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n");
  CHECK(available_memory_bytes(root) == 8000u << 10);
  put("sys/fs/cgroup/memory/docker/c/memory.limit_in_bytes", "5000000\n");
  put("sys/fs/cgroup/memory/docker/c/memory.usage_in_bytes", "3000000\n");
  put("sys/fs/cgroup/memory/docker/c/memory.stat", "inactive_file 1\ntotal_inactive_file 1000000\n");
  CHECK(available_memory_bytes(root) == 3'000'000);
  fs::remove_all(root);
}

TEST_CASE("KV pool: populating ends at once when its owner ends") {
  const Result<KvLayout> layout = make_kv_layout(spec(30, 3, 64), KvDType::kF16, 16);
  Result<KvPool> pool = KvPool::create(*layout, std::size_t{1} << 30);
  REQUIRE(pool.ok());
  { PagePopulator populator(pool->data(), pool->mapped_bytes(), pool->mapped_bytes()); }
  const auto pages = pool->mapped_bytes() / static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  CHECK(resident_pages(pool->data(), pool->mapped_bytes()) < pages);
}

}  // namespace spillway::gpu::host
