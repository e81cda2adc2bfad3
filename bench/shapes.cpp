// SPDX-License-Identifier: Apache-2.0
#include "bench/shapes.hpp"

#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <utility>

#include "model/rope.hpp"

namespace spillway::bench {
namespace {

constexpr double kRopeBase = 10000;

enum class Family : std::uint8_t { kLlama, kOpt };

struct Shape {
  std::string_view name;
  std::int32_t vocabulary, hidden, intermediate, layers, heads, kv_heads, head_dim;
  Family family = Family::kLlama;
};

constexpr Shape kShapes[] = {
    {"llama-7b", 32000, 4096, 11008, 32, 32, 32, 128},
    {"mistral-7b", 32000, 4096, 14336, 32, 32, 8, 128},
    {"llama-3-8b", 128256, 4096, 14336, 32, 32, 8, 128},
    {"smollm2", 49152, 576, 1536, 30, 9, 3, 64},
    {"opt-1.3b", 50272, 2048, 8192, 24, 32, 32, 64, Family::kOpt},
};

model::ModelSpec spec_of(const Shape& shape) {
  model::ModelSpec spec;
  spec.architecture = "llama";
  spec.name = shape.name;
  spec.vocab_size = shape.vocabulary;
  spec.hidden_size = spec.embedding_size = shape.hidden;
  spec.intermediate_size = shape.intermediate;
  spec.num_layers = shape.layers;
  spec.num_heads = shape.heads;
  spec.num_kv_heads = shape.kv_heads;
  spec.head_dim = shape.head_dim;
  spec.max_position = 16384;
  spec.attention_scale = 1.0f / std::sqrt(static_cast<float>(spec.head_dim));
  if (shape.family == Family::kOpt) {
    spec.norm = model::NormKind::kLayer;
    spec.position = model::PositionKind::kLearned;
    spec.position_offset = 2;
    spec.mlp = model::MlpKind::kPlain;
    spec.activation = model::Activation::kRelu;
    spec.tied_embeddings = true;
  } else {
    spec.rope.rotary_dim = spec.head_dim;
    spec.rope.inv_freq = model::make_inv_freq(spec.head_dim, kRopeBase, {});
  }
  return spec;
}

[[noreturn]] void refuse(const std::string& message) {
  std::fprintf(stderr, "%s\n", message.c_str());
  std::exit(2);
}

}  // namespace

std::string shape_names() {
  std::string names;
  for (const Shape& shape : kShapes) {
    if (!names.empty()) names += &shape == std::end(kShapes) - 1 ? " or " : ", ";
    names += shape.name;
  }
  return names;
}

Result<model::ModelSpec> find_shape(std::string_view name) {
  for (const Shape& shape : kShapes)
    if (shape.name == name) return spec_of(shape);
  return Error{Errc::kInvalidArgument, "no shape '" + std::string(name) + "': " + shape_names()};
}

model::ModelSpec shape_of(std::string_view name) {
  Result<model::ModelSpec> spec = find_shape(name);
  if (!spec) refuse(spec.error().message);
  return *std::move(spec);
}

Result<void> write_config(const model::ModelSpec& spec, const std::filesystem::path& directory) {
  if (spec.norm != model::NormKind::kRms || spec.position != model::PositionKind::kRotary)
    return Error{Errc::kUnsupported,
                 "shape " + spec.name + ": a configuration is written for Llama's kind alone"};
  const auto field = [](const char* name, auto value) {
    return "\"" + std::string(name) + "\":" + std::to_string(value) + ",\n";
  };
  const std::string text =
      "{\"architectures\":[\"LlamaForCausalLM\"],\n\"model_type\":\"llama\",\n" +
      field("vocab_size", spec.vocab_size) + field("hidden_size", spec.hidden_size) +
      field("intermediate_size", spec.intermediate_size) + field("num_hidden_layers", spec.num_layers) +
      field("num_attention_heads", spec.num_heads) + field("num_key_value_heads", spec.num_kv_heads) +
      field("head_dim", spec.head_dim) + field("max_position_embeddings", spec.max_position) +
      field("rope_theta", kRopeBase) + field("rms_norm_eps", spec.norm_eps) +
      "\"hidden_act\":\"silu\",\n\"tie_word_embeddings\":false,\n\"torch_dtype\":\"bfloat16\",\n"
      "\"bos_token_id\":1,\n\"eos_token_id\":2}\n";
  std::error_code failed;
  std::filesystem::create_directories(directory, failed);
  std::ofstream config(directory / "config.json");
  config << text;
  config.close();
  if (!config) return Error{Errc::kIo, directory.string() + ": " + std::strerror(errno)};
  return {};
}

model::DType weights_of(std::string_view name) {
  for (const auto& [known, type] : {std::pair{"bf16", model::DType::kBF16},
                                    {"q8_0", model::DType::kQ8_0},
                                    {"q4_0", model::DType::kQ4_0},
                                    {"q4_1", model::DType::kQ4_1},
                                    {"q5_0", model::DType::kQ5_0},
                                    {"q5_1", model::DType::kQ5_1}})
    if (name == known) return type;
  refuse("no type of weights '" + std::string(name) + "': bf16, q8_0, q4_0, q4_1, q5_0 or q5_1");
}

double layer_elements(const model::ModelSpec& spec) {
  const double hidden = spec.hidden_size, q = static_cast<double>(spec.q_size()),
               kv = static_cast<double>(spec.kv_size());
  const double mlp = (spec.mlp == model::MlpKind::kGated ? 3.0 : 2.0) * hidden * spec.intermediate_size;
  return spec.num_layers * (hidden * (q + 2 * kv) + q * hidden + mlp);
}
double vocabulary_elements(const model::ModelSpec& spec) {
  return double(spec.hidden_size) * spec.vocab_size;
}

}  // namespace spillway::bench
