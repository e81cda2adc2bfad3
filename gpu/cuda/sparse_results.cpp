// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/sparse_results.hpp"

#include <vector>

namespace spillway::gpu::cuda {

void collect_emptied(const StepPlan& plan, const StepInputs& inputs, const std::uint8_t* emptied,
                     std::uint32_t block_size, StepResult& result) {
  std::size_t next = 0;
  for (std::uint32_t i = 0; i < plan.sequences.size(); ++i) {
    if (!plan.sequences[i].sparsified()) continue;
    const SparseSequence& s = inputs.sparse[next++];
    const std::int32_t blocks = s.frees != 0 ? s.span / static_cast<std::int32_t>(block_size) : 0;
    for (std::int32_t at = s.table; at < s.table + blocks; ++at) {
      if (emptied[at] != 0)
        result.emptied.push_back({i, BlockId{static_cast<std::uint32_t>(inputs.block_table[at])}});
    }
  }
}

void tell_slots(const StepPlan& plan, const StepInputs& inputs, const SparseSlots& slots,
                const decltype(CudaOptions::on_slots)& on_slots) {
  const auto units = static_cast<std::size_t>(slots.layers * slots.kv_heads),
             heads = static_cast<std::size_t>(slots.kv_heads), block = static_cast<std::size_t>(slots.block_size);
  std::vector<float> one(units * 2 * block);  // a block's positions and scores, layer by layer
  std::size_t next = 0;
  for (std::uint32_t i = 0; i < plan.sequences.size(); ++i) {
    if (!plan.sequences[i].sparsified()) continue;
    const SparseSequence& s = inputs.sparse[next++];
    const bool packed = plan.sparse[plan.sequences[i].sparse].packing != SparseStep::Packing::kNone;
    const auto count = static_cast<std::size_t>(packed ? s.live : s.span);
    const std::int32_t* table = inputs.block_table + (s.copies != 0 ? s.copy_table : s.table);
    std::vector<float> positions(units * count), scores(units * count);
    for (std::size_t at = 0; at < count; ++at) {
      if (at % block == 0) {
        const char* from = slots.metadata + table[at / block] * slots.metadata_bytes;
        const std::size_t share = 2 * heads * block * sizeof(float);
        (void)cudaMemcpy2D(one.data(), share, from, static_cast<std::size_t>(slots.metadata_layer_bytes), share,
                           units / heads, cudaMemcpyDeviceToHost);
      }
      for (std::size_t unit = 0; unit < units; ++unit) {
        const std::size_t position = (unit / heads * 2 * heads + unit % heads) * block + at % block;
        positions[unit * count + at] = one[position];
        scores[unit * count + at] = one[position + heads * block];
      }
    }
    on_slots(plan, i, positions, scores);
  }
}

}  // namespace spillway::gpu::cuda
