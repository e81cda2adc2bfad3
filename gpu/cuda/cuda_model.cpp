// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/cuda_model.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <string>
#include <utility>

#include "gpu/cuda/upload_team.hpp"
#include "gpu/cuda/weights.hpp"

namespace spillway::gpu::cuda {
namespace {

using model::TensorView;

constexpr unsigned kUploadThreads = 12;

/// Has the kernel map a part of a file at once, where a first touch would fault 16 pages at a time.
void map_pages(const std::byte* data, std::size_t bytes) {
#ifdef MADV_POPULATE_READ
  static const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto at = reinterpret_cast<std::uintptr_t>(data), begin = at / page * page;
  (void)::madvise(reinterpret_cast<void*>(begin), at + bytes - begin, MADV_POPULATE_READ);
#endif
}

/// What a rank takes of a tensor; all of it: {}.
struct Slice {
  std::size_t first_row = 0, all_rows = 0;  // 0: all rows
  std::size_t first_col = 0, all_cols = 0;  // 0: all columns
};

struct Part {
  const TensorView* weight = nullptr;
  const TensorView* bias = nullptr;  // null or empty: none
  std::size_t rows = 0;
  Slice slice;
};

/// `count` rows from `first` of a tensor of `all` rows, as a view. One whose size is not that of so many rows stays whole, and
/// is refused where its values are counted.
TensorView rows_of(const TensorView& tensor, std::size_t first, std::size_t count, std::size_t all) {
  if (all == 0 || tensor.data.size() % all != 0) return tensor;
  TensorView part = tensor;
  const std::size_t row_bytes = tensor.data.size() / all;
  part.data = tensor.data.subspan(first * row_bytes, count * row_bytes);
  return part;
}

/// How a matrix is used.
enum class Use : std::uint8_t { kProduct, kGated, kTable };  // kGated: gate rows, then up rows; kTable: rows are looked up only

struct Source {
  bool random = false;
  bool pack = false;                          // quantized matrices stay so
  model::DType random_type = model::DType::kBF16;  // quantized: of random matrices
  const std::function<void(const TensorView&)>& on_uploaded;
};

/// Fills a model; the first error sticks and turns the rest into no-ops. What comes from a file is brought by a team of threads
/// while the next matrices are allocated.
class Uploader {
 public:
  Uploader(CudaModel& model, const Source& source, cudaStream_t stream)
      : model_(model), random_(source.random), source_(source), stream_(stream) {
    if (random_) return;
    check(cudaEventCreateWithFlags(&cleared_, cudaEventDisableTiming), "event");
    if (Result<std::unique_ptr<UploadTeam>> team =
            UploadTeam::create(std::min(kUploadThreads, std::thread::hardware_concurrency()));
        team.ok()) {
      team_ = std::move(*team);
    } else {
      fail(team.error());
    }
  }
  ~Uploader() {
    team_.reset();
    (void)cudaStreamSynchronize(stream_);
    if (cleared_ != nullptr) (void)cudaEventDestroy(cleared_);
  }
  Uploader(const Uploader&) = delete;
  Uploader& operator=(const Uploader&) = delete;

  [[nodiscard]] Result<void> finish() {
    for (std::size_t i = 0; i < under_way_.size() && !failed_; ++i) {
      team_->wait(under_way_[i].second);
      if (i + 1 == under_way_.size())
        if (Result<void> done = team_->finish(); !done) fail(done.error());
      if (source_.on_uploaded) source_.on_uploaded(under_way_[i].first);
    }
    check(cudaStreamSynchronize(stream_), "upload of weights");
    check(cudaGetLastError(), "upload of weights");
    return failed_ ? Result<void>(error_) : Result<void>();
  }

