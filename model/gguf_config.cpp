// SPDX-License-Identifier: Apache-2.0
#include "model/gguf_config.hpp"

#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "model/gguf.hpp"
#include "model/quote.hpp"
#include "model/rope.hpp"

namespace spillway::model {
namespace {

/// Reads "<architecture>.<key>" one after the other and keeps the first error; after one, values are
/// placeholders.
class Keys {
 public:
  Keys(const GgufFile& file, std::string_view architecture)
      : file_(file), prefix_(std::string(architecture) + ".") {}

  [[nodiscard]] bool has(std::string_view key) const { return file_.has(full(key)); }

  std::int32_t integer(std::string_view key, std::int64_t min, std::int64_t max) {
    auto value = file_.integer(full(key));
    if (!value) {
      fail(std::move(value).error());
      return static_cast<std::int32_t>(min);
    }
    if (*value < min || *value > max) {
      wrong(key, "is " + std::to_string(*value) + "; it must be from " + std::to_string(min) + " to " +
                     std::to_string(max));
      return static_cast<std::int32_t>(min);
    }
    return static_cast<std::int32_t>(*value);
  }
  std::int32_t integer_or(std::string_view key, std::int32_t fallback, std::int64_t min, std::int64_t max) {
    return has(key) ? integer(key, min, max) : fallback;
  }
  double number_or(std::string_view key, double fallback, double min, double max) {
    if (!has(key)) return fallback;
    auto value = file_.number(full(key));
    if (!value) {
      fail(std::move(value).error());
      return fallback;
    }
    if (!(*value >= min && *value <= max)) {
      wrong(key, "is " + std::to_string(*value) + "; it must be from " + std::to_string(min) + " to " +
                     std::to_string(max));
      return fallback;
    }
    return *value;
  }
  std::string_view string_or(std::string_view key, std::string_view fallback) {
    if (!has(key)) return fallback;
    auto value = file_.string(full(key));
    if (value) return *value;
    fail(std::move(value).error());
    return fallback;
  }

  void wrong(std::string_view key, const std::string& what, Errc code = Errc::kBadFile) {
    const GgufValue* value = file_.find(full(key));
    fail(Error{code, file_.name() + ": metadata key " + quote(full(key)) + " " + what +
                         (value == nullptr ? "" : ", at byte " + std::to_string(value->file_offset))});
  }
  void refuse(std::string_view key, const std::string& what) { wrong(key, what, Errc::kUnsupported); }
  void fail(Error error) {
    if (error.code == Errc::kNotFound) error.code = Errc::kBadFile;  // the file is there, its key is not
    if (!error_) error_ = std::move(error);
  }

  [[nodiscard]] const GgufFile& file() const noexcept { return file_; }
  [[nodiscard]] bool failed() const noexcept { return error_.has_value(); }
  [[nodiscard]] Error error() && { return *std::move(error_); }

 private:
  [[nodiscard]] std::string full(std::string_view key) const { return prefix_ + std::string(key); }

