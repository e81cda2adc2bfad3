// SPDX-License-Identifier: Apache-2.0
#include "model/families.hpp"

#include <array>
#include <cmath>

#include "model/gguf.hpp"
#include "model/gguf_config.hpp"
#include "model/hf_config.hpp"
#include "model/json.hpp"
#include "model/quote.hpp"

namespace spillway::model {
namespace {

using L = LayerWeights;
using W = Weights;

constexpr TensorRule layer(std::string_view name, TensorView L::*member, Dim rows, Dim cols = Dim::kOne,
                           Need need = Need::kAlways) {
  return {Scope::kLayer, name, member, nullptr, need, rows, cols};
}

constexpr TensorRule global(std::string_view name, TensorView W::*member, Dim rows, Dim cols = Dim::kOne,
                            Need need = Need::kAlways) {
  return {Scope::kModel, name, nullptr, member, need, rows, cols};
}

constexpr TensorRule root(std::string_view name, TensorView W::*member, Dim rows, Dim cols, Need need) {
  return {Scope::kRoot, name, nullptr, member, need, rows, cols};
}

constexpr auto kOne = Dim::kOne;
constexpr auto kHidden = Dim::kHidden;
constexpr auto kInner = Dim::kIntermediate;

constexpr std::array kLlamaHfRules = {
    global("embed_tokens.weight", &W::token_embedding, Dim::kVocab, kHidden),
    global("norm.weight", &W::final_norm, kHidden),
    root("lm_head.weight", &W::lm_head, Dim::kVocab, kHidden, Need::kUntied),
    layer("input_layernorm.weight", &L::attn_norm, kHidden),
    layer("self_attn.q_proj.weight", &L::q, Dim::kQuery, kHidden),
    layer("self_attn.k_proj.weight", &L::k, Dim::kKeyValue, kHidden),
    layer("self_attn.v_proj.weight", &L::v, Dim::kKeyValue, kHidden),
    layer("self_attn.o_proj.weight", &L::o, kHidden, Dim::kQuery),
    layer("self_attn.q_proj.bias", &L::q_bias, Dim::kQuery, kOne, Need::kQkvBias),
    layer("self_attn.k_proj.bias", &L::k_bias, Dim::kKeyValue, kOne, Need::kQkvBias),
    layer("self_attn.v_proj.bias", &L::v_bias, Dim::kKeyValue, kOne, Need::kQkvBias),
    layer("self_attn.o_proj.bias", &L::o_bias, kHidden, kOne, Need::kOBias),
    layer("post_attention_layernorm.weight", &L::mlp_norm, kHidden),
    layer("mlp.gate_proj.weight", &L::gate, kInner, kHidden),
    layer("mlp.up_proj.weight", &L::up, kInner, kHidden),
    layer("mlp.down_proj.weight", &L::down, kHidden, kInner),
    layer("mlp.gate_proj.bias", &L::gate_bias, kInner, kOne, Need::kMlpBias),
    layer("mlp.up_proj.bias", &L::up_bias, kInner, kOne, Need::kMlpBias),
    layer("mlp.down_proj.bias", &L::down_bias, kHidden, kOne, Need::kMlpBias),
};

constexpr std::array kOptHfRules = {
    global("embed_tokens.weight", &W::token_embedding, Dim::kVocab, Dim::kEmbedding),
    global("embed_positions.weight", &W::position_embedding, Dim::kPositions, kHidden),
    global("project_in.weight", &W::project_in, kHidden, Dim::kEmbedding, Need::kProjection),
    global("project_out.weight", &W::project_out, Dim::kEmbedding, kHidden, Need::kProjection),
    global("final_layer_norm.weight", &W::final_norm, kHidden, kOne, Need::kFinalNorm),
    global("final_layer_norm.bias", &W::final_norm_bias, kHidden, kOne, Need::kFinalNorm),
    root("lm_head.weight", &W::lm_head, Dim::kVocab, Dim::kEmbedding, Need::kUntied),
    layer("self_attn_layer_norm.weight", &L::attn_norm, kHidden),
    layer("self_attn_layer_norm.bias", &L::attn_norm_bias, kHidden),
    layer("self_attn.q_proj.weight", &L::q, Dim::kQuery, kHidden),
    layer("self_attn.k_proj.weight", &L::k, Dim::kKeyValue, kHidden),
    layer("self_attn.v_proj.weight", &L::v, Dim::kKeyValue, kHidden),
    layer("self_attn.out_proj.weight", &L::o, kHidden, Dim::kQuery),
    layer("self_attn.q_proj.bias", &L::q_bias, Dim::kQuery, kOne, Need::kQkvBias),
    layer("self_attn.k_proj.bias", &L::k_bias, Dim::kKeyValue, kOne, Need::kQkvBias),
    layer("self_attn.v_proj.bias", &L::v_bias, Dim::kKeyValue, kOne, Need::kQkvBias),
    layer("self_attn.out_proj.bias", &L::o_bias, kHidden, kOne, Need::kOBias),
    layer("final_layer_norm.weight", &L::mlp_norm, kHidden),
    layer("final_layer_norm.bias", &L::mlp_norm_bias, kHidden),
    layer("fc1.weight", &L::up, kInner, kHidden),
    layer("fc2.weight", &L::down, kHidden, kInner),
    layer("fc1.bias", &L::up_bias, kInner, kOne, Need::kMlpBias),
    layer("fc2.bias", &L::down_bias, kHidden, kOne, Need::kMlpBias),
};

constexpr std::array kLlamaGgufRules = {
    global("token_embd.weight", &W::token_embedding, Dim::kVocab, kHidden),
    global("output_norm.weight", &W::final_norm, kHidden),
    root("output.weight", &W::lm_head, Dim::kVocab, kHidden, Need::kUntied),
    layer("attn_norm.weight", &L::attn_norm, kHidden),
    layer("attn_q.weight", &L::q, Dim::kQuery, kHidden),
    layer("attn_k.weight", &L::k, Dim::kKeyValue, kHidden),
    layer("attn_v.weight", &L::v, Dim::kKeyValue, kHidden),
    layer("attn_output.weight", &L::o, kHidden, Dim::kQuery),
    layer("attn_q.bias", &L::q_bias, Dim::kQuery, kOne, Need::kQkvBias),
    layer("attn_k.bias", &L::k_bias, Dim::kKeyValue, kOne, Need::kQkvBias),
    layer("attn_v.bias", &L::v_bias, Dim::kKeyValue, kOne, Need::kQkvBias),
    layer("attn_output.bias", &L::o_bias, kHidden, kOne, Need::kOBias),
    layer("ffn_norm.weight", &L::mlp_norm, kHidden),
    layer("ffn_gate.weight", &L::gate, kInner, kHidden),
    layer("ffn_up.weight", &L::up, kInner, kHidden),
    layer("ffn_down.weight", &L::down, kHidden, kInner),
    layer("ffn_gate.bias", &L::gate_bias, kInner, kOne, Need::kMlpBias),
    layer("ffn_up.bias", &L::up_bias, kInner, kOne, Need::kMlpBias),
    layer("ffn_down.bias", &L::down_bias, kHidden, kOne, Need::kMlpBias),
};

// A model saved without its language-model head has no "model." before its names; the first OPT files had no
// "model." before "decoder.".
constexpr std::array<std::string_view, 2> kLlamaPrefixes = {"model.", ""};
constexpr std::array<std::string_view, 2> kOptPrefixes = {"model.decoder.", "decoder."};
constexpr std::array<std::string_view, 1> kNoPrefix = {""};

constexpr std::array<std::string_view, 1> kLlamaHfIgnored = {"rotary_emb.inv_freq"};
constexpr std::array<std::string_view, 1> kOptHfIgnored = {"decoder.version"};
constexpr std::array<std::string_view, 1> kLlamaGgufIgnored = {"rope_freqs.weight"};  // folded into inv_freq

constexpr TensorScheme kLlamaHf = {kLlamaPrefixes, "embed_tokens.weight", "layers.", kLlamaHfRules,
                                   kLlamaHfIgnored};
constexpr TensorScheme kOptHf = {kOptPrefixes, "embed_tokens.weight", "layers.", kOptHfRules, kOptHfIgnored};
constexpr TensorScheme kLlamaGguf = {kNoPrefix, "token_embd.weight", "blk.", kLlamaGgufRules,
                                     kLlamaGgufIgnored};

// Llama 1, 2, 3, SmolLM2 and Vicuna all call themselves llama; in GGUF Mistral does too.
constexpr std::array kHfFamilies = {
    HfFamily{.model_type = "llama",
             .architecture = "LlamaForCausalLM",
             .tensors = &kLlamaHf,
             .describe = describe_hf_llama,
             .bias_options = true},
    HfFamily{.model_type = "mistral",
             .architecture = "MistralForCausalLM",
             .tensors = &kLlamaHf,
             .describe = describe_hf_llama,
             .sliding_window = true},
    HfFamily{.model_type = "opt",
             .architecture = "OPTForCausalLM",
             .tensors = &kOptHf,
             .describe = describe_hf_opt},
};

constexpr std::array kGgufFamilies = {
    GgufFamily{.architecture = "llama",
               .tensors = &kLlamaGguf,
               .describe = describe_gguf_llama,
               .interleaved_rope = true},
};

std::string list_hf() {
  std::string out;
  for (const HfFamily& family : kHfFamilies)
    out += (out.empty() ? "" : ", ") + std::string(family.model_type);
  return out;
}

std::string list_gguf() {
  std::string out;
  for (const GgufFamily& family : kGgufFamilies)
    out += (out.empty() ? "" : ", ") + std::string(family.architecture);
  return out;
}

}  // namespace

Result<const HfFamily*> find_hf_family(const JsonField& config) {
  const JsonField type = config["model_type"];
  if (type.present()) {
    auto word = type.string();
    if (!word) return std::move(word).error();
    for (const HfFamily& family : kHfFamilies) {
      if (*word == family.model_type) return &family;
    }
    return type.error("is " + quote(*word) + "; supported are " + list_hf(), Errc::kUnsupported);
  }
  const JsonField first = config["architectures"][0];
  if (!first.present()) return type.error("is missing; supported are " + list_hf());
  auto word = first.string();
  if (!word) return std::move(word).error();
  for (const HfFamily& family : kHfFamilies) {
    if (*word == family.architecture) return &family;
  }
  return first.error("is " + quote(*word) + "; supported model types are " + list_hf(), Errc::kUnsupported);
}

Result<const GgufFamily*> find_gguf_family(const GgufFile& file) {
  auto word = file.string("general.architecture");
  if (!word) return Error{Errc::kBadFile, word.error().message};
  for (const GgufFamily& family : kGgufFamilies) {
    if (*word == family.architecture) return &family;
  }
  return Error{Errc::kUnsupported, file.name() + ": metadata key 'general.architecture' is " + quote(*word) +
                                       "; supported are " + list_gguf()};
}

std::uint64_t size_of(Dim dim, const ModelSpec& spec) noexcept {
  switch (dim) {
    case Dim::kOne: return 1;
    case Dim::kHidden: return static_cast<std::uint64_t>(spec.hidden_size);
    case Dim::kEmbedding: return static_cast<std::uint64_t>(spec.embedding_size);
    case Dim::kIntermediate: return static_cast<std::uint64_t>(spec.intermediate_size);
    case Dim::kQuery: return static_cast<std::uint64_t>(spec.q_size());
    case Dim::kKeyValue: return static_cast<std::uint64_t>(spec.kv_size());
    case Dim::kHeadDim: return static_cast<std::uint64_t>(spec.head_dim);
    case Dim::kVocab: return static_cast<std::uint64_t>(spec.vocab_size);
    case Dim::kPositions: return static_cast<std::uint64_t>(spec.max_position + spec.position_offset);
  }
  return 0;
}

bool holds(Need need, const Description& model) noexcept {
  switch (need) {
    case Need::kAlways: return true;
    case Need::kQkvBias: return model.options.qkv_bias;
    case Need::kOBias: return model.options.o_bias;
    case Need::kMlpBias: return model.options.mlp_bias;
    case Need::kQkNorm: return model.options.qk_norm;
    case Need::kFinalNorm: return model.options.final_norm;
    case Need::kProjection: return model.spec.embedding_size != model.spec.hidden_size;
    case Need::kUntied: return !model.spec.tied_embeddings;
  }
  return false;
}

Result<void> check_relations(const ModelSpec& spec, std::string_view place) {
  const auto bad = [&](const std::string& what) {
    return Error{Errc::kBadFile, std::string(place) + ": " + what};
  };
  if (spec.num_heads % spec.num_kv_heads != 0) {
    return bad(std::to_string(spec.num_heads) + " attention heads are no multiple of " +
               std::to_string(spec.num_kv_heads) + " key-value heads");
  }
  if (spec.position == PositionKind::kRotary) {
    if (spec.rope.rotary_dim <= 0 || spec.rope.rotary_dim % 2 != 0 || spec.rope.rotary_dim > spec.head_dim) {
      return bad("rotary dimension " + std::to_string(spec.rope.rotary_dim) +
                 " must be even and at most the head dimension " + std::to_string(spec.head_dim));
    }
    for (const float frequency : spec.rope.inv_freq) {
      if (!std::isfinite(frequency) || frequency < 0) return bad("the rotary frequencies are not finite");
    }
  }
  return {};
}

}  // namespace spillway::model
