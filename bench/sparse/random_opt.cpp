// SPDX-License-Identifier: Apache-2.0
#include "bench/sparse/random_opt.hpp"

#include <bit>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "runtime/random.hpp"

namespace spillway::bench {
namespace {

constexpr std::uint64_t kHidden = 768, kFfn = 3072, kLayers = 12, kPositions = 2050, kVocabulary = 8192;

constexpr const char* kConfig = R"({"architectures":["OPTForCausalLM"],"model_type":"opt","hidden_size":768,
"ffn_dim":3072,"num_hidden_layers":12,"num_attention_heads":12,"word_embed_proj_dim":768,"vocab_size":8192,
"max_position_embeddings":2048,"activation_function":"relu","do_layer_norm_before":true,"enable_bias":true,
"layer_norm_elementwise_affine":true,"tie_word_embeddings":true,"bos_token_id":2,"eos_token_id":2,"dtype":"bfloat16"}
)";

/// bf16 values in [middle - spread, middle + spread).
struct Tensor {
  std::string name;
  std::vector<std::uint64_t> shape;
  double middle = 0, spread = 0;

  [[nodiscard]] std::uint64_t elements() const {
    std::uint64_t count = 1;
    for (const std::uint64_t size : shape) count *= size;
    return count;
  }
};

std::vector<Tensor> tensors() {
  const std::string decoder = "model.decoder.";
  std::vector<Tensor> all = {{decoder + "embed_tokens.weight", {kVocabulary, kHidden}, 0, 0.05},
                             {decoder + "embed_positions.weight", {kPositions, kHidden}, 0, 0.02}};
  const auto norm = [&all](const std::string& name) {
    all.push_back({name + ".weight", {kHidden}, 1, 0});
    all.push_back({name + ".bias", {kHidden}, 0, 0});
  };
  const auto linear = [&all](const std::string& name, std::uint64_t rows, std::uint64_t columns,
                             double spread) {
    all.push_back({name + ".weight", {rows, columns}, 0, spread});
    all.push_back({name + ".bias", {rows}, 0, 0.01});
  };
  for (std::uint64_t i = 0; i < kLayers; ++i) {
    const std::string layer = decoder + "layers." + std::to_string(i) + ".";
    norm(layer + "self_attn_layer_norm");
    linear(layer + "self_attn.q_proj", kHidden, kHidden, 0.09);
    linear(layer + "self_attn.k_proj", kHidden, kHidden, 0.09);
    linear(layer + "self_attn.v_proj", kHidden, kHidden, 0.035);
    linear(layer + "self_attn.out_proj", kHidden, kHidden, 0.035);
    norm(layer + "final_layer_norm");
    linear(layer + "fc1", kFfn, kHidden, 0.035);
    linear(layer + "fc2", kHidden, kFfn, 0.02);
  }
  norm(decoder + "final_layer_norm");
  return all;
}

std::string header_of(const std::vector<Tensor>& all) {
  std::string header = "{";
  std::uint64_t offset = 0;
  for (const Tensor& tensor : all) {
    header += (header.size() > 1 ? "," : "") + ("\"" + tensor.name) + R"(":{"dtype":"BF16","shape":[)";
    for (std::size_t i = 0; i < tensor.shape.size(); ++i)
      header += (i == 0 ? "" : ",") + std::to_string(tensor.shape[i]);
    header += R"(],"data_offsets":[)" + std::to_string(offset) + ",";
    offset += 2 * tensor.elements();
    header += std::to_string(offset) + "]}";
  }
  return header + "}";
}

}  // namespace

Result<void> write_random_opt(const std::filesystem::path& directory, std::uint64_t seed) {
  const std::filesystem::path target = directory / "model.safetensors";
  if (std::filesystem::exists(target)) return {};
  std::error_code failed;
  std::filesystem::create_directories(directory, failed);
  const std::filesystem::path part = directory / "model.part";
  std::ofstream file(part, std::ios::binary);
  const std::vector<Tensor> all = tensors();
  const std::string header = header_of(all);
  const std::uint64_t header_bytes = header.size();
  file.write(reinterpret_cast<const char*>(&header_bytes), sizeof header_bytes);  // little-endian, as we are
  file << header;
  runtime::Random random(seed);
  for (const Tensor& tensor : all) {
    std::vector<std::uint16_t> values(tensor.elements());
    for (std::uint16_t& value : values) {
      const auto number = static_cast<float>(tensor.middle + tensor.spread * (2 * random.uniform() - 1));
      value = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(number) >> 16);
    }
    file.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(2 * values.size()));
  }
  file.close();
  std::ofstream config(directory / "config.json");
  config << kConfig;
  config.close();
  if (!file || !config) return Error{Errc::kIo, directory.string() + ": " + std::strerror(errno)};
  std::filesystem::rename(part, target);
  return {};
}

}  // namespace spillway::bench
