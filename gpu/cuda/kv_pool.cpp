// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/kv_pool.hpp"

#include <algorithm>
#include <utility>

namespace spillway::gpu::cuda {
namespace {

constexpr std::size_t kReserveBytes = std::size_t{512} << 20;  // left to the driver, graphs and the library

/// Bytes from one block to the next. An H100's memory is five stacks: of blocks a multiple of five times 128 KiB apart the
/// same layer lies in few of them, and a decode step of 64 sequences of 1024 tokens took 16% longer
/// (bench/results/sparse-cuda.json).
std::size_t block_stride(std::size_t bytes) {
  constexpr std::size_t kPiece = std::size_t{32} << 10, kLargest = std::size_t{1} << 20;
  return bytes >= kLargest && bytes % (5 * kPiece) == 0 ? bytes + kPiece : bytes;
}

/// Bytes that the pool may take.
Result<std::size_t> room_for(const KvPool::Wanted& wanted, std::size_t block_bytes) {
  std::size_t free_bytes = 0, total_bytes = 0;
  if (Result<void> done = check_cuda(cudaMemGetInfo(&free_bytes, &total_bytes), "memory info"); !done) return done.error();
  const std::size_t asked = wanted.options.kv_cache_memory_bytes;
  if (asked > free_bytes) {
    return Error{Errc::kOutOfMemory, "--kv-cache-memory-bytes is " + gigabytes(asked) + ", but only " + gigabytes(free_bytes) +
                                         " of the GPU's " + gigabytes(total_bytes) + " are free beside " + wanted.used};
  }
  if (asked != 0) return asked;
  const auto allowed = static_cast<std::size_t>(static_cast<double>(total_bytes) * wanted.gpu_memory_utilization);
  const std::size_t taken = total_bytes - free_bytes + kReserveBytes;
  if (allowed < taken + block_bytes) {
    return Error{Errc::kOutOfMemory,
                 "no room for a KV cache: " + gigabytes(taken) + " of the GPU's " + gigabytes(total_bytes) + " are taken (" +
                     wanted.used + "), --gpu-memory-utilization allows " + gigabytes(allowed) +
                     "; raise it, lower --max-num-batched-tokens, or use a smaller model"};
  }
  return allowed - taken;
}

}  // namespace

Result<std::unique_ptr<KvPool>> KvPool::create(const model::ModelSpec& spec, const Wanted& wanted) {
  std::unique_ptr<KvPool> pool(new KvPool);
  const DeviceOptions& options = wanted.options;
  PoolView& view = pool->view_;
  view.layer_elements = std::int64_t{2} * spec.num_kv_heads * options.block_size * spec.head_dim;
  const std::size_t kv_bytes =
      block_stride(static_cast<std::size_t>(view.layer_elements * spec.num_layers) * bytes_of(wanted.element));
  view.block_elements = static_cast<std::int64_t>(kv_bytes / bytes_of(wanted.element));
  const std::size_t metadata_bytes = options.sparse_kv ? SparseMemory::metadata_bytes(spec, options.block_size) : 0;
  const std::size_t scratch = options.sparse_kv ? SparseMemory::scratch_bytes(spec, options.block_size) : 0;
  pool->block_bytes_ = kv_bytes + metadata_bytes;
  const Result<std::size_t> bytes = room_for(wanted, pool->block_bytes_);
  if (!bytes) return bytes.error();
  std::uint64_t blocks = std::min<std::size_t>(*bytes / (pool->block_bytes_ + scratch), 0x7fffffff / options.block_size);
  if (wanted.group != nullptr && !wanted.group->smallest(blocks)) return ranks::another_failed();
  pool->num_blocks_ = static_cast<std::uint32_t>(blocks);
  view.num_blocks = static_cast<std::int64_t>(blocks);
  pool->num_host_blocks_ = static_cast<std::uint32_t>(options.host_pool_bytes / pool->block_bytes_);
  if (Result<void> done = pool->allocate(spec, wanted, kv_bytes, metadata_bytes); !done) return done.error();
  return pool;
}

Result<void> KvPool::allocate(const model::ModelSpec& spec, const Wanted& wanted, std::size_t kv_bytes,
                              std::size_t metadata_bytes) {
  Result<Memory> pool = Memory::device(num_blocks_ * kv_bytes, "the KV cache (--kv-cache-memory-bytes)");
  if (!pool) return pool.error();
  pool_ = std::move(*pool);
  view_.data = pool_.data();
  // Finite numbers: a masked key's weight is zero, and zero times what lies in fresh memory might be no number.
  if (Result<void> done = check_cuda(cudaMemset(pool_.data(), 0, pool_.bytes()), "clearing the KV cache"); !done) return done;
  if (num_host_blocks_ > 0) {
    Result<Memory> host = Memory::pinned(num_host_blocks_ * block_bytes_, "the host's KV pool");
    if (!host) return host.error();
    host_pool_ = std::move(*host);
  }
  parts_.push_back({pool_.as<char>(), host_pool_.as<char>(), kv_bytes});
  if (metadata_bytes == 0) return {};
  const DeviceOptions& options = wanted.options;
  Result<std::unique_ptr<SparseMemory>> sparse = SparseMemory::create(
      spec, {pool_.data(), kv_bytes, num_blocks_, options.block_size, options.max_num_seqs}, wanted.limits);
  if (!sparse) return sparse.error();
  sparse_ = std::move(*sparse);
  view_.sparse = sparse_.get();
  const auto layers = static_cast<std::size_t>(spec.num_layers);
  parts_.push_back({sparse_->metadata(), host_pool_.as<char>() + num_host_blocks_ * kv_bytes, metadata_bytes / layers, layers});
  return {};
}

}  // namespace spillway::gpu::cuda
