// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/sparse_memory.hpp"

#include <utility>

namespace spillway::gpu::cuda {
namespace {

std::size_t units_of(const model::ModelSpec& spec) {
  return static_cast<std::size_t>(spec.num_layers) * static_cast<std::size_t>(spec.num_kv_heads);
}

}  // namespace

std::size_t SparseMemory::metadata_bytes(const model::ModelSpec& spec, std::uint32_t block_size) {
  return units_of(spec) * 2 * block_size * sizeof(float);
}

std::size_t SparseMemory::scratch_bytes(const model::ModelSpec& spec, std::uint32_t block_size) {
  return (static_cast<std::size_t>(spec.num_heads) + static_cast<std::size_t>(spec.num_layers)) * block_size *
         sizeof(float);
}

Result<std::unique_ptr<SparseMemory>> SparseMemory::create(const model::ModelSpec& spec, const Pool& pool,
                                                           const StepLimits& limits) {
  std::unique_ptr<SparseMemory> memory(new SparseMemory);
  const auto heads = static_cast<std::size_t>(spec.num_heads),
             layers = static_cast<std::size_t>(spec.num_layers);
  memory->slots_max_ = std::uint64_t{pool.num_blocks} * pool.block_size;
  const std::pair<Memory*, std::size_t> wanted[] = {
      {&memory->metadata_, pool.num_blocks * metadata_bytes(spec, pool.block_size)},
      {&memory->victims_, units_of(spec) * pool.max_rows * sizeof(std::int32_t)},
      {&memory->places_, units_of(spec) * limits.max_sparse * sizeof(SparsePlace)},
      {&memory->logits_, memory->slots_max_ * heads * sizeof(float)},
      {&memory->sums_, memory->slots_max_ * layers * sizeof(float)},
      {&memory->emptied_, limits.table_entries},
      {&memory->lse_, std::size_t{limits.max_tokens} * heads * sizeof(float)},
  };
  for (const auto& [to, bytes] : wanted) {
    Result<Memory> allocated = Memory::device(bytes, "the scores of sparsified sequences");
    if (!allocated) return allocated.error();
    *to = std::move(*allocated);
    if (Result<void> done = check_cuda(cudaMemset(to->data(), 0, to->bytes()), "clearing scores"); !done)
      return done.error();
  }
  SparseSlots& slots = memory->slots_;
  slots.pool = static_cast<char*>(pool.data);
  slots.block_bytes = static_cast<std::int64_t>(pool.block_bytes);
  slots.metadata = memory->metadata();
  slots.metadata_bytes =
      static_cast<std::int64_t>(metadata_bytes(spec, pool.block_size)) / static_cast<std::int64_t>(spec.num_layers);
  slots.metadata_layer_bytes = slots.metadata_bytes * pool.num_blocks;
  slots.layers = spec.num_layers;
  slots.heads = spec.num_heads;
  slots.kv_heads = spec.num_kv_heads;
  slots.block_size = static_cast<int>(pool.block_size);
  slots.max_sequences = static_cast<int>(limits.max_sparse);
  slots.victims = memory->victims_.as<std::int32_t>();
  slots.places = memory->places_.as<SparsePlace>();
  slots.logits = memory->logits_.as<float>();
  slots.sums = memory->sums_.as<float>();
  slots.emptied = memory->emptied_.as<std::uint8_t>();
  return memory;
}

SparseSlots SparseMemory::slots(const StepInputs& in, const SparseShape& shape) const {
  SparseSlots slots = slots_;
  slots.block_table = in.block_table;
  slots.sequences = in.sparse;
  slots.count = in.num_sparse;
  slots.launched = static_cast<int>(shape.sequences);
  return slots;
}

void SparseMemory::begin(const StepInputs& in, const SparseShape& shape, cudaStream_t stream) const {
  launch_sparse_place(slots(in, shape), shape.longest_chunk, stream);
}

void SparseMemory::finish(const StepInputs& in, const SparseShape& shape, int key_bytes,
                          cudaStream_t stream) const {
  const SparseSlots p = slots(in, shape);
  if (shape.pools) launch_sparse_pool(p, stream);
  if (shape.evicted_span > 0) launch_sparse_evict(p, shape.evicted_span, stream);
  if (shape.freed_blocks > 0) launch_sparse_emptied(p, shape.freed_blocks, stream);
  for (const std::int32_t index : shape.packed) launch_sparse_pack(p, index, key_bytes, stream);
}

}  // namespace spillway::gpu::cuda
