// SPDX-License-Identifier: Apache-2.0
#include "model/hf_config.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "model/json.hpp"
#include "model/quote.hpp"

namespace spillway::model {
namespace {

constexpr double kThetaMax = 1e12;

/// Reads fields one after the other and keeps the first error; after one, values are placeholders.
class Fields {
 public:
  explicit Fields(const JsonField& config) : config_(config) {}

  std::int32_t integer(std::string_view key, std::int64_t min, std::int64_t max) {
    return static_cast<std::int32_t>(take(config_[key].integer(min, max), min));
  }
  std::int32_t integer_or(std::string_view key, std::int64_t fallback, std::int64_t min, std::int64_t max) {
    return static_cast<std::int32_t>(take(config_[key].integer_or(fallback, min, max), min));
  }
  float number_or(std::string_view key, double fallback, double min, double max) {
    return static_cast<float>(take(config_[key].number_or(fallback, min, max), fallback));
  }
  bool boolean_or(std::string_view key, bool fallback) {
    return take(config_[key].boolean_or(fallback), fallback);
  }
  Activation activation_or(std::string_view key, std::string_view fallback) {
    const auto word = take(config_[key].string_or(fallback), fallback);
    if (word == "silu" || word == "swish") return Activation::kSilu;
    if (word == "relu") return Activation::kRelu;
    if (word == "gelu") return Activation::kGelu;
    if (word == "gelu_new" || word == "gelu_fast" || word == "gelu_pytorch_tanh")
      return Activation::kGeluTanh;
    refuse(key,
           "is " + quote(word) + "; supported are silu, relu, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh");
    return Activation::kSilu;
  }

  void refuse(std::string_view key, const std::string& what) {
    fail(config_[key].error(what, Errc::kUnsupported));
  }
  void wrong(std::string_view key, const std::string& what) { fail(config_[key].error(what)); }

  template <class T>
  T take(Result<T> result, T placeholder) {
    if (result) return *std::move(result);
    fail(std::move(result).error());
    return placeholder;
  }
  void take(Result<void> result) {
    if (!result) fail(std::move(result).error());
  }

  [[nodiscard]] const JsonField& config() const noexcept { return config_; }
  [[nodiscard]] bool failed() const noexcept { return error_.has_value(); }
  [[nodiscard]] Error error() && { return *std::move(error_); }

 private:
  void fail(Error error) {
    if (!error_) error_ = std::move(error);
  }

