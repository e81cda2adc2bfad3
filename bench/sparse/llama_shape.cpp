// SPDX-License-Identifier: Apache-2.0
#include "bench/sparse/llama_shape.hpp"

#include <cerrno>
#include <cstring>
#include <fstream>

namespace spillway::bench {
namespace {

constexpr const char* kConfig =
    R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":32000,
"hidden_size":4096,"intermediate_size":11008,"num_hidden_layers":32,"num_attention_heads":32,"num_key_value_heads":32,
"hidden_act":"silu","rms_norm_eps":1e-5,"max_position_embeddings":16384,"rope_theta":10000.0,
"tie_word_embeddings":false,"torch_dtype":"bfloat16","bos_token_id":1,"eos_token_id":2}
)";

}  // namespace

Result<void> write_llama_7b_shape(const std::filesystem::path& directory) {
  std::error_code failed;
  std::filesystem::create_directories(directory, failed);
  std::ofstream config(directory / "config.json");
  config << kConfig;
  config.close();
  if (!config) return Error{Errc::kIo, directory.string() + ": " + std::strerror(errno)};
  return {};
}

}  // namespace spillway::bench
