// SPDX-License-Identifier: Apache-2.0
#include "tests/model/model_files.hpp"

#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "runtime/check.hpp"

namespace spillway::model::testing {

namespace fs = std::filesystem;

TempDir::TempDir() {
  std::string pattern = (fs::temp_directory_path() / "spillway-test-XXXXXX").string();
  SPW_CHECK(::mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

TempDir::~TempDir() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

fs::path TempDir::write(const std::string& name, std::string_view content) const {
  const fs::path path = path_ / name;
  fs::remove(path);  // a new file: overwriting makes some file systems flush to disk, thousands of times here
  std::ofstream(path, std::ios::binary).write(content.data(), static_cast<std::streamsize>(content.size()));
  return path;
}

std::string gguf_string(std::string_view text) { return raw(std::uint64_t{text.size()}) + std::string(text); }

GgufBuilder& GgufBuilder::value(std::string_view key, std::uint32_t type, std::string_view bytes) {
  metadata_.append(gguf_string(key)).append(raw(type)).append(bytes);
  ++keys_;
  return *this;
}

GgufBuilder& GgufBuilder::strings(std::string_view key, const std::vector<std::string>& v) {
  std::string bytes = raw(std::uint32_t{8}) + raw(std::uint64_t{v.size()});
  for (const std::string& text : v) bytes += gguf_string(text);
  return value(key, 9, bytes);
}

GgufBuilder& GgufBuilder::tensor(std::string_view name, std::uint32_t type,
                                 const std::vector<std::uint64_t>& shape, std::string_view bytes) {
  data_.resize((data_.size() + 31) / 32 * 32);
  tensor_at(name, type, shape, data_.size());
  data_.append(bytes);
  return *this;
}

GgufBuilder& GgufBuilder::tensor_at(std::string_view name, std::uint32_t type,
                                    const std::vector<std::uint64_t>& shape, std::uint64_t offset) {
  table_.append(gguf_string(name)).append(raw(static_cast<std::uint32_t>(shape.size())));
  for (auto size = shape.rbegin(); size != shape.rend(); ++size) table_.append(raw(*size));
  table_.append(raw(type)).append(raw(offset));
  ++tensors_;
  return *this;
}

std::size_t GgufBuilder::header_bytes() const { return 24 + metadata_.size() + table_.size(); }

std::string GgufBuilder::build(std::uint64_t alignment) const {
  std::string out = "GGUF" + raw(version_) + raw(tensors_) + raw(keys_) + metadata_ + table_;
  out.resize((out.size() + alignment - 1) / alignment * alignment);
  return out + data_;
}

namespace {

std::string float_bytes(std::size_t count) {
  std::string out;
  for (std::size_t i = 0; i < count; ++i) out += raw(static_cast<float>(i % 17) * 0.01f);
  return out;
}

std::size_t elements(const std::vector<std::uint64_t>& shape) {
  std::size_t out = 1;
  for (const std::uint64_t size : shape) out *= size;
  return out;
}

}  // namespace

GgufBuilder tiny_llama_gguf() {
  GgufBuilder file;
  file.string("general.architecture", "llama")
      .string("general.name", "tiny")
      .u32("llama.context_length", 128)
      .u32("llama.embedding_length", 32)
      .u32("llama.block_count", 1)
      .u32("llama.feed_forward_length", 64)
      .u32("llama.attention.head_count", 4)
      .u32("llama.attention.head_count_kv", 2)
      .f32("llama.attention.layer_norm_rms_epsilon", 1e-5f)
      .u32("llama.rope.dimension_count", 8)
      .f32("llama.rope.freq_base", 10000.0f)
      .u32("tokenizer.ggml.eos_token_id", 2)
      .u32("tokenizer.ggml.eot_token_id", 7)
      .u32("tokenizer.ggml.bos_token_id", 1)
      .string("tokenizer.chat_template", "{{ messages }}");
  const std::vector<std::pair<std::string, std::vector<std::uint64_t>>> tensors = {
      {"token_embd.weight", {40, 32}},   {"blk.0.attn_norm.weight", {32}},
      {"blk.0.attn_q.weight", {32, 32}}, {"blk.0.attn_k.weight", {16, 32}},
      {"blk.0.attn_v.weight", {16, 32}}, {"blk.0.attn_output.weight", {32, 32}},
      {"blk.0.ffn_norm.weight", {32}},   {"blk.0.ffn_gate.weight", {64, 32}},
      {"blk.0.ffn_up.weight", {64, 32}}, {"blk.0.ffn_down.weight", {32, 64}},
      {"output_norm.weight", {32}},
  };
  for (const auto& [name, shape] : tensors) file.tensor(name, 0, shape, float_bytes(elements(shape)));
  return file;
}

std::string safetensors_raw(std::string_view header, std::size_t data_bytes) {
  return raw(std::uint64_t{header.size()}) + std::string(header) + std::string(data_bytes, '\0');
}

std::string safetensors(const std::vector<NamedTensor>& tensors) {
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}";
  std::string data;
  for (const NamedTensor& tensor : tensors) {
    const std::size_t count = elements(tensor.shape);
    const std::size_t begin = data.size();
    data += tensor.dtype == "F32" ? float_bytes(count) : std::string(count * 2, '\0');
    header += ",\"" + tensor.name + "\":{\"dtype\":\"" + tensor.dtype + "\",\"shape\":[";
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
      header.append(i == 0 ? "" : ",").append(std::to_string(tensor.shape[i]));
    }
    header += "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(data.size()) + "]}";
  }
  header += "}";
  return raw(std::uint64_t{header.size()}) + header + data;
}

