// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/forward.hpp"

#include <algorithm>
#include <cmath>
#include <string>

namespace spillway::gpu::host {
namespace {

std::size_t max_rows_for(bool used, std::size_t rows) { return used ? rows : 0; }

/// Rows claimed at a time: enough that the claim is cheap, few enough that the last claim is short.
constexpr std::uint32_t kRowsPerClaim = 4;

}  // namespace

Forward::Input::Input(std::size_t max_rows, std::size_t columns, bool quantizes, const MatmulKernels& kernels)
    : rows(max_rows * columns), quantized(kernels, quantizes ? max_rows : 0, columns), cols(columns) {}

namespace {

bool any_quantized(const HostModel& model, PackedProduct HostLayer::*product) {
  return std::any_of(model.layers.begin(), model.layers.end(),
                     [product](const HostLayer& layer) { return (layer.*product).needs_quantized(); });
}

bool is_quantized(const HostModel& model) {
  return any_quantized(model, &HostLayer::qkv) || any_quantized(model, &HostLayer::o) ||
         any_quantized(model, &HostLayer::up) || any_quantized(model, &HostLayer::down);
}

std::size_t largest_panel(const HostModel& model, const MatmulKernels& kernels) {
  std::size_t bytes = 0;
  for (const PackedProduct* product : {&model.lm_head, &model.project_in, &model.project_out})
    bytes = std::max(bytes, product->panel_bytes(kernels));
  for (const HostLayer& layer : model.layers) {
    for (const PackedProduct* product : {&layer.qkv, &layer.o, &layer.up, &layer.down})
      bytes = std::max(bytes, product->panel_bytes(kernels));
  }
  return bytes;
}

}  // namespace

Forward::Forward(const HostModel& model, const KvLayout& layout, CpuTarget target,
                 const ForwardLimits& limits)
    : model_(model),
      layout_(layout),
      matmul_kernels_(matmul_kernels(target, limits.mode)),
      prompt_attention_(is_quantized(model) && can_attend_rounded(layout) ? prompt_kernels(target, limits.mode) : nullptr),
      attention_kernels_(attention_kernels(target)),
      row_kernels_(row_kernels(target)),
      hidden_(static_cast<std::size_t>(model.spec.hidden_size)),
      q_size_(static_cast<std::size_t>(model.spec.q_size())),
      kv_size_(static_cast<std::size_t>(model.spec.kv_size())),
      inner_(static_cast<std::size_t>(model.spec.intermediate_size)),
      vocab_(static_cast<std::size_t>(model.spec.vocab_size)),
      threads_(limits.threads),
      panels_(limits.threads, largest_panel(model, matmul_kernels_)),
      x_(limits.max_tokens * hidden_),
      y_(all_layers([this](const HostLayer& l) { return adds_at_once(l.o) && adds_at_once(l.down); })
             ? 0
             : limits.max_tokens * hidden_),
      qkv_(limits.max_tokens * (q_size_ + 2 * kv_size_)),
      up_(all_layers([this](const HostLayer& l) { return gates_at_once(l); })
              ? 0
              : limits.max_tokens * (model.spec.mlp == model::MlpKind::kGated ? 2 * inner_ : inner_)),
      logits_(limits.max_samples * vocab_),
      cosine_(limits.max_tokens * model.spec.rope.inv_freq.size()),
      sine_(cosine_.size()),
      normed_(limits.max_tokens, hidden_,
              any_quantized(model, &HostLayer::qkv) || any_quantized(model, &HostLayer::up) ||
                  model.lm_head.needs_quantized() || model.project_out.needs_quantized(),
              matmul_kernels_),
      attended_(limits.max_tokens, q_size_, any_quantized(model, &HostLayer::o), matmul_kernels_),
      activated_(limits.max_tokens, inner_, any_quantized(model, &HostLayer::down), matmul_kernels_),
      embedded_(max_rows_for(!model.project_in.empty() || !model.project_out.empty(), limits.max_tokens),
                static_cast<std::size_t>(model.spec.embedding_size),
                model.project_in.needs_quantized() || model.lm_head.needs_quantized(), matmul_kernels_) {
  const std::uint32_t group = static_cast<std::uint32_t>(model.spec.num_heads) / layout.num_kv_heads;
  if (layout.slots_offset > 0) {
    slots_ =
        SparseSlots(layout, attention_kernels_, group, static_cast<std::uint32_t>(model.spec.sliding_window),
                    threads_, limits.max_samples, limits.max_model_len);
    sink_cosine_.resize(cosine_.size());
    sink_sine_.resize(cosine_.size());
    sink_q_.resize(limits.max_tokens * q_size_);
  }
  scratch_.reserve(threads_);
  for (std::uint32_t i = 0; i < threads_; ++i) scratch_.emplace_back(layout, group);
  tokens_.reserve(limits.max_tokens);
  sampled_.reserve(limits.max_samples);
}

std::size_t Forward::activation_bytes() const noexcept {
  const std::size_t floats = x_.size() + y_.size() + qkv_.size() + up_.size() + logits_.size() +
                             cosine_.size() + sine_.size() + 2 * sink_cosine_.size() + sink_q_.size() +
                             normed_.rows.size() + attended_.rows.size() + activated_.rows.size() +
                             embedded_.rows.size();
  return floats * sizeof(float) + normed_.quantized.bytes() + attended_.quantized.bytes() +
         activated_.quantized.bytes() + embedded_.quantized.bytes() + panels_.bytes();
}

void Forward::prepare(const StepPlan& plan, std::span<const TokenId> tokens) {
  tokens_.clear();
  sampled_.clear();
  spans_.clear();
  std::vector<AttentionSpan>& spans = spans_;
  tokens_.resize(plan.tokens.size());
  slots_.clear();
  for (std::uint32_t s = 0; s < plan.sequences.size(); ++s) {
    const SequenceStep& sequence = plan.sequences[s];
    const BlockId* blocks = plan.block_table.data() + sequence.block_offset;
    std::uint32_t sparse = SequenceStep::kExact;
    bool takes_slots = false;  // its token goes to other slots in each head
    if (sequence.sparsified()) {
      sparse = slots_.add(plan, s);
      takes_slots = !plan.sparse[sequence.sparse].in_prompt(sequence.first_position);
    }
    for (std::uint32_t i = 0; i < sequence.token_count; ++i) {
      const std::uint32_t position = sequence.first_position + i, slot = takes_slots ? 0 : position;
      TokenPlace& place = tokens_[sequence.token_offset + i];
      place = {tokens[sequence.token_offset + i], position, blocks[slot / layout_.block_size],
               slot % layout_.block_size, sparse};
    }
    if (sequence.samples) sampled_.push_back({s, sequence.token_offset + sequence.token_count - 1});
    if (takes_slots) continue;
    const std::uint32_t rounded = prompt_attention_ == nullptr ? 0 : sequence.prompt_count;
    if (rounded > 0) {
      spans.push_back({sequence.first_position, rounded, sequence.token_offset, sequence.token_offset, blocks,
                       prompt_attention_});
    }
    if (rounded < sequence.token_count) {
      spans.push_back({sequence.first_position + rounded, sequence.token_count - rounded,
                       sequence.token_offset + rounded, sequence.token_offset + rounded, blocks});
    }
  }
  AttentionGeometry geometry;
  geometry.num_heads = static_cast<std::uint32_t>(model_.spec.num_heads);
  geometry.window = static_cast<std::uint32_t>(model_.spec.sliding_window);
  geometry.threads = threads_;
  attention_plan_.build(spans, layout_, geometry);
  // The last layer's output is read only where a token is drawn.
  spans.clear();
  slots_.place_last_rows(plan);
  for (std::uint32_t i = 0; i < sampled_.size(); ++i) {
    const SequenceStep& sequence = plan.sequences[sampled_[i].sequence];
    if (slots_.attends(tokens_[sampled_[i].token_row].sparse)) continue;
    const BlockId* blocks = plan.block_table.data() + sequence.block_offset;
    spans.push_back(
        {sequence.first_position + sequence.token_count - 1, 1, sampled_[i].token_row, i, blocks});
  }
  last_attention_plan_.build(spans, layout_, geometry);
}

template <class F>
void Forward::for_rows(TeamMember& member, std::uint32_t rows, F&& f) {
  const std::uint32_t claims = (rows + kRowsPerClaim - 1) / kRowsPerClaim;
  if (claims <= member.size()) {  // few rows: one each
    const auto [begin, end] = member.share(rows);
    for (std::uint32_t row = begin; row < end; ++row) f(row);
    return;
  }
  member.for_chunks(claims, [&](std::uint32_t claim) {
    const std::uint32_t end = std::min(rows, (claim + 1) * kRowsPerClaim);
    for (std::uint32_t row = claim * kRowsPerClaim; row < end; ++row) f(row);
  });
}

void Forward::normalize(const HostNorm& norm, const float* x, float* out) const {
  const model::ModelSpec& spec = model_.spec;
  if (norm.weight.empty()) {
    if (x != out) std::copy_n(x, hidden_, out);
  } else if (spec.norm == model::NormKind::kRms) {
    row_kernels_.rms_norm(x, norm.weight.data(), spec.norm_eps, out, hidden_);
  } else {
    row_kernels_.layer_norm(x, norm.weight.data(), norm.bias.empty() ? nullptr : norm.bias.data(),
                            spec.norm_eps, out, hidden_);
  }
}

void Forward::finish_input(Input& input, const PackedProduct& product, std::uint32_t row) {
  if (product.needs_quantized()) input.quantized.set_row(matmul_kernels_, input.row(row), row);
}

void Forward::multiply(TeamMember& member, const PackedProduct& product, const Input& input,
                       std::uint32_t rows, float* y, std::size_t y_stride, Finish finish) {
  Activations activations;
  activations.quantized = &input.quantized;
  activations.panel = panels_.row(member.index());
  activations.x = input.rows.data();
  activations.x_stride = input.cols;
  matmul(member, matmul_kernels_, product, activations, rows, y, y_stride, finish);
}

void Forward::multiply_into_x(TeamMember& member, const PackedProduct& product, const Input& input,
                              std::uint32_t rows) {
  const bool at_once = adds_at_once(product);
  multiply(member, product, input, rows, at_once ? x_.data() : y_.data(), hidden_,
           at_once ? Finish::kAdd : Finish::kStore);
}

void Forward::embed(TeamMember& member, PhaseTimer& timer) {
  const model::ModelSpec& spec = model_.spec;
  const auto rows = static_cast<std::uint32_t>(tokens_.size());
  const bool projects = !model_.project_in.empty();
  if (projects) {
    for_rows(member, rows, [&](std::uint32_t row) {
      model_.embedding().embed_row(static_cast<std::size_t>(tokens_[row].token), embedded_.row(row));
      finish_input(embedded_, model_.project_in, row);
    });
    member.barrier();
    multiply(member, model_.project_in, embedded_, rows, x_.data(), hidden_);
    member.barrier();
  }
  const bool pre = spec.norm_place == model::NormPlace::kPre;
  const std::size_t half = spec.rope.inv_freq.size();
  for_rows(member, rows, [&](std::uint32_t row) {
    const TokenPlace& place = tokens_[row];
    float* x = x_.data() + row * hidden_;
    if (!projects) model_.embedding().embed_row(static_cast<std::size_t>(place.token), x);
    if (spec.position == model::PositionKind::kLearned) {
      // normed_ serves as the place for the position's row; it is filled right after.
      const std::size_t position = place.position + static_cast<std::size_t>(spec.position_offset);
      model_.position_embedding.embed_row(position, normed_.row(row));
      row_kernels_.add(x, normed_.row(row), hidden_);
    } else {
      const auto turn = [&](std::uint32_t position, float* cosine, float* sine) {
        for (std::size_t i = 0; i < half; ++i) {
          const float angle = static_cast<float>(position) * spec.rope.inv_freq[i];
          cosine[i] = std::cos(angle);
          sine[i] = std::sin(angle);
        }
      };
      turn(place.position, cosine_.data() + row * half, sine_.data() + row * half);
      if (slots_.rotates(place.sparse)) {
        turn(slots_.cache_position(place.sparse), sink_cosine_.data() + row * half,
             sink_sine_.data() + row * half);
      }
    }
    normalize(pre ? model_.layers[0].attn_norm : HostNorm{}, x, normed_.row(row));
    finish_input(normed_, model_.layers[0].qkv, row);
  });
  timer.mark(member, Phase::kRows);
}

void Forward::write_kv(TeamMember& member, std::uint32_t layer, std::byte* pool) {
  const model::ModelSpec& spec = model_.spec;
  const HostLayer& weights = model_.layers[layer];
  const auto head_dim = static_cast<std::size_t>(spec.head_dim);
  const std::size_t half = spec.rope.inv_freq.size(), stride = q_size_ + 2 * kv_size_;
  const float q_scale = spec.attention_scale * kLog2E;
  for_rows(member, static_cast<std::uint32_t>(tokens_.size()), [&](std::uint32_t row) {
    const TokenPlace& place = tokens_[row];
    float* q = qkv_.data() + row * stride;
    float* k = q + q_size_;
    const float* v = k + kv_size_;
    const auto turn = [&](float* heads, std::size_t size, const std::vector<float>& norm,
                          const AlignedFloats& cosine, const AlignedFloats& sine) {
      for (float* head = heads; head < heads + size; head += head_dim) {
        if (!norm.empty()) row_kernels_.rms_norm(head, norm.data(), spec.norm_eps, head, head_dim);
        if (half > 0) row_kernels_.rotate(head, cosine.data() + row * half, sine.data() + row * half, half);
      }
    };
    if (slots_.rotates(place.sparse)) {
      float* sink_q = sink_q_.data() + row * q_size_;
      std::copy_n(q, q_size_, sink_q);
      turn(sink_q, q_size_, weights.q_norm, sink_cosine_, sink_sine_);
      row_kernels_.scale(sink_q, q_scale, q_size_);
    }
    turn(q, q_size_, weights.q_norm, cosine_, sine_);
    turn(k, kv_size_, weights.k_norm, cosine_, sine_);
    row_kernels_.scale(q, q_scale, q_size_);
    if (place.sparse != SequenceStep::kExact) {
      for (std::uint32_t h = 0; h < layout_.num_kv_heads; ++h) {
        const SlotPlace at = slots_.take_slot(pool, place.sparse, place.position, layer, h);
        attention_kernels_.write_kv(layout_, at.block + layout_.k_offset(layer, h),
                                    at.block + layout_.v_offset(layer, h), at.lane, k + h * head_dim,
                                    v + h * head_dim);
      }
      return;
    }
    std::byte* block = pool + static_cast<std::size_t>(place.block) * layout_.block_bytes;
    for (std::uint32_t h = 0; h < layout_.num_kv_heads; ++h) {
      attention_kernels_.write_kv(layout_, block + layout_.k_offset(layer, h),
                                  block + layout_.v_offset(layer, h), place.slot, k + h * head_dim,
                                  v + h * head_dim);
    }
  });
}

void Forward::close_block(std::uint32_t row, const PackedProduct& from, const HostNorm& own,
                          const HostNorm* next, const PackedProduct& to) {
  float* x = x_.data() + row * hidden_;
  if (!adds_at_once(from)) row_kernels_.add(x, y_.data() + row * hidden_, hidden_);
  if (model_.spec.norm_place == model::NormPlace::kPost) {
    normalize(own, x, x);
    next = nullptr;
  }
  if (next != nullptr) {
    normalize(*next, x, normed_.row(row));
  } else {
    std::copy_n(x, hidden_, normed_.row(row));
  }
  finish_input(normed_, to, row);
}

void Forward::attention_block(TeamMember& member, std::uint32_t layer, std::byte* pool, PhaseTimer& timer) {
  const HostLayer& weights = model_.layers[layer];
  const bool last = layer + 1 == model_.layers.size();
  const std::size_t stride = q_size_ + 2 * kv_size_;
  const auto all_rows = static_cast<std::uint32_t>(tokens_.size());
  multiply(member, weights.qkv, normed_, all_rows, qkv_.data(), stride);
  member.barrier();
  timer.mark(member, Phase::kMatmul);
  write_kv(member, layer, pool);
  if (last && sampled_.empty() && slots_.empty()) return;
  member.barrier();
  timer.mark(member, Phase::kRows);

  if (last && member.index() == 0) {  // from here on only the rows that sample; rising, so in place
    for (std::size_t i = 0; i < sampled_.size(); ++i) {
      if (sampled_[i].token_row == i) continue;
      std::copy_n(x_.data() + sampled_[i].token_row * hidden_, hidden_, x_.data() + i * hidden_);
    }
  }
  AttentionPlan& plan = last ? last_attention_plan_ : attention_plan_;
  plan.run(member, attention_kernels_, pool, layer, qkv_.data(), stride, attended_.rows.data(), q_size_,
           scratch_[member.index()].view());
  slots_.attend(member, pool, layer, {qkv_.data(), stride, sink_q_.data(), attended_.rows.data(), q_size_},
                scratch_[member.index()].view());
  member.barrier();
  timer.mark(member, Phase::kAttention);
  if (last && sampled_.empty()) return;

  const std::uint32_t rows = last ? num_samples() : all_rows;
  if (weights.o.needs_quantized()) {
    for_rows(member, rows, [&](std::uint32_t row) { finish_input(attended_, weights.o, row); });
    member.barrier();
    timer.mark(member, Phase::kRows);
  }
  multiply_into_x(member, weights.o, attended_, rows);
  member.barrier();
  timer.mark(member, Phase::kMatmul);
  for_rows(member, rows, [&](std::uint32_t row) {
    close_block(row, weights.o, weights.attn_norm, &weights.mlp_norm, weights.up);
  });
  member.barrier();
  timer.mark(member, Phase::kRows);
}

void Forward::mlp_block(TeamMember& member, std::uint32_t layer, std::uint32_t rows, PhaseTimer& timer) {
  const model::ModelSpec& spec = model_.spec;
  const HostLayer& weights = model_.layers[layer];
  const bool last = layer + 1 == model_.layers.size();
  const std::size_t stride = weights.up.rows();
  const bool gated = gates_at_once(weights);
  if (gated) {
    multiply(member, weights.up, normed_, rows, activated_.rows.data(), inner_, Finish::kGate);
  } else {
    multiply(member, weights.up, normed_, rows, up_.data(), stride);
  }
  member.barrier();
  timer.mark(member, Phase::kMatmul);
  for_rows(member, rows, [&](std::uint32_t row) {
    if (!gated) {
      const float* up = up_.data() + row * stride;
      if (spec.mlp == model::MlpKind::kGated) {
        row_kernels_.gated(spec.activation, up, up + inner_, activated_.row(row), inner_);
      } else {
        row_kernels_.activate(spec.activation, up, activated_.row(row), inner_);
      }
    }
    finish_input(activated_, weights.down, row);
  });
  member.barrier();
  timer.mark(member, Phase::kRows);
  multiply_into_x(member, weights.down, activated_, rows);
  member.barrier();
  timer.mark(member, Phase::kMatmul);
  const HostNorm* next = last ? &model_.final_norm : &model_.layers[layer + 1].attn_norm;
  const PackedProduct& product = !last                        ? model_.layers[layer + 1].qkv
                                 : model_.project_out.empty() ? model_.lm_head
                                                              : model_.project_out;
  for_rows(member, rows,
           [&](std::uint32_t row) { close_block(row, weights.down, weights.mlp_norm, next, product); });
  member.barrier();
  timer.mark(member, Phase::kRows);
}

void Forward::head(TeamMember& member, PhaseTimer& timer) {
  const std::uint32_t rows = num_samples();
  const Input* input = &normed_;
  if (!model_.project_out.empty()) {
    multiply(member, model_.project_out, normed_, rows, embedded_.rows.data(), embedded_.cols);
    member.barrier();
    for_rows(member, rows, [&](std::uint32_t row) { finish_input(embedded_, model_.lm_head, row); });
    member.barrier();
    input = &embedded_;
  }
  multiply(member, model_.lm_head, *input, rows, logits_.data(), vocab_);
  member.barrier();
  timer.mark(member, Phase::kLmHead);
}

void Forward::run(TeamMember& member, std::byte* pool, PhaseTimer& timer) {
  timer.start(member);
  embed(member, timer);
  member.barrier();
  for (std::uint32_t layer = 0; layer < model_.layers.size(); ++layer) {
    const bool last = layer + 1 == model_.layers.size();
    attention_block(member, layer, pool, timer);
    if (last && sampled_.empty()) break;
    mlp_block(member, layer, last ? num_samples() : static_cast<std::uint32_t>(tokens_.size()), timer);
  }
  slots_.evict(member, pool);
  if (!sampled_.empty()) head(member, timer);
}

}  // namespace spillway::gpu::host
