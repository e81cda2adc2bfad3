// SPDX-License-Identifier: Apache-2.0
#pragma once

// DecodeGraphs: a step of decoding sequences as a CUDA graph, one for each bucket of batch sizes. A step is padded
// to its bucket with rows that write no KV and draw nothing. What changes from step to step is in the step's
// inputs, so a graph is never updated.

#include <cstdint>
#include <map>
#include <memory>

#include "gpu/cuda/forward.hpp"

namespace spillway::gpu::cuda {

class DecodeGraphs {
 public:
  /// Captures every bucket up to max_seqs, choosing the algorithms of its products by measurement. `in` holds a
  /// padded step without sequences. With `sparse` for steps that have sparsified sequences. Synchronizes the stream.
  [[nodiscard]] static Result<std::unique_ptr<DecodeGraphs>> capture(Forward& forward, const StepInputs& in,
                                                                     const PoolView& pool,
                                                                     const StepGeometry& geometry,
                                                                     std::uint32_t max_seqs, bool sparse,
                                                                     cudaStream_t stream);
  ~DecodeGraphs();
  DecodeGraphs(const DecodeGraphs&) = delete;
  DecodeGraphs& operator=(const DecodeGraphs&) = delete;

  /// Rows a step of so many sequences is padded to: 1, 2, 4, then multiples of 8, of 16 above 64.
  [[nodiscard]] static std::uint32_t bucket_for(std::uint32_t sequences);

  void launch(std::uint32_t bucket, cudaStream_t stream);

 private:
  DecodeGraphs() = default;
  std::map<std::uint32_t, cudaGraphExec_t> graphs_;
};

}  // namespace spillway::gpu::cuda
