// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/cuda_model.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <string>
#include <utility>

#include "gpu/cuda/weights.hpp"

namespace spillway::gpu::cuda {
namespace {

using model::TensorView;

constexpr std::size_t kStageBytes = std::size_t{32} << 20;

struct Part {
  const TensorView* weight = nullptr;
  const TensorView* bias = nullptr;  // null or empty: none
  std::size_t rows = 0;
};

/// Fills a model; the first error sticks and turns the rest into no-ops. Two pinned buffers take turns, so that
/// the file is read while the link is busy.
class Uploader {
 public:
  Uploader(CudaModel& model, bool random, const std::function<void(const TensorView&)>& on_uploaded,
           cudaStream_t stream)
      : model_(model), random_(random), on_uploaded_(on_uploaded), stream_(stream) {
    if (random_) return;
    for (Stage& stage : stages_) {
      keep(Memory::pinned(kStageBytes, "the upload of weights"), stage.host);
      keep(Memory::device(kStageBytes, "the upload of weights"), stage.device);
      check(cudaEventCreateWithFlags(&stage.used, cudaEventDisableTiming), "event");
    }
  }
  ~Uploader() {
    (void)cudaStreamSynchronize(stream_);
    for (Stage& stage : stages_)
      if (stage.used != nullptr) (void)cudaEventDestroy(stage.used);
  }
  Uploader(const Uploader&) = delete;
  Uploader& operator=(const Uploader&) = delete;

  [[nodiscard]] Result<void> finish() {
    check(cudaStreamSynchronize(stream_), "upload of weights");
    check(cudaGetLastError(), "upload of weights");
    return failed_ ? Result<void>(error_) : Result<void>();
  }

  void matrix(DeviceMatrix& out, std::initializer_list<Part> parts, std::size_t cols, bool random_bias) {
    std::size_t rows = 0;
    bool biased = random_ && random_bias;
    for (const Part& part : parts) {
      rows += part.rows;
      biased |= !random_ && part.bias != nullptr && !part.bias->empty();
    }
    const std::size_t size = bytes_of(model_.element);
    char* weight = allocate(rows * cols * size, "the weights");
    char* bias = biased ? allocate(rows * size, "the weights") : nullptr;
    if (failed_) return;
    if (bias != nullptr) launch_fill(bias, model_.element, static_cast<std::int64_t>(rows), 0, stream_);
    std::size_t row = 0;
    for (const Part& part : parts) {
      put(*part.weight, weight + row * cols * size, model_.element, part.rows * cols,
          std::sqrt(3.0f / static_cast<float>(cols)));
      if (bias != nullptr && part.bias != nullptr && (random_ || !part.bias->empty()))
        put(*part.bias, bias + row * size, model_.element, part.rows, 0.02f);
      row += part.rows;
    }
    out = {weight, bias, static_cast<int>(rows), static_cast<int>(cols)};
  }

  /// fp32 values; null when the model has none.
  void floats(const float*& out, const TensorView& tensor, std::size_t count, bool present, float random_value) {
    if (random_ ? !present : tensor.empty()) return;
    char* to = allocate(count * sizeof(float), "the weights");
    if (failed_) return;
    if (random_) {
      launch_fill(to, Element::kF32, static_cast<std::int64_t>(count), random_value, stream_);
    } else {
      put(tensor, to, Element::kF32, count, 0);
    }
    out = reinterpret_cast<const float*>(to);
  }
  void norm(DeviceNorm& out, const TensorView& weight, const TensorView& bias, std::size_t count, bool present) {
    floats(out.weight, weight, count, present, 1.0f);
    floats(out.bias, bias, count, present && model_.spec.norm == model::NormKind::kLayer, 0.0f);
  }

  void constants(const float*& out, const std::vector<float>& values) {
    if (values.empty()) return;
    char* to = allocate(values.size() * sizeof(float), "the weights");
    if (failed_) return;
    check(cudaMemcpy(to, values.data(), values.size() * sizeof(float), cudaMemcpyHostToDevice), "upload");
    out = reinterpret_cast<const float*>(to);
  }

