// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/decode_graphs.hpp"

namespace spillway::gpu::cuda {

std::uint32_t DecodeGraphs::bucket_for(std::uint32_t sequences) {
  if (sequences <= 2) return sequences;
  const std::uint32_t to = sequences <= 4 ? 4 : sequences <= 64 ? 8 : 16;
  return (sequences + to - 1) / to * to;
}

Result<std::unique_ptr<DecodeGraphs>> DecodeGraphs::capture(Forward& forward, const StepInputs& in,
                                                            const PoolView& pool, const StepGeometry& geometry,
                                                            std::uint32_t max_seqs, bool sparse, cudaStream_t stream) {
  std::unique_ptr<DecodeGraphs> graphs(new DecodeGraphs);
  for (std::uint32_t bucket = 1;; bucket = bucket_for(bucket + 1)) {
    StepShape shape;
    shape.rows = shape.samples = bucket;
    shape.decode_items = decode_items_for(bucket, geometry);
    shape.likely_items = likely_items(bucket, geometry);
    if (sparse) shape.sparse.sequences = bucket;
    forward.enqueue(shape, in, pool, true, stream);  // outside of the capture: loads kernels, chooses algorithms
    if (Result<void> done = forward.status(); !done) return done.error();

    cudaGraph_t graph = nullptr;
    if (Result<void> done = check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "graph capture");
        !done)
      return done.error();
    forward.enqueue(shape, in, pool, false, stream);
    const cudaError_t captured = cudaStreamEndCapture(stream, &graph);
    if (captured != cudaSuccess) return cuda_error(captured, "graph capture");
    cudaGraphExec_t executable = nullptr;
    const cudaError_t made = cudaGraphInstantiate(&executable, graph, 0);
    (void)cudaGraphDestroy(graph);
    if (made != cudaSuccess) return cuda_error(made, "graph of " + std::to_string(bucket) + " sequences");
    graphs->graphs_[bucket] = executable;
    (void)cudaGraphUpload(executable, stream);
    if (bucket >= bucket_for(max_seqs)) break;
  }
  if (Result<void> done = check_cuda(cudaStreamSynchronize(stream), "graph capture"); !done) return done.error();
  return graphs;
}

DecodeGraphs::~DecodeGraphs() {
  for (const auto& [bucket, graph] : graphs_) (void)cudaGraphExecDestroy(graph);
}

void DecodeGraphs::launch(std::uint32_t bucket, cudaStream_t stream) {
  (void)cudaGraphLaunch(graphs_.at(bucket), stream);
}

}  // namespace spillway::gpu::cuda