  const GgufFile& file_;
  std::string prefix_;
  std::optional<Error> error_;
};

RopeScaling read_rope_scaling(Keys& keys) {
  RopeScaling scaling;
  const std::string_view type = keys.string_or("rope.scaling.type", "none");
  if (type == "linear" || (!keys.has("rope.scaling.type") && keys.has("rope.scale_linear"))) {
    const std::string_view key =
        keys.has("rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear";
    scaling.factor = keys.number_or(key, 1.0, 1e-3, 1e6);
    scaling.kind = RopeScaling::Kind::kLinear;
  } else if (type != "none") {
    keys.refuse("rope.scaling.type", "is " + quote(type) + "; supported are none, linear");
  }
  if (keys.number_or("rope.scaling.attn_factor", 1.0, 0, 1e6) != 1.0) {
    keys.refuse("rope.scaling.attn_factor", "is not 1; scaled rotations are not supported");
  }
  return scaling;
}

/// rope_freqs.weight [rotary_dim / 2]: each frequency is divided by its factor (llama3 scaling, worked out by
/// the converter).
Result<void> apply_rope_factors(const GgufFile& file, std::vector<float>& inv_freq) {
  if (file.find_tensor("rope_freqs.weight") == nullptr) return {};
  auto factors = file.tensor("rope_freqs.weight");
  if (!factors) return std::move(factors).error();
  if (factors->dtype != DType::kF32 || factors->shape != std::vector<std::uint64_t>{inv_freq.size()}) {
    return Error{Errc::kBadFile, file.name() + ": tensor 'rope_freqs.weight' must be F32 with " +
                                     std::to_string(inv_freq.size()) + " elements"};
  }
  for (std::size_t i = 0; i < inv_freq.size(); ++i) {
    float factor = 0;
    std::memcpy(&factor, factors->data.data() + i * sizeof factor, sizeof factor);
    if (!std::isfinite(factor) || factor < 1e-6f) {
      return Error{Errc::kBadFile, file.name() + ": tensor 'rope_freqs.weight' element " + std::to_string(i) +
                                       " is " + std::to_string(factor) + ", no positive factor"};
    }
    inv_freq[i] /= factor;
  }
  return {};
}

RopeSpec read_rope(Keys& keys, std::int32_t head_dim, bool interleaved) {
  RopeSpec rope;
  rope.interleaved = interleaved;
  rope.rotary_dim = keys.integer_or("rope.dimension_count", head_dim, 1, kHeadDimMax);
  const double base = keys.number_or("rope.freq_base", 10000.0, 1.0, 1e12);
  const RopeScaling scaling = read_rope_scaling(keys);
  if (rope.rotary_dim % 2 != 0) keys.wrong("rope.dimension_count", "(or the head dimension) is odd");
  if (keys.failed()) return rope;
  rope.inv_freq = make_inv_freq(rope.rotary_dim, base, scaling);
  if (auto done = apply_rope_factors(keys.file(), rope.inv_freq); !done) keys.fail(std::move(done).error());
  return rope;
}

/// Keys that change the computation in ways this build does not know, and the value that means "no change".
void refuse_unknown_options(Keys& keys) {
  struct Option {
    std::string_view key;
    double neutral;
  };
  static constexpr Option kOptions[] = {
      {"expert_count", 0},
      {"logit_scale", 1},
      {"embedding_scale", 1},
      {"residual_scale", 1},
      {"attention.scale", 0},
      {"attention.clamp_kqv", 0},
      {"final_logit_softcapping", 0},
      {"attn_logit_softcapping", 0},
      {"attention.max_alibi_bias", 0},
  };
  for (const Option& option : kOptions) {
    if (keys.number_or(option.key, option.neutral, -1e30, 1e30) != option.neutral) {
      keys.refuse(option.key, "is set; this is not supported");
    }
  }
}

}  // namespace

Result<Description> describe_gguf_llama(const GgufFamily& family, const GgufFile& file) {
  Keys keys(file, family.architecture);
  Description out;
  ModelSpec& spec = out.spec;
  spec.hidden_size = keys.integer("embedding_length", 1, kHiddenSizeMax);
  spec.embedding_size = spec.hidden_size;
  spec.intermediate_size = keys.integer("feed_forward_length", 1, kIntermediateSizeMax);
  spec.num_layers = keys.integer("block_count", 1, kLayersMax);
  spec.num_heads = keys.integer("attention.head_count", 1, kHeadsMax);
  spec.num_kv_heads = keys.integer_or("attention.head_count_kv", spec.num_heads, 1, kHeadsMax);
  spec.max_position = keys.integer("context_length", 1, kPositionsMax);
  spec.norm = NormKind::kRms;
  spec.norm_eps = static_cast<float>(keys.number_or("attention.layer_norm_rms_epsilon", 1e-5, 0, 1));
  if (!keys.has("attention.key_length") && spec.hidden_size % spec.num_heads != 0) {
    keys.wrong("embedding_length", "is " + std::to_string(spec.hidden_size) + ", no multiple of the " +
                                       std::to_string(spec.num_heads) + " attention heads");
  }
  spec.head_dim = keys.integer_or("attention.key_length", spec.hidden_size / spec.num_heads, 1, kHeadDimMax);
  if (spec.head_dim > kHeadDimMax || spec.head_dim < 1) {
    keys.wrong("embedding_length", "gives heads of " + std::to_string(spec.head_dim) + " dimensions; 1 to " +
                                       std::to_string(kHeadDimMax) + " are supported");
    spec.head_dim = 1;
  }
  if (keys.integer_or("attention.value_length", spec.head_dim, 1, kHeadDimMax) != spec.head_dim) {
    keys.refuse("attention.value_length", "differs from the key length; this is not supported");
  }
  spec.position = PositionKind::kRotary;
  spec.rope = read_rope(keys, spec.head_dim, family.interleaved_rope);
  spec.mlp = MlpKind::kGated;
  spec.activation = Activation::kSilu;
  spec.attention_scale = 1.0f / std::sqrt(static_cast<float>(spec.head_dim));
  spec.sliding_window = keys.integer_or("attention.sliding_window", 0, 0, kPositionsMax);
  spec.tied_embeddings = file.find_tensor("output.weight") == nullptr;
  out.options.qkv_bias = file.find_tensor("blk.0.attn_q.bias") != nullptr;
  out.options.o_bias = file.find_tensor("blk.0.attn_output.bias") != nullptr;
  out.options.mlp_bias = file.find_tensor("blk.0.ffn_up.bias") != nullptr;
  refuse_unknown_options(keys);

  // The vocabulary's size is the embedding's: llama.vocab_size is optional and sometimes stale.
  const GgufTensor* embedding = file.find_tensor("token_embd.weight");
  if (embedding == nullptr) {
    keys.fail(Error{Errc::kBadFile, file.name() + ": tensor 'token_embd.weight' is missing"});
  } else if (embedding->shape.size() != 2 || std::cmp_greater(embedding->shape[0], kVocabSizeMax)) {
    keys.fail(Error{Errc::kBadFile, file.name() + ": tensor 'token_embd.weight' is no matrix with at most " +
                                        std::to_string(kVocabSizeMax) + " rows"});
  } else {
    spec.vocab_size = static_cast<std::int32_t>(embedding->shape[0]);
  }
  if (keys.failed()) return std::move(keys).error();
  return out;
}

Result<Description> describe_gguf(const GgufFile& file, const GgufFamily** family) {
  if (file.has("split.count")) {
    auto parts = file.integer("split.count");
    if (!parts) return std::move(parts).error();
    if (*parts > 1) {
      return Error{Errc::kUnsupported, file.name() + ": metadata key 'split.count' is " +
                                           std::to_string(*parts) +
                                           "; join the parts first (llama-gguf-split --merge)"};
    }
  }
  auto found = find_gguf_family(file);
  if (!found) return std::move(found).error();
  auto out = (*found)->describe(**found, file);
  if (!out) return out;
  out->spec.architecture = std::string((*found)->architecture);
  if (auto done = check_relations(out->spec, file.name()); !done) return std::move(done).error();
  if (family != nullptr) *family = *found;
  return out;
}

}  // namespace spillway::model