  void fail(Error error) {
    if (failed_) return;
    failed_ = true;
    error_ = std::move(error);
  }

 private:
  struct Stage {
    Memory host, device;
    cudaEvent_t used = nullptr;
  };

  void check(cudaError_t code, const char* what) {
    if (code != cudaSuccess) fail(cuda_error(code, what));
  }
  void keep(Result<Memory> memory, Memory& to) {
    if (memory.ok()) {
      to = std::move(*memory);
    } else {
      fail(memory.error());
    }
  }
  char* allocate(std::size_t bytes, const char* purpose) {
    if (failed_) return nullptr;
    Result<Memory> memory = Memory::device(bytes, purpose);
    if (!memory) {
      fail({Errc::kOutOfMemory, memory.error().message + "; " + gigabytes(model_.weight_bytes) +
                                    " of weights were uploaded before: use a smaller model or a larger GPU"});
      return nullptr;
    }
    model_.weight_bytes += bytes;
    model_.memory.push_back(std::move(*memory));
    return model_.memory.back().as<char>();
  }

  void put(const TensorView& tensor, void* to, Element element, std::size_t count, float random_range) {
    if (failed_) return;
    if (random_) {
      launch_fill_random(to, element, static_cast<std::int64_t>(count), random_range, ++seed_ * 0x2545f491u, stream_);
      return;
    }
    const std::size_t in_block = model::block_elements(tensor.dtype), block = model::block_bytes(tensor.dtype);
    if (count % in_block != 0 || tensor.data.size() != count / in_block * block) {
      return fail({Errc::kBadFile, "tensor '" + tensor.name + "' (" + std::string(to_string(tensor.dtype)) + ", " +
                                       std::to_string(tensor.data.size()) + " bytes): expected " +
                                       std::to_string(count) + " values"});
    }
    const std::size_t most = kStageBytes / block;
    for (std::size_t at = 0, blocks = count / in_block; at < blocks && !failed_; at += most) {
      const std::size_t now = std::min(most, blocks - at);
      Stage& stage = stages_[turn_ ^= 1];
      check(cudaEventSynchronize(stage.used), "upload of weights");
      std::memcpy(stage.host.data(), tensor.data.data() + at * block, now * block);
      check(cudaMemcpyAsync(stage.device.data(), stage.host.data(), now * block, cudaMemcpyHostToDevice, stream_),
            "upload of weights");
      launch_convert(stage.device.data(), tensor.dtype, static_cast<char*>(to) + at * in_block * bytes_of(element),
                     element, static_cast<std::int64_t>(now * in_block), stream_);
      check(cudaEventRecord(stage.used, stream_), "upload of weights");
    }
    if (on_uploaded_) on_uploaded_(tensor);
  }