  JsonField config_;
  std::optional<Error> error_;
};

/// Options that would change the answer and that this build does not know how to honour.
void refuse_unknown_options(Fields& fields) {
  const JsonField& config = fields.config();
  if (config["quantization_config"].present()) {
    fields.refuse("quantization_config",
                  "is set; quantized Hugging Face weights are not supported, only F32, F16 "
                  "and BF16 (or a GGUF file)");
  }
  for (const std::string_view key : {"num_local_experts", "num_experts", "n_routed_experts"}) {
    const JsonField field = config[key];
    if (field.present() && fields.take(field.number(0, 1e9), 0.0) > 0) {
      fields.refuse(key, "is set; mixture-of-experts models are not supported");
    }
  }
  const JsonField types = config["layer_types"];
  for (std::size_t i = 0; i < types.size(); ++i) {
    const std::string_view word = fields.take(types[i].string(), std::string_view());
    if (!fields.failed() && (word != (types[0].is_string() ? *types[0].string() : word))) {
      fields.refuse("layer_types", "differ between layers; one kind for all layers is supported");
    }
    if (!fields.failed() && word != "full_attention" && word != "sliding_attention") {
      fields.refuse("layer_types",
                    "holds " + quote(word) + "; supported are full_attention, sliding_attention");
    }
  }
}

/// rope_scaling (transformers 4) or rope_parameters (5): one object with the scaling and perhaps theta in it.
RopeScaling read_rope_scaling(Fields& fields, const JsonField& rope) {
  RopeScaling scaling;
  if (!rope.present()) return scaling;
  if (!rope.is_object()) {
    fields.wrong(rope.path(), "is no object");
    return scaling;
  }
  const JsonField type = rope["rope_type"].present() ? rope["rope_type"] : rope["type"];
  const std::string_view word = fields.take(type.string_or("default"), std::string_view("default"));
  if (word == "default") return scaling;
  if (word != "linear" && word != "llama3") {
    if (!fields.failed()) {
      fields.take(Result<void>(
          type.error("is " + quote(word) + "; supported are default, linear, llama3", Errc::kUnsupported)));
    }
    return scaling;
  }
  scaling.factor = fields.take(rope["factor"].number(1e-3, 1e6), 1.0);
  if (word == "linear") {
    scaling.kind = RopeScaling::Kind::kLinear;
    return scaling;
  }
  scaling.kind = RopeScaling::Kind::kLlama3;
  scaling.low_freq_factor = fields.take(rope["low_freq_factor"].number(1e-3, 1e6), 1.0);
  scaling.high_freq_factor = fields.take(rope["high_freq_factor"].number(1e-3, 1e6), 4.0);
  const JsonField inner = rope["original_max_position_embeddings"];
  const JsonField original = inner.present() ? inner : fields.config()["original_max_position_embeddings"];
  scaling.original_max_position =
      static_cast<double>(fields.take(original.integer(1, kPositionsMax), std::int64_t{8192}));
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    fields.wrong(rope.path(), "has a high_freq_factor that is not above its low_freq_factor");
  }
  return scaling;
}

RopeSpec read_rope(Fields& fields, std::int32_t head_dim) {
  const JsonField& config = fields.config();
  const JsonField parameters = config["rope_parameters"];
  const JsonField rope = parameters.present() ? parameters : config["rope_scaling"];
  const JsonField theta = rope["rope_theta"].present() ? rope["rope_theta"] : config["rope_theta"];
  for (const JsonField& partial : {rope["partial_rotary_factor"], config["partial_rotary_factor"]}) {
    if (partial.present() && fields.take(partial.number(0, 1), 1.0) != 1.0) {
      fields.take(Result<void>(
          partial.error("is below 1; partly rotated heads are not supported here", Errc::kUnsupported)));
    }
  }
  const double base = fields.take(theta.number_or(10000.0, 1.0, kThetaMax), 10000.0);
  const RopeScaling scaling = read_rope_scaling(fields, rope);
  RopeSpec spec;
  spec.rotary_dim = head_dim;
  if (head_dim % 2 != 0) {
    fields.wrong("head_dim", "(given, or hidden_size / num_attention_heads) is " + std::to_string(head_dim) +
                                 "; rotary positions want an even number");
    return spec;
  }
  if (!fields.failed()) spec.inv_freq = make_inv_freq(head_dim, base, scaling);
  return spec;
}

/// hidden_size / heads where the config gives no head_dim of its own.
std::int32_t divide_heads(Fields& fields, const ModelSpec& spec) {
  if (spec.hidden_size % spec.num_heads != 0) {
    fields.wrong("hidden_size", "is " + std::to_string(spec.hidden_size) + ", no multiple of the " +
                                    std::to_string(spec.num_heads) + " attention heads");
    return 1;
  }
  const std::int32_t head_dim = spec.hidden_size / spec.num_heads;
  if (head_dim > kHeadDimMax) {
    fields.wrong("hidden_size", "gives heads of " + std::to_string(head_dim) + " dimensions; at most " +
                                    std::to_string(kHeadDimMax) + " are supported");
  }
  return head_dim;
}

}  // namespace

Result<Description> describe_hf_llama(const HfFamily& family, const JsonField& config) {
  Fields fields(config);
  Description out;
  ModelSpec& spec = out.spec;
  spec.vocab_size = fields.integer("vocab_size", 1, kVocabSizeMax);
  spec.hidden_size = fields.integer("hidden_size", 1, kHiddenSizeMax);
  spec.embedding_size = spec.hidden_size;
  spec.intermediate_size = fields.integer("intermediate_size", 1, kIntermediateSizeMax);
  spec.num_layers = fields.integer("num_hidden_layers", 1, kLayersMax);
  spec.num_heads = fields.integer("num_attention_heads", 1, kHeadsMax);
  spec.num_kv_heads = fields.integer_or("num_key_value_heads", spec.num_heads, 1, kHeadsMax);
  spec.head_dim =
      config["head_dim"].present() ? fields.integer("head_dim", 1, kHeadDimMax) : divide_heads(fields, spec);
  spec.max_position = fields.integer_or("max_position_embeddings", 2048, 1, kPositionsMax);
  // Vicuna's long-context files say how far the stretched positions reach in a field of their own.
  spec.max_position =
      std::max(spec.max_position, fields.integer_or("max_sequence_length", 1, 1, kPositionsMax));
  spec.norm = NormKind::kRms;
  spec.norm_eps = fields.number_or("rms_norm_eps", 1e-6, 0, 1);
  spec.position = PositionKind::kRotary;
  spec.rope = read_rope(fields, spec.head_dim);
  spec.mlp = MlpKind::kGated;
  spec.activation = fields.activation_or("hidden_act", "silu");
  spec.attention_scale = 1.0f / std::sqrt(static_cast<float>(spec.head_dim));
  spec.tied_embeddings = fields.boolean_or("tie_word_embeddings", false);
  if (family.sliding_window) spec.sliding_window = fields.integer_or("sliding_window", 0, 0, kPositionsMax);
  if (family.bias_options) {
    out.options.qkv_bias = out.options.o_bias = fields.boolean_or("attention_bias", false);
    out.options.mlp_bias = fields.boolean_or("mlp_bias", false);
  }
  refuse_unknown_options(fields);
  if (fields.failed()) return std::move(fields).error();
  return out;
}