std::vector<NamedTensor> tiny_llama_tensors(const std::string& prefix, const std::string& dtype) {
  const std::string layer = prefix + "layers.0.";
  return {
      {prefix + "embed_tokens.weight", {40, 32}, dtype},
      {layer + "input_layernorm.weight", {32}, dtype},
      {layer + "self_attn.q_proj.weight", {32, 32}, dtype},
      {layer + "self_attn.k_proj.weight", {16, 32}, dtype},
      {layer + "self_attn.v_proj.weight", {16, 32}, dtype},
      {layer + "self_attn.o_proj.weight", {32, 32}, dtype},
      {layer + "post_attention_layernorm.weight", {32}, dtype},
      {layer + "mlp.gate_proj.weight", {64, 32}, dtype},
      {layer + "mlp.up_proj.weight", {64, 32}, dtype},
      {layer + "mlp.down_proj.weight", {32, 64}, dtype},
      {prefix + "norm.weight", {32}, dtype},
  };
}

std::string tiny_llama_config(const std::string& more) {
  return "{" + more +
         "\"model_type\": \"llama\", \"vocab_size\": 40, \"hidden_size\": 32, \"intermediate_size\": 64, "
         "\"num_hidden_layers\": 1, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
         "\"max_position_embeddings\": 128, \"rms_norm_eps\": 1e-05, \"tie_word_embeddings\": true, "
         "\"bos_token_id\": 1, \"eos_token_id\": 2}";
}

std::vector<NamedTensor> tiny_opt_tensors(const std::string& prefix, std::uint64_t embedding,
                                          bool final_norm) {
  std::vector<NamedTensor> out = {
      {prefix + "embed_tokens.weight", {40, embedding}},
      {prefix + "embed_positions.weight", {18, 32}},
  };
  if (embedding != 32) {
    out.push_back({prefix + "project_in.weight", {32, embedding}});
    out.push_back({prefix + "project_out.weight", {embedding, 32}});
  }
  for (const std::string number : {"0", "1"}) {
    const std::string layer = prefix + "layers." + number + ".";
    for (const std::string name : {"q_proj", "k_proj", "v_proj", "out_proj"}) {
      out.push_back({layer + "self_attn." + name + ".weight", {32, 32}});
      out.push_back({layer + "self_attn." + name + ".bias", {32}});
    }
    for (const std::string name : {"self_attn_layer_norm", "final_layer_norm"}) {
      out.push_back({layer + name + ".weight", {32}});
      out.push_back({layer + name + ".bias", {32}});
    }
    out.push_back({layer + "fc1.weight", {48, 32}});
    out.push_back({layer + "fc1.bias", {48}});
    out.push_back({layer + "fc2.weight", {32, 48}});
    out.push_back({layer + "fc2.bias", {32}});
  }
  if (final_norm) {
    out.push_back({prefix + "final_layer_norm.weight", {32}});
    out.push_back({prefix + "final_layer_norm.bias", {32}});
  }
  return out;
}

std::string tiny_opt_config(const std::string& more) {
  return "{" + more +
         "\"model_type\": \"opt\", \"vocab_size\": 40, \"hidden_size\": 32, \"ffn_dim\": 48, "
         "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"max_position_embeddings\": 16, "
         "\"bos_token_id\": 2, \"eos_token_id\": 2}";
}

}  // namespace spillway::model::testing