  CudaModel& model_;
  bool random_;
  const std::function<void(const TensorView&)>& on_uploaded_;
  cudaStream_t stream_;
  Stage stages_[2];
  unsigned turn_ = 0;
  std::uint64_t seed_ = 0;
  bool failed_ = false;
  Error error_;
};

Result<CudaModel> fill(const model::ModelSpec& spec, const model::Weights& weights, Element element, bool random,
                       const std::function<void(const TensorView&)>& on_uploaded, cudaStream_t stream) {
  CudaModel model;
  model.spec = spec;
  model.element = element;
  const auto hidden = static_cast<std::size_t>(spec.hidden_size);
  const auto embedding = static_cast<std::size_t>(spec.embedding_size);
  const auto inner = static_cast<std::size_t>(spec.intermediate_size);
  const auto vocab = static_cast<std::size_t>(spec.vocab_size);
  const auto head_dim = static_cast<std::size_t>(spec.head_dim);
  const auto q = static_cast<std::size_t>(spec.q_size()), kv = static_cast<std::size_t>(spec.kv_size());
  const bool biased = spec.norm == model::NormKind::kLayer;
  const bool learned = spec.position == model::PositionKind::kLearned;

  Uploader up(model, random, on_uploaded, stream);
  model.layers.resize(weights.layers.size());
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const model::LayerWeights& from = weights.layers[i];
    DeviceLayer& to = model.layers[i];
    up.norm(to.attn_norm, from.attn_norm, from.attn_norm_bias, hidden, true);
    up.norm(to.mlp_norm, from.mlp_norm, from.mlp_norm_bias, hidden, true);
    up.floats(to.q_norm, from.q_norm, head_dim, false, 1);
    up.floats(to.k_norm, from.k_norm, head_dim, false, 1);
    up.matrix(to.qkv, {{&from.q, &from.q_bias, q}, {&from.k, &from.k_bias, kv}, {&from.v, &from.v_bias, kv}}, hidden,
              biased);
    up.matrix(to.o, {{&from.o, &from.o_bias, hidden}}, q, biased);
    if (spec.mlp == model::MlpKind::kGated) {
      up.matrix(to.up, {{&from.gate, &from.gate_bias, inner}, {&from.up, &from.up_bias, inner}}, hidden, biased);
    } else {
      up.matrix(to.up, {{&from.up, &from.up_bias, inner}}, hidden, biased);
    }
    up.matrix(to.down, {{&from.down, &from.down_bias, hidden}}, inner, biased);
  }
  const bool projects = embedding != hidden;
  if (random ? projects : !weights.project_in.empty())
    up.matrix(model.project_in, {{&weights.project_in, nullptr, hidden}}, embedding, false);
  if (random ? projects : !weights.project_out.empty())
    up.matrix(model.project_out, {{&weights.project_out, nullptr, embedding}}, hidden, false);
  DeviceMatrix tokens;
  up.matrix(tokens, {{&weights.token_embedding, nullptr, vocab}}, embedding, false);
  model.token_embedding = tokens.weight;
  model.lm_head = tokens;
  if (random ? !spec.tied_embeddings : !weights.lm_head.empty())
    up.matrix(model.lm_head, {{&weights.lm_head, nullptr, vocab}}, embedding, false);
  up.floats(model.lm_head_bias, weights.lm_head_bias, vocab, false, 0);
  if (learned) {
    const auto rows = random ? static_cast<std::size_t>(spec.max_position + spec.position_offset)
                             : static_cast<std::size_t>(weights.position_embedding.rows());
    DeviceMatrix positions;
    up.matrix(positions, {{&weights.position_embedding, nullptr, rows}}, hidden, false);
    model.position_embedding = positions.weight;
  } else {
    up.constants(model.inv_freq, spec.rope.inv_freq);
  }
  up.norm(model.final_norm, weights.final_norm, weights.final_norm_bias, hidden,
          spec.norm_place == model::NormPlace::kPre);
  if (Result<void> done = up.finish(); !done) return done.error();
  return model;
}

}  // namespace

Result<CudaModel> CudaModel::upload(const model::ModelSpec& spec, const model::Weights& weights, Element element,
                                    const std::function<void(const TensorView&)>& on_uploaded, cudaStream_t stream) {
  if (weights.layers.size() != static_cast<std::size_t>(spec.num_layers)) {
    return Error{Errc::kBadFile, "the model has weights for " + std::to_string(weights.layers.size()) +
                                     " layers where its configuration says " + std::to_string(spec.num_layers)};
  }
  return fill(spec, weights, element, false, on_uploaded, stream);
}

Result<CudaModel> CudaModel::random(const model::ModelSpec& spec, Element element, cudaStream_t stream) {
  model::Weights shape;
  shape.layers.resize(static_cast<std::size_t>(spec.num_layers));
  return fill(spec, shape, element, true, {}, stream);
}

}  // namespace spillway::gpu::cuda