Result<Description> describe_hf_opt(const HfFamily&, const JsonField& config) {
  Fields fields(config);
  Description out;
  ModelSpec& spec = out.spec;
  spec.vocab_size = fields.integer("vocab_size", 1, kVocabSizeMax);
  spec.hidden_size = fields.integer("hidden_size", 1, kHiddenSizeMax);
  spec.embedding_size = fields.integer_or("word_embed_proj_dim", spec.hidden_size, 1, kHiddenSizeMax);
  spec.intermediate_size = fields.integer("ffn_dim", 1, kIntermediateSizeMax);
  spec.num_layers = fields.integer("num_hidden_layers", 1, kLayersMax);
  spec.num_heads = fields.integer("num_attention_heads", 1, kHeadsMax);
  spec.num_kv_heads = spec.num_heads;
  spec.head_dim = divide_heads(fields, spec);
  spec.max_position = fields.integer_or("max_position_embeddings", 2048, 1, kPositionsMax);
  spec.norm = NormKind::kLayer;
  spec.norm_eps = 1e-5f;  // torch.nn.LayerNorm's default: the config has no field for it
  const bool pre_norm = fields.boolean_or("do_layer_norm_before", true);
  spec.norm_place = pre_norm ? NormPlace::kPre : NormPlace::kPost;
  out.options.final_norm = pre_norm && !fields.boolean_or("_remove_final_layer_norm", false);
  if (!fields.boolean_or("layer_norm_elementwise_affine", true)) {
    fields.refuse("layer_norm_elementwise_affine", "is false; norms without weights are not supported");
  }
  spec.position = PositionKind::kLearned;
  spec.position_offset = 2;  // the table's first two rows stand for padding
  spec.mlp = MlpKind::kPlain;
  spec.activation = fields.activation_or("activation_function", "relu");
  spec.attention_scale = 1.0f / std::sqrt(static_cast<float>(spec.head_dim));
  spec.tied_embeddings = fields.boolean_or("tie_word_embeddings", true);
  const bool biases = fields.boolean_or("enable_bias", true);
  out.options.qkv_bias = out.options.o_bias = out.options.mlp_bias = biases;
  refuse_unknown_options(fields);
  if (fields.failed()) return std::move(fields).error();
  return out;
}

Result<Description> describe_hf(const JsonField& config, const HfFamily** family) {
  if (!config.is_object()) return config.error("is no JSON object");
  auto found = find_hf_family(config);
  if (!found) return std::move(found).error();
  auto out = (*found)->describe(**found, config);
  if (!out) return out;
  out->spec.architecture = std::string((*found)->model_type);
  if (auto done = check_relations(out->spec, config.file()); !done) return std::move(done).error();
  if (family != nullptr) *family = *found;
  return out;
}

Result<std::vector<TokenId>> read_token_ids(const JsonField& field, std::int32_t vocab_size) {
  std::vector<TokenId> out;
  const auto add = [&](const JsonField& item) -> Result<void> {
    auto id =
        item.integer(std::numeric_limits<std::int32_t>::min(), std::numeric_limits<std::int32_t>::max());
    if (!id) return std::move(id).error();
    const auto token = static_cast<TokenId>(*id);
    if (token >= 0 && token < vocab_size && std::ranges::find(out, token) == out.end()) out.push_back(token);
    return {};
  };
  if (!field.present()) return out;
  if (!field.is_array()) {
    if (auto done = add(field); !done) return std::move(done).error();
    return out;
  }
  if (field.size() > 256) return field.error("lists more than 256 tokens");
  for (std::size_t i = 0; i < field.size(); ++i) {
    if (auto done = add(field[i]); !done) return std::move(done).error();
  }
  return out;
}

Result<GenerationDefaults> read_generation_defaults(const JsonField& config) {
  Fields fields(config);
  GenerationDefaults out;
  const auto number = [&](std::string_view key, double min, double max) -> std::optional<float> {
    if (!config[key].present()) return std::nullopt;
    return static_cast<float>(fields.take(config[key].number(min, max), min));
  };
  out.temperature = number("temperature", 0, 1e3);
  out.top_p = number("top_p", 0, 1);
  out.repetition_penalty = number("repetition_penalty", 1e-3, 1e3);
  if (config["top_k"].present()) out.top_k = fields.integer("top_k", -1, 1 << 30);
  if (fields.failed()) return std::move(fields).error();
  return out;
}

}  // namespace spillway::model
