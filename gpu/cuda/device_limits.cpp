// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/device_limits.hpp"

#include <string>
#include <utility>

#include "gpu/cuda/check_cuda.hpp"
#include "gpu/cuda/sparse_slots.hpp"

namespace spillway::gpu::cuda {

Result<cudaDeviceProp> find_gpu(int ordinal) {
  cudaDeviceProp properties{};
  int count = 0;
  if (const cudaError_t code = cudaGetDeviceCount(&count); code != cudaSuccess || count == 0) {
    const char* why = code == cudaSuccess                  ? "the driver shows none"
                      : code == cudaErrorInsufficientDriver ? "there is no NVIDIA driver, or one older than CUDA 13.0's"
                                                            : cudaGetErrorString(code);
    return Error{Errc::kNotFound, std::string("no CUDA device: ") + why};
  }
  if (ordinal < 0 || ordinal >= count) {
    return Error{Errc::kNotFound, "no CUDA device " + std::to_string(ordinal) + ": the driver shows " +
                                      std::to_string(count) + ", counted from 0"};
  }
  if (Result<void> done = check_cuda(cudaSetDevice(ordinal), "cudaSetDevice"); !done) return done.error();
  if (Result<void> done = check_cuda(cudaGetDeviceProperties(&properties, ordinal), "device properties"); !done)
    return done.error();
  if (properties.major < 8) {
    return Error{Errc::kUnsupported, std::string(properties.name) + " has compute capability " +
                                         std::to_string(properties.major) + "." + std::to_string(properties.minor) +
                                         "; 8.0 is the least supported"};
  }
  return properties;
}

Result<void> check_options(const CreateArgs& args) {
  const DeviceOptions& options = *args.options;
  const auto refuse = [](std::string what) { return Error{Errc::kInvalidArgument, std::move(what)}; };
  if (options.max_num_seqs == 0) return refuse("max_num_seqs must be at least 1");
  if (options.max_num_batched_tokens == 0) return refuse("max_num_batched_tokens must be at least 1");
  if (options.max_steps_in_flight == 0) return refuse("max_steps_in_flight must be at least 1");
  const model::ModelSpec& spec = *args.spec;
  if (spec.position == model::PositionKind::kLearned && !args.cuda->dummy_weights) {
    const std::uint64_t rows = args.weights->position_embedding.rows();
    const auto offset = static_cast<std::uint64_t>(spec.position_offset);
    const std::uint32_t length =
        options.max_model_len != 0 ? options.max_model_len : static_cast<std::uint32_t>(spec.max_position);
    if (length + offset > rows) {
      return refuse("max_model_len = " + std::to_string(length) + " is more than the " +
                    std::to_string(rows > offset ? rows - offset : 0) + " positions the model has embeddings for");
    }
  }
  return {};
}

Result<void> check_shape(const DeviceOptions& options, const model::ModelSpec& spec, int ranks) {
  const std::uint32_t block = options.block_size;
  if (block != 8 && block != 16 && block != 32 && block != 64) {
    return Error{Errc::kInvalidArgument,
                 "block size " + std::to_string(block) + " is not supported: use 8, 16, 32 or 64"};
  }
  if (options.kv_dtype == KvDType::kQ8_0)
    return Error{Errc::kUnsupported, "--kv-cache-dtype q8_0 is not supported on CUDA: use bf16, fp16 or fp32"};
  if (spec.head_dim > 256)
    return Error{Errc::kUnsupported, "head_dim " + std::to_string(spec.head_dim) + "; CUDA attention takes up to 256"};
  if (options.sparse_kv && ranks > 1) {
    return Error{Errc::kUnsupported,
                 "sparsified sequences (sparse_kv_cache) and tensor_parallel_size above 1 do not go together: heads of other "
                 "GPUs would have to be asked who goes"};
  }
  if (options.sparse_kv && spec.num_heads / spec.num_kv_heads > kMostQueries) {
    return Error{Errc::kUnsupported, std::to_string(spec.num_heads / spec.num_kv_heads) +
                                         " queries a KV head; sparsified sequences on CUDA take up to " +
                                         std::to_string(kMostQueries)};
  }
  return {};
}

Element element_of(KvDType type) {
  return type == KvDType::kF32 ? Element::kF32 : type == KvDType::kF16 ? Element::kF16 : Element::kBF16;
}

}  // namespace spillway::gpu::cuda