  /// Rows beyond the parts', up to `padded_rows`, are zeros.
  void matrix(DeviceMatrix& out, std::initializer_list<Part> parts, std::size_t cols, bool random_bias,
              Use use = Use::kProduct, std::size_t padded_rows = 0) {
    std::size_t rows = 0;
    bool biased = random_ && random_bias;
    for (const Part& part : parts) {
      rows += part.rows;
      biased |= !random_ && part.bias != nullptr && !part.bias->empty();
    }
    const std::size_t filled = rows;
    rows = std::max(rows, padded_rows);
    const std::size_t size = bytes_of(model_.element);
    if (packs(parts, cols) && use != Use::kTable) {
      out.packed = true;
      out.panels = {type_of(parts), nullptr, static_cast<int>(rows), static_cast<int>(cols), use == Use::kGated};
    }
    char* weight = allocate(out.packed ? out.panels.bytes() : rows * cols * size, "the weights");
    char* bias = biased ? allocate(rows * size, "the weights") : nullptr;
    if (failed_) return;
    if (bias != nullptr) launch_fill(bias, model_.element, static_cast<std::int64_t>(rows), 0, stream_);
    const float range = std::sqrt(3.0f / static_cast<float>(cols));
    out.panels.data = weight;
    if (out.packed && random_) {
      launch_fill_packed(out.panels, range, ++seed_ * 0x2545f491u, stream_);
    } else if (out.packed) {
      check(cudaMemsetAsync(weight, 0, out.panels.bytes(), stream_), "upload of weights");  // rows over the end
    } else if (rows > filled) {
      check(cudaMemsetAsync(weight, 0, rows * cols * size, stream_), "upload of weights");
    }
    std::size_t row = 0;
    for (const Part& part : parts) {
      if (!out.packed) {
        put(*part.weight, weight + row * cols * size, model_.element, part.rows * cols, range, part, cols);
      } else if (!random_) {
        put_packed(part, out.panels, row);
      }
      if (bias != nullptr && part.bias != nullptr && (random_ || !part.bias->empty()))
        put(rows_of(*part.bias, part.slice.first_row, part.rows, part.slice.all_rows), bias + row * size, model_.element,
            part.rows, 0.02f);
      row += part.rows;
    }
    out.weight = weight;
    out.bias = bias;
    out.rows = static_cast<int>(rows);
    out.cols = static_cast<int>(cols);
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
  void check(cudaError_t code, const char* what) {
    if (code != cudaSuccess) fail(cuda_error(code, what));
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
    put(tensor, to, element, count, random_range, {.weight = &tensor, .rows = count}, 1);
  }
  /// The part's rows and columns of `tensor`, `count` values.
  void put(const TensorView& tensor, void* to, Element element, std::size_t count, float random_range, const Part& part,
           std::size_t cols) {
    if (failed_) return;
    if (random_) {
      launch_fill_random(to, element, static_cast<std::int64_t>(count), random_range, ++seed_ * 0x2545f491u, stream_);
      return;
    }
    stream_blocks(tensor, part, cols,
                  [to, element, type = tensor.dtype](const void* staged, std::size_t first, std::size_t blocks,
                                                             cudaStream_t stream) {
                    const std::size_t in_block = model::block_elements(type);
                    launch_convert(staged, type, static_cast<char*>(to) + first * in_block * bytes_of(element), element,
                                   static_cast<std::int64_t>(blocks * in_block), stream);
                  });
  }

  void put_packed(const Part& part, const PackedMatrix& to, std::size_t first_row) {
    stream_blocks(*part.weight, part, static_cast<std::size_t>(to.cols),
                  [to, first_row](const void* staged, std::size_t first, std::size_t blocks, cudaStream_t stream) {
                    launch_pack(staged, to, static_cast<int>(first_row), static_cast<std::int64_t>(first),
                                static_cast<std::int64_t>(blocks), stream);
                  });
  }

  /// Brings the part's storage blocks to the device, some at a time; use(where, the first one's number, how many, stream), by
  /// the team, behind what has been enqueued here. A part has `cols` columns.
  template <class F>
  void stream_blocks(const TensorView& whole, const Part& part, std::size_t cols, const F& use) {
    if (failed_) return;
    const TensorView tensor = rows_of(whole, part.slice.first_row, part.rows, part.slice.all_rows);
    const std::size_t in_block = model::block_elements(tensor.dtype), block = model::block_bytes(tensor.dtype);
    const std::size_t all_cols = part.slice.all_cols != 0 ? part.slice.all_cols : cols, count = part.rows * all_cols;
    if (count % in_block != 0 || tensor.data.size() != count / in_block * block) {
      return fail({Errc::kBadFile, "tensor '" + tensor.name + "' (" + std::string(to_string(tensor.dtype)) + ", " +
                                       std::to_string(tensor.data.size()) + " bytes): expected " +
                                       std::to_string(count) + " values"});
    }
    if (cols != all_cols && (cols % in_block != 0 || part.slice.first_col % in_block != 0)) {
      return fail({Errc::kInvalidArgument, "tensor '" + tensor.name + "' cannot be split over the ranks: " + std::to_string(cols) +
                                               " columns are no whole blocks of " + std::string(to_string(tensor.dtype))});
    }
    // Columns of whole rows follow each other in the file; of a share, row by row.
    const std::size_t run = cols == all_cols ? part.rows * cols / in_block : cols / in_block;
    const std::size_t stride = cols == all_cols ? run : all_cols / in_block, offset = part.slice.first_col / in_block;
    const std::size_t most = UploadTeam::kBufferBytes / block;
    check(cudaEventRecord(cleared_, stream_), "upload of weights");
    for (std::size_t at = 0, blocks = part.rows * cols / in_block; at < blocks && !failed_; at += most) {
      const std::size_t now = std::min(most, blocks - at);
      team_->push([=, data = tensor.data, cleared = cleared_](const UploadTeam::Lane& lane) {
        if (stride == run) map_pages(data.data() + (offset + at) * block, now * block);
        for (std::size_t i = at; i < at + now;) {
          const std::size_t some = std::min(run - i % run, at + now - i);
          std::memcpy(lane.host + (i - at) * block, data.data() + (i / run * stride + offset + i % run) * block, some * block);
          i += some;
        }
        (void)cudaStreamWaitEvent(lane.stream, cleared, 0);
        (void)cudaMemcpyAsync(lane.device, lane.host, now * block, cudaMemcpyHostToDevice, lane.stream);
        use(lane.device, at, now, lane.stream);
      });
    }
    under_way_.emplace_back(whole, team_->pushed());
  }

  [[nodiscard]] model::DType type_of(std::initializer_list<Part> parts) const {
    return random_ ? source_.random_type : parts.begin()->weight->dtype;
  }
  /// Whether a matrix of these parts goes into panels: all are of one quantized type.
  [[nodiscard]] bool packs(std::initializer_list<Part> parts, std::size_t cols) const {
    const model::DType type = type_of(parts);
    return source_.pack && is_quantized(type) && cols % kPanelCols == 0 &&
           (random_ || std::all_of(parts.begin(), parts.end(), [&](const Part& part) { return part.weight->dtype == type; }));
  }

  CudaModel& model_;
  bool random_;
  const Source& source_;
  cudaStream_t stream_;
  std::unique_ptr<UploadTeam> team_;  // null for random weights
  cudaEvent_t cleared_ = nullptr;     // what the team's work goes behind: zeros in rows and biases
  std::vector<std::pair<TensorView, std::size_t>> under_way_;  // and the jobs up to its last one
  std::uint64_t seed_ = 0;
  bool failed_ = false;
  Error error_;
};

/// One layer of `whole`, the unsplit spec.
void fill_layer(Uploader& up, const model::ModelSpec& whole, const Shard& shard, const model::LayerWeights& from,
                DeviceLayer& to) {
  const model::ModelSpec own = shard_of(whole, shard);
  const auto size = [](std::int64_t n) { return static_cast<std::size_t>(n); };
  const std::size_t hidden = size(own.hidden_size), head_dim = size(own.head_dim), inner = size(own.intermediate_size);
  const std::size_t q = size(own.q_size()), kv = size(own.kv_size()), rank = size(shard.rank);
  const bool biased = whole.norm == model::NormKind::kLayer, split = shard.size > 1;
  const auto rows = [&](std::size_t first, std::int64_t all) {
    return split ? Slice{.first_row = first, .all_rows = size(all)} : Slice{};
  };
  const auto cols = [&](std::size_t first, std::int64_t all) {
    return split ? Slice{.first_col = first, .all_cols = size(all)} : Slice{};
  };
  const std::size_t first_kv = size(shard.first_kv_head(whole)) * head_dim;
  const bool adds_bias = shard.rank == 0;  // of what is summed over the ranks

  up.norm(to.attn_norm, from.attn_norm, from.attn_norm_bias, hidden, true);
  up.norm(to.mlp_norm, from.mlp_norm, from.mlp_norm_bias, hidden, true);
  up.floats(to.q_norm, from.q_norm, head_dim, false, 1);
  up.floats(to.k_norm, from.k_norm, head_dim, false, 1);
  up.matrix(to.qkv,
            {{&from.q, &from.q_bias, q, rows(rank * q, whole.q_size())},
             {&from.k, &from.k_bias, kv, rows(first_kv, whole.kv_size())},
             {&from.v, &from.v_bias, kv, rows(first_kv, whole.kv_size())}},
            hidden, biased);
  up.matrix(to.o, {{&from.o, adds_bias ? &from.o_bias : nullptr, hidden, cols(rank * q, whole.q_size())}}, q,
            biased && adds_bias);
  const Slice part = rows(rank * inner, whole.intermediate_size);
  if (whole.mlp == model::MlpKind::kGated) {
    up.matrix(to.up, {{&from.gate, &from.gate_bias, inner, part}, {&from.up, &from.up_bias, inner, part}}, hidden, biased,
              Use::kGated);
  } else {
    up.matrix(to.up, {{&from.up, &from.up_bias, inner, part}}, hidden, biased);
  }
  up.matrix(to.down,
            {{&from.down, adds_bias ? &from.down_bias : nullptr, hidden, cols(rank * inner, whole.intermediate_size)}}, inner,
            biased && adds_bias);
}

Result<CudaModel> fill(const model::ModelSpec& spec, const model::Weights& weights, Element element, const Shard& shard,
                       const Source& source, cudaStream_t stream) {
  const bool random = source.random;
  CudaModel model;
  model.spec = shard_of(spec, shard);
  model.shard = shard;
  model.element = element;
  const auto hidden = static_cast<std::size_t>(spec.hidden_size);
  const auto embedding = static_cast<std::size_t>(spec.embedding_size);
  const auto vocab = static_cast<std::size_t>(spec.vocab_size);
  const bool learned = spec.position == model::PositionKind::kLearned;

  Uploader up(model, source, stream);
  model.layers.resize(weights.layers.size());
  for (std::size_t i = 0; i < model.layers.size(); ++i) fill_layer(up, spec, shard, weights.layers[i], model.layers[i]);
  const bool projects = embedding != hidden;
  if (random ? projects : !weights.project_in.empty())
    up.matrix(model.project_in, {{&weights.project_in, nullptr, hidden}}, embedding, false);
  if (random ? projects : !weights.project_out.empty())
    up.matrix(model.project_out, {{&weights.project_out, nullptr, embedding}}, hidden, false);
  up.matrix(model.token_embedding, {{&weights.token_embedding, nullptr, vocab}}, embedding, false);
  const bool tied = random ? spec.tied_embeddings : weights.lm_head.empty();
  if (tied && shard.size == 1) {
    model.lm_head = model.token_embedding;
  } else {
    const auto padded = static_cast<std::size_t>(shard.vocabulary_rows(spec));
    const std::size_t first = std::min(vocab, static_cast<std::size_t>(shard.rank) * padded);
    const Slice own = shard.size > 1 ? Slice{.first_row = first, .all_rows = vocab} : Slice{};
    up.matrix(model.lm_head,
              {{tied ? &weights.token_embedding : &weights.lm_head, nullptr, std::min(padded, vocab - first), own}}, embedding,
              false, Use::kProduct, padded);
  }
  up.floats(model.lm_head_bias, weights.lm_head_bias, vocab, false, 0);
  if (learned) {
    const auto rows = random ? static_cast<std::size_t>(spec.max_position + spec.position_offset)
                             : static_cast<std::size_t>(weights.position_embedding.rows());
    DeviceMatrix positions;
    up.matrix(positions, {{&weights.position_embedding, nullptr, rows}}, hidden, false, Use::kTable);
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

std::size_t CudaModel::packed_elements_max() const noexcept {
  std::size_t most = 0;
  const auto look = [&](const DeviceMatrix& matrix) {
    if (matrix.packed) most = std::max(most, static_cast<std::size_t>(matrix.rows) * static_cast<std::size_t>(matrix.cols));
  };
  for (const DeviceLayer& layer : layers)
    for (const DeviceMatrix* matrix : {&layer.qkv, &layer.o, &layer.up, &layer.down}) look(*matrix);
  for (const DeviceMatrix* matrix : {&project_in, &project_out, &lm_head}) look(*matrix);
  return most;
}

Result<CudaModel> CudaModel::upload(const model::ModelSpec& spec, const model::Weights& weights, Element element,
                                    bool pack, const Shard& shard,
                                    const std::function<void(const TensorView&)>& on_uploaded, cudaStream_t stream) {
  if (weights.layers.size() != static_cast<std::size_t>(spec.num_layers)) {
    return Error{Errc::kBadFile, "the model has weights for " + std::to_string(weights.layers.size()) +
                                     " layers where its configuration says " + std::to_string(spec.num_layers)};
  }
  return fill(spec, weights, element, shard, {.pack = pack, .on_uploaded = on_uploaded}, stream);
}

Result<CudaModel> CudaModel::random(const model::ModelSpec& spec, Element element, model::DType type,
                                    const Shard& shard, cudaStream_t stream) {
  model::Weights shape;
  shape.layers.resize(static_cast<std::size_t>(spec.num_layers));
  const std::function<void(const TensorView&)> nobody;
  return fill(spec, shape, element, shard, {.random = true, .pack = true, .random_type = type, .on_uploaded = nobody}, stream);
}

}  // namespace spillway::gpu::cuda
