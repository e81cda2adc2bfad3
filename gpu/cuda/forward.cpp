// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/forward.hpp"

#include <algorithm>
#include <utility>

#include "gpu/cuda/rows.hpp"

namespace spillway::gpu::cuda {

namespace {

constexpr std::uint32_t kShortRows = 256;  // shapes up to which are few enough to be measured each

/// Rows of a product, rounded up so that few shapes come up; buffers have room for them.
int padded(std::uint32_t rows) {
  const std::uint32_t to = rows <= 8 ? 1 : rows <= 64 ? 8 : rows <= kShortRows ? 16 : 64;
  return static_cast<int>((rows + to - 1) / to * to);
}

}  // namespace

struct Forward::Step {
  const StepShape& shape;
  const StepInputs& in;
  const PoolView& pool;
  bool tune;
  cudaStream_t stream;
};

Result<std::unique_ptr<Forward>> Forward::create(const CudaModel& model, const StepLimits& limits,
                                                 std::uint32_t max_rows, const StepGeometry& geometry,
                                                 Collective* collective) {
  std::unique_ptr<Forward> forward(new Forward(model, geometry, collective));
  const model::ModelSpec& spec = model.spec;
  Result<std::unique_ptr<Matmul>> matmul = Matmul::create(model.element);
  if (!matmul) return matmul.error();
  forward->matmul_ = std::move(*matmul);
  if (const std::size_t elements = model.packed_elements_max(); elements > 0)
    if (Result<void> done = forward->matmul_->reserve_quantized(elements); !done) return done.error();
  const auto tokens = static_cast<std::size_t>(padded(limits.max_tokens)) + 64;
  const auto seqs = static_cast<std::size_t>(padded(limits.max_seqs)) + 64;
  const std::size_t size = bytes_of(model.element);
  const auto hidden = static_cast<std::size_t>(spec.hidden_size), vocab = static_cast<std::size_t>(spec.vocab_size);
  const auto inner = static_cast<std::size_t>(spec.intermediate_size);
  const auto q = static_cast<std::size_t>(spec.q_size()), kv = static_cast<std::size_t>(spec.kv_size());
  const auto heads = static_cast<std::size_t>(spec.num_heads), head_dim = static_cast<std::size_t>(spec.head_dim);
  const bool projects = model.project_in.weight != nullptr || model.project_out.weight != nullptr;
  const std::size_t part = collective != nullptr ? static_cast<std::size_t>(model.lm_head.rows) : 0;
  forward->penalty_tokens_max_ = 16384;
  const std::pair<Memory*, std::size_t> wanted[] = {
      {&forward->x_, tokens * hidden * 4},
      {&forward->y_, tokens * hidden * size},
      {&forward->normed_, tokens * hidden * size},
      {&forward->qkv_, tokens * (q + 2 * kv) * size},
      {&forward->attended_, tokens * q * size},
      {&forward->up_, tokens * inner * (spec.mlp == model::MlpKind::kGated ? 2 : 1) * size},
      {&forward->activated_, tokens * inner * size},
      {&forward->embedded_, projects ? tokens * static_cast<std::size_t>(spec.embedding_size) * size : 0},
      {&forward->sampled_x_, seqs * hidden * 4},
      {&forward->sampled_attended_, seqs * q * size},
      {&forward->logits_, seqs * vocab * 4},
      {&forward->own_logits_, seqs * part * 4},
      {&forward->gathered_logits_, seqs * part * static_cast<std::size_t>(model.shard.size) * 4},
      {&forward->partial_out_, limits.max_items * heads * head_dim * 4},
      {&forward->partial_lse_, limits.max_items * heads * 4},
      {&forward->arrived_, limits.max_items * heads * 4},
      {&forward->last_tokens_, std::size_t{max_rows} * 4},
      {&forward->seen_, std::size_t{max_rows} * vocab * 4},
      {&forward->penalty_tokens_, std::size_t{forward->penalty_tokens_max_} * 4},
      {&forward->results_, seqs * sizeof(SampledRow)},
      {&forward->top_tokens_, seqs * kTopMax * 4},
      {&forward->top_logprobs_, seqs * kTopMax * 4},
  };
  for (const auto& [memory, bytes] : wanted) {
    Result<Memory> allocated = Memory::device(bytes, "one step's activations (--max-num-batched-tokens, --max-num-seqs)");
    if (!allocated) return allocated.error();
    *memory = std::move(*allocated);
    if (Result<void> done = check_cuda(cudaMemset(memory->data(), 0, memory->bytes()), "clearing activations"); !done)
      return done.error();
  }
  return forward;
}

std::size_t Forward::bytes() const noexcept {
  std::size_t sum = 0;
  for (const Memory* memory : {&x_, &y_, &normed_, &qkv_, &attended_, &up_, &activated_, &embedded_, &logits_,
                               &sampled_x_, &sampled_attended_, &partial_out_, &partial_lse_, &arrived_, &last_tokens_, &seen_})
    sum += memory->bytes();
  return sum;
}

Result<void> Forward::status() const {
  if (Result<void> done = matmul_->status(); !done) return done;
  if (collective_ != nullptr)
    if (Result<void> done = collective_->status(); !done) return done;
  return check_cuda(cudaPeekAtLastError(), "kernel launch");
}

void Forward::multiply(const Step& s, const DeviceMatrix& w, const Memory& x, int tokens, const Memory& y, bool wide) {
  if (s.tune) {
    std::vector<DeviceMatrix> alike;
    for (const DeviceLayer& layer : model_.layers) {
      for (const DeviceMatrix* other : {&layer.qkv, &layer.o, &layer.up, &layer.down}) {
        if (other->rows == w.rows && other->cols == w.cols && (other->bias == nullptr) == (w.bias == nullptr) &&
            other->packed == w.packed && other->panels.type == w.panels.type && other->gated() == w.gated())
          alike.push_back(*other);
      }
    }
    if (alike.empty()) alike.push_back(w);
    matmul_->tune(alike, x.data(), tokens, y.data(), wide, s.stream);
  }
  matmul_->multiply(w, x.data(), tokens, y.data(), wide, s.stream);
}

void Forward::embed(const Step& s) {
  const model::ModelSpec& spec = model_.spec;
  const bool projects = model_.project_in.weight != nullptr;
  EmbedParams p;
  p.element = model_.element;
  p.table = model_.token_embedding.weight;
  p.packed = model_.token_embedding.packed;
  p.panels = model_.token_embedding.panels;
  p.tokens = s.in.tokens;
  p.from_row = s.in.from_row;
  p.positions = s.in.positions;
  p.last_tokens = last_tokens_.as<std::int32_t>();
  p.rows = static_cast<int>(s.shape.rows);
  p.cols = spec.embedding_size;
  p.position_offset = spec.position_offset;
  p.position_table = projects ? nullptr : model_.position_embedding;
  p.x = x_.as<float>();
  p.out = projects ? embedded_.data() : nullptr;
  launch_embed(p, s.stream);
  if (projects) multiply(s, model_.project_in, embedded_, padded(s.shape.rows), y_);

  NormParams n;
  n.element = model_.element;
  n.kind = spec.norm;
  n.eps = spec.norm_eps;
  n.x = x_.as<float>();
  if (projects) {
    n.replace_x = true;
    n.y = y_.data();
    n.position_table = model_.position_embedding;
    n.positions = s.in.positions;
    n.position_offset = spec.position_offset;
  }
  if (spec.norm_place == model::NormPlace::kPre) {
    n.weight = model_.layers[0].attn_norm.weight;
    n.bias = model_.layers[0].attn_norm.bias;
  }
  n.out = normed_.data();
  n.rows = static_cast<int>(s.shape.rows);
  n.cols = spec.hidden_size;
  launch_norm(n, s.stream);
}

void Forward::attend(const Step& s, std::size_t layer) {
  const model::ModelSpec& spec = model_.spec;
  const DeviceLayer& weights = model_.layers[layer];
  RotaryParams r;
  r.element = model_.element;
  r.qkv = qkv_.data();
  r.positions = s.in.positions;
  r.slots = s.in.slots;
  r.inv_freq = model_.inv_freq;
  r.half = spec.rope.rotary_dim / 2;
  r.interleaved = spec.rope.interleaved;
  r.q_norm = weights.q_norm;
  r.k_norm = weights.k_norm;
  r.eps = spec.norm_eps;
  r.pool = s.pool.data;
  r.block_elements = s.pool.block_elements;
  r.layer_offset = static_cast<std::int64_t>(layer) * s.pool.layer_elements;
  r.block_size = static_cast<int>(geometry_.block_size);
  r.rows = static_cast<int>(s.shape.rows);
  r.heads = spec.num_heads;
  r.kv_heads = spec.num_kv_heads;
  r.head_dim = spec.head_dim;
  const bool sparse = s.shape.sparse.sequences > 0;
  if (sparse) {
    const SparseSlots slots = s.pool.sparse->slots(s.in, s.shape.sparse);
    r.places = slots.places + layer * static_cast<std::size_t>(slots.max_sequences) * static_cast<std::size_t>(r.kv_heads);
  }
  launch_rotary(r, s.stream);

  AttentionParams a;
  a.element = model_.element;
  a.qkv = qkv_.data();
  a.out = attended_.data();
  a.pool = s.pool.data;
  a.block_elements = r.block_elements;
  a.layer_offset = r.layer_offset;
  a.pool_blocks = s.pool.num_blocks;
  a.block_size = r.block_size;
  a.block_table = s.in.block_table;
  a.heads = r.heads;
  a.kv_heads = r.kv_heads;
  a.head_dim = r.head_dim;
  a.window = spec.sliding_window;
  a.scale = spec.attention_scale;
  a.items = s.in.items;
  a.num_items = s.in.num_items;
  a.max_items = static_cast<int>(s.shape.decode_items);
  a.even_blocks = static_cast<int>((s.shape.likely_items * geometry_.kv_heads + geometry_.multiprocessors - 1) /
                                   geometry_.multiprocessors);
  a.partial_out = partial_out_.as<float>();
  a.partial_lse = partial_lse_.as<float>();
  a.arrived = arrived_.as<std::int32_t>();
  a.tiles = s.in.tiles;
  a.num_tiles = static_cast<int>(s.shape.tiles);
  a.positions = s.in.positions;
  a.tables = s.in.tables;
  a.rows = static_cast<int>(s.shape.rows);
  if (sparse) return attend_sparse(s, a, layer);
  if (s.shape.tiles > 0) launch_prefill_attention(a, s.stream);
  if (s.shape.decode_items > 0) launch_decode_attention(a, s.stream);
  if (s.shape.row_attention) launch_row_attention(a, s.stream);
}

void Forward::attend_sparse(const Step& s, const AttentionParams& exact, std::size_t layer) {
  SparseAttentionParams a;
  static_cast<AttentionParams&>(a) = exact;
  a.slots = s.pool.sparse->slots(s.in, s.shape.sparse);
  a.layer = static_cast<int>(layer);
  if (!s.shape.sparse.scored.empty()) a.lse = s.pool.sparse->lse();
  if (s.shape.tiles > 0) launch_prefill_attention(a, s.stream);
  if (s.shape.decode_items > 0) launch_sparse_decode_attention(a, s.stream);
  if (s.shape.row_attention) launch_row_attention(a, s.stream);
  if (s.shape.sparse.rows && !geometry_.fast_decode) launch_sparse_row_attention(a, s.stream);
  launch_sparse_scores(a, s.shape.sparse.scored, s.shape.sparse.scored_span, s.stream);
}

Forward::Rows Forward::gather_sampled(const Step& s) {
  const model::ModelSpec& spec = model_.spec;
  GatherParams g;
  g.row_map = s.in.sample_rows;
  g.rows = static_cast<int>(s.shape.samples);
  g.from = x_.data();
  g.to = sampled_x_.data();
  g.row_bytes = spec.hidden_size * 4;
  launch_gather(g, s.stream);
  g.from = attended_.data();
  g.to = sampled_attended_.data();
  g.row_bytes = static_cast<int>(static_cast<std::size_t>(spec.q_size()) * bytes_of(model_.element));
  launch_gather(g, s.stream);
  return {s.shape.samples, padded(s.shape.samples), &sampled_x_, &sampled_attended_};
}

void Forward::close(const Step& s, const Rows& rows, const DeviceNorm& own, const DeviceNorm* next, bool only_sampled) {
  const model::ModelSpec& spec = model_.spec;
  NormParams n;
  n.element = model_.element;
  n.kind = spec.norm;
  n.post = spec.norm_place == model::NormPlace::kPost;
  n.eps = spec.norm_eps;
  n.x = rows.x->as<float>();
  n.y = y_.data();
  const DeviceNorm& norm = n.post ? own : *next;
  n.weight = norm.weight;
  n.bias = norm.bias;
  n.out = normed_.data();
  n.row_map = only_sampled ? s.in.sample_rows : nullptr;
  n.rows = static_cast<int>(only_sampled ? s.shape.samples : rows.count);
  n.cols = spec.hidden_size;
  launch_norm(n, s.stream);
}

void Forward::widen(const Step& s, const DeviceLayer& layer, const Rows& rows) {
  const model::ModelSpec& spec = model_.spec;
  const bool gated = spec.mlp == model::MlpKind::kGated;
  if (gated && !s.tune && matmul_->fuses(layer.up, rows.padded)) {
    matmul_->multiply_gated(layer.up, normed_.data(), rows.padded, spec.activation, activated_.data(), s.stream);
    return;
  }
  multiply(s, layer.up, normed_, rows.padded, up_);
  ActivationParams a;
  a.element = model_.element;
  a.activation = spec.activation;
  a.gated = gated;
  a.up = up_.data();
  a.out = activated_.data();
  a.rows = static_cast<int>(rows.count);
  a.cols = spec.intermediate_size;
  launch_activation(a, s.stream);
}

void Forward::add_ranks(const Step& s, int rows) {
  if (collective_ == nullptr) return;
  collective_->all_reduce(y_.data(), static_cast<std::size_t>(rows) * static_cast<std::size_t>(model_.spec.hidden_size),
                          model_.element, s.stream);
}

void Forward::sample(const Step& s) {
  const int rows = padded(s.shape.samples);
  const Memory* input = &normed_;
  if (model_.project_out.weight != nullptr) {
    multiply(s, model_.project_out, normed_, rows, embedded_);
    input = &embedded_;
  }
  const int samples = static_cast<int>(s.shape.samples), vocab = model_.spec.vocab_size;
  if (collective_ == nullptr) {
    multiply(s, model_.lm_head, *input, rows, logits_, true);
  } else {
    multiply(s, model_.lm_head, *input, rows, own_logits_, true);
    const int part = model_.lm_head.rows;
    collective_->all_gather(own_logits_.as<float>(), gathered_logits_.as<float>(),
                            static_cast<std::size_t>(samples) * static_cast<std::size_t>(part), s.stream);
    launch_join_logits({gathered_logits_.as<float>(), logits_.as<float>(), samples, part, vocab}, s.stream);
  }
  if (model_.lm_head_bias != nullptr)
    launch_add_bias(logits_.as<float>(), model_.lm_head_bias, samples, vocab, s.stream);
  SamplingArgs a;
  a.samples = s.in.samples;
  a.logits = logits_.as<float>();
  a.vocab = vocab;
  a.count = samples;
  a.last_tokens = last_tokens_.as<std::int32_t>();
  a.seen = seen_.as<std::int32_t>();
  a.results = results_.as<SampledRow>();
  a.top_tokens = top_tokens_.as<std::int32_t>();
  a.top_logprobs = top_logprobs_.as<float>();
  launch_sampling(a, s.stream);
}

void Forward::enqueue(const StepShape& shape, const StepInputs& in, const PoolView& pool, bool tune,
                      cudaStream_t stream) {
  const Step s{shape, in, pool, tune, stream};
  Rows rows{shape.rows, padded(shape.rows), &x_, &attended_};
  embed(s);
  for (std::size_t i = 0; i < model_.layers.size(); ++i) {
    const DeviceLayer& layer = model_.layers[i];
    const bool last = i + 1 == model_.layers.size();
    multiply(s, layer.qkv, normed_, rows.padded, qkv_);
    attend(s, i);
    if (last && shape.samples == 0) return;
    if (last && shape.samples < shape.rows) rows = gather_sampled(s);
    multiply(s, layer.o, *rows.attended, rows.padded, y_);
    add_ranks(s, rows.padded);
    close(s, rows, layer.attn_norm, &layer.mlp_norm, false);
    widen(s, layer, rows);
    multiply(s, layer.down, activated_, rows.padded, y_);
    add_ranks(s, rows.padded);
    close(s, rows, layer.mlp_norm, last ? &model_.final_norm : &model_.layers[i + 1].attn_norm,
          last && rows.x == &x_);
  }
  sample(s);
}

void Forward::tune(std::uint32_t tokens_max, cudaStream_t stream) {
  if (model_.element == Element::kF32) return;
  const auto measure = [&](std::uint32_t tokens) {
    const StepShape shape;
    const StepInputs in;
    const PoolView pool;
    const Step s{shape, in, pool, true, stream};
    const int rows = padded(tokens);
    const DeviceLayer& layer = model_.layers.front();
    multiply(s, layer.qkv, normed_, rows, qkv_);
    multiply(s, layer.o, attended_, rows, y_);
    multiply(s, layer.up, normed_, rows, up_);
    multiply(s, layer.down, activated_, rows, y_);
  };
  for (std::uint32_t tokens = 1; tokens <= std::min(tokens_max, kShortRows);
       tokens = static_cast<std::uint32_t>(padded(tokens + 1)))
    measure(tokens);
  measure(tokens_max);
}

void Forward::reset_penalties(std::uint32_t row, const std::vector<TokenId>& prompt,
                              const std::vector<TokenId>& output, cudaStream_t stream) {
  const int vocab = model_.spec.vocab_size;
  std::int32_t* seen = seen_.as<std::int32_t>() + static_cast<std::size_t>(row) * static_cast<std::size_t>(vocab);
  (void)cudaMemsetAsync(seen, 0, static_cast<std::size_t>(vocab) * 4, stream);
  auto* staged = penalty_tokens_.as<std::int32_t>();
  for (const bool is_prompt : {true, false}) {
    const std::vector<TokenId>& tokens = is_prompt ? prompt : output;
    for (std::size_t at = 0; at < tokens.size(); at += penalty_tokens_max_) {
      const std::size_t count = std::min<std::size_t>(penalty_tokens_max_, tokens.size() - at);
      (void)cudaMemcpyAsync(staged, tokens.data() + at, count * 4, cudaMemcpyHostToDevice, stream);
      launch_count_seen(seen, staged, static_cast<int>(count), is_prompt, stream);
    }
  }
}

}  // namespace spillway::gpu::cuda
