// SPDX-License-Identifier: Apache-2.0
#include "model/loader.hpp"

#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <numeric>
#include <string>

#include "model/gguf.hpp"
#include "tests/model/model_files.hpp"
#include "tests/support/catch.hpp"

using namespace spillway;
using namespace spillway::model;
using namespace spillway::model::testing;

namespace {

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

Error failure(const std::filesystem::path& path) {
  const auto model = Model::load(path);
  REQUIRE_FALSE(model.ok());
  CHECK(model.error().message.find('\n') == std::string::npos);
  return model.error();
}

/// A directory with the tiny llama in it.
struct LlamaDirectory : TempDir {
  explicit LlamaDirectory(const std::string& config_more = "", const std::string& dtype = "F32") {
    write("config.json", tiny_llama_config(config_more));
    write("model.safetensors", safetensors(tiny_llama_tensors("model.", dtype)));
  }
};

std::vector<NamedTensor> without(std::vector<NamedTensor> tensors, const std::string& name) {
  std::erase_if(tensors, [&](const NamedTensor& tensor) { return tensor.name == name; });
  return tensors;
}

}  // namespace

TEST_CASE("loader: a GGUF llama gives spec, weights, token ids and template") {
  TempDir directory;
  const auto model = Model::load(directory.write("tiny.gguf", tiny_llama_gguf().build()));
  REQUIRE(model.ok());
  const ModelSpec& spec = model->spec();
  CHECK(spec.architecture == "llama");
  CHECK(spec.name == "tiny");
  CHECK(spec.vocab_size == 40);
  CHECK(spec.num_kv_heads == 2);
  CHECK(spec.head_dim == 8);
  CHECK(spec.rope.interleaved);
  CHECK(spec.tied_embeddings);
  CHECK(model->weights().lm_head.empty());
  REQUIRE(model->weights().layers.size() == 1);
  CHECK(model->weights().layers[0].k.shape == std::vector<std::uint64_t>{16, 32});
  CHECK(model->weights().layers[0].gate.name == "blk.0.ffn_gate.weight");
  CHECK(std::vector(model->eos_ids().begin(), model->eos_ids().end()) == std::vector<TokenId>{2, 7});
  CHECK(model->bos_id() == 1);
  CHECK(model->chat_template() == "{{ messages }}");
  CHECK(model->gguf() != nullptr);
  CHECK(model->tensors().size() == 11);
  CHECK(model->parameter_count() == 40 * 32 + 3 * 32 + 2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32);
  CHECK(model->weight_bytes() == 4 * model->parameter_count());
  CHECK(model->dominant_dtype() == DType::kF32);
}

TEST_CASE("loader: GGUF rope factors divide the frequencies, and linear scaling does too") {
  TempDir directory;
  const std::string factors = raw(1.0f) + raw(2.0f) + raw(4.0f) + raw(8.0f);
  GgufBuilder with_factors = tiny_llama_gguf();
  with_factors.tensor("rope_freqs.weight", 0, {4}, factors);
  const auto plain = Model::load(directory.write("plain.gguf", tiny_llama_gguf().build()));
  const auto scaled = Model::load(directory.write("factors.gguf", with_factors.build()));
  const auto linear =
      Model::load(directory.write("linear.gguf", tiny_llama_gguf()
                                                     .string("llama.rope.scaling.type", "linear")
                                                     .f32("llama.rope.scaling.factor", 4)
                                                     .build()));
  REQUIRE(plain.ok());
  REQUIRE(scaled.ok());
  REQUIRE(linear.ok());
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(scaled->spec().rope.inv_freq[i] ==
          plain->spec().rope.inv_freq[i] / std::exp2f(static_cast<float>(i)));
    CHECK(linear->spec().rope.inv_freq[i] == plain->spec().rope.inv_freq[i] / 4);
  }
}

TEST_CASE("loader: GGUF options that would change the answer are refused by key") {
  TempDir directory;
  const auto message = [&](GgufBuilder builder) {
    return failure(directory.write("m.gguf", builder.build())).message;
  };
  CHECK(contains(message(tiny_llama_gguf().string("llama.rope.scaling.type", "yarn")),
                 "'llama.rope.scaling.type' is 'yarn'"));
  CHECK(contains(message(tiny_llama_gguf().u32("llama.expert_count", 8)), "'llama.expert_count' is set"));
  CHECK(contains(message(tiny_llama_gguf().u32("llama.attention.value_length", 16)),
                 "'llama.attention.value_length'"));
  CHECK(contains(message(tiny_llama_gguf().f32("llama.logit_scale", 2)), "'llama.logit_scale'"));
  CHECK(contains(message(tiny_llama_gguf().u32("split.count", 3)), "'split.count' is 3"));
  CHECK(contains(message(GgufBuilder().string("general.architecture", "qwen2")),
                 "'general.architecture' is 'qwen2'; supported are llama"));
  CHECK(contains(message(GgufBuilder().u32("x", 1)), "'general.architecture' is missing"));
  CHECK(contains(message(GgufBuilder().string("general.architecture", "llama")),
                 "'llama.embedding_length' is missing"));
}

TEST_CASE(
    "loader: a GGUF tensor that is missing, misshapen, quantized where it may not be or unknown is named") {
  TempDir directory;
  const auto load = [&](const GgufBuilder& builder) {
    return failure(directory.write("m.gguf", builder.build()));
  };
  GgufBuilder stranger = tiny_llama_gguf();
  stranger.tensor("blk.0.attn_q_norm.weight", 0, {8}, std::string(32, '\0'));
  CHECK(contains(load(stranger).message, "tensor 'blk.0.attn_q_norm.weight' is not part of"));
  GgufBuilder bias = tiny_llama_gguf();
  bias.tensor("blk.0.attn_q.bias", 0, {32}, std::string(128, '\0'));
  CHECK(contains(load(bias).message, "tensor 'blk.0.attn_k.bias' is missing"));
  GgufBuilder output = tiny_llama_gguf();
  output.tensor("output.weight", 0, {39, 32}, std::string(39 * 128, '\0'));
  CHECK(contains(load(output).message,
                 "'output.weight' has shape [39, 32] where the configuration wants [40, 32]"));
  GgufBuilder type = tiny_llama_gguf();
  type.tensor("output.weight", 14, {40, 32}, std::string(128, '\0'));
  CHECK(load(type).code == Errc::kUnsupported);
  CHECK(contains(load(type).message, "'output.weight' has type Q6_K"));
  GgufBuilder factors = tiny_llama_gguf();
  factors.tensor("rope_freqs.weight", 0, {4}, std::string(16, '\0'));
  CHECK(contains(load(factors).message, "'rope_freqs.weight' element 0"));
}

TEST_CASE("loader: a Hugging Face llama gives the same spec as its GGUF, but for the rotation's pairing") {
  TempDir gguf_directory;
  const auto gguf = Model::load(gguf_directory.write("tiny.gguf", tiny_llama_gguf().build()));
  const LlamaDirectory directory;
  const auto hf = Model::load(directory.path());
  REQUIRE(gguf.ok());
  REQUIRE(hf.ok());
  CHECK(hf->spec().hidden_size == gguf->spec().hidden_size);
  CHECK(hf->spec().head_dim == gguf->spec().head_dim);
  CHECK(hf->spec().rope.inv_freq == gguf->spec().rope.inv_freq);
  CHECK_FALSE(hf->spec().rope.interleaved);
  CHECK(hf->parameter_count() == gguf->parameter_count());
  CHECK(hf->gguf() == nullptr);
  CHECK(hf->weights().layers[0].q.name == "model.layers.0.self_attn.q_proj.weight");
  CHECK(hf->spec().name == directory.path().filename());
}

TEST_CASE("loader: files beside the weights are found") {
  const LlamaDirectory directory;
  directory.write("tokenizer.json", "{}");
  const auto model = Model::load(directory.path());
  REQUIRE(model.ok());
  CHECK(model->sibling("tokenizer.json") == directory.path() / "tokenizer.json");
  CHECK_FALSE(model->sibling("tokenizer.model").has_value());
}

TEST_CASE("loader: end tokens are those of both configurations, and defaults come from the generation's") {
  const LlamaDirectory directory;
  directory.write("generation_config.json",
                  "{\"eos_token_id\": [2, 9, 40], \"bos_token_id\": 3, \"temperature\": 0.6, \"top_p\": 0.9, "
                  "\"top_k\": null}");
  const auto model = Model::load(directory.path());
  REQUIRE(model.ok());
  CHECK(std::vector(model->eos_ids().begin(), model->eos_ids().end()) == std::vector<TokenId>{2, 9});
  CHECK(model->bos_id() == 1);
  CHECK(model->generation_defaults().temperature == 0.6f);
  CHECK(model->generation_defaults().top_p == 0.9f);
  CHECK_FALSE(model->generation_defaults().top_k.has_value());
  directory.write("generation_config.json", "{\"temperature\": \"hot\"}");
  CHECK(contains(failure(directory.path()).message, "field 'temperature' is a string"));
}

TEST_CASE("loader: the chat template may be a string, a named one of several, or a file") {
  const LlamaDirectory directory;
  const auto loaded = [&] {
    const auto model = Model::load(directory.path());
    REQUIRE(model.ok());
    return model->chat_template();
  };
  CHECK_FALSE(loaded().has_value());
  directory.write("tokenizer_config.json", "{\"chat_template\": \"one\"}");
  CHECK(loaded() == "one");
  directory.write("tokenizer_config.json",
                  "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"a\"}, {\"name\": "
                  "\"default\", \"template\": \"b\"}]}");
  CHECK(loaded() == "b");
  directory.write("chat_template.jinja", "file");
  CHECK(loaded() == "file");
}

TEST_CASE("loader: 16-bit weights, and weights without a model. prefix, load as they are") {
  const LlamaDirectory halves("", "BF16");
  const auto model = Model::load(halves.path());
  REQUIRE(model.ok());
  CHECK(model->dominant_dtype() == DType::kBF16);
  TempDir bare;
  bare.write("config.json", tiny_llama_config());
  bare.write("model.safetensors", safetensors(tiny_llama_tensors("")));
  CHECK(Model::load(bare.path()).ok());
}

TEST_CASE("loader: tensors that carry no weights are passed over, unknown ones are not") {
  TempDir directory;
  directory.write("config.json", tiny_llama_config());
  auto tensors = tiny_llama_tensors();
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", {4}});
  tensors.push_back({"lm_head.weight", {40, 32}});  // stored twice, although tied
  directory.write("model.safetensors", safetensors(tensors));
  const auto model = Model::load(directory.path());
  REQUIRE(model.ok());
  CHECK(model->weights().lm_head.empty());
  tensors.push_back({"model.layers.0.self_attn.q_norm.weight", {8}});
  directory.write("model.safetensors", safetensors(tensors));
  CHECK(
      contains(failure(directory.path()).message, "'model.layers.0.self_attn.q_norm.weight' is not part of"));
}

TEST_CASE("loader: Hugging Face tensors that are missing, misshapen or of another type are named") {
  TempDir directory;
  directory.write("config.json", tiny_llama_config());
  const auto message = [&](const std::vector<NamedTensor>& tensors) {
    directory.write("model.safetensors", safetensors(tensors));
    return failure(directory.path()).message;
  };
  const std::string up = "model.layers.0.mlp.up_proj.weight";
  CHECK(contains(message(without(tiny_llama_tensors(), up)),
                 "model.safetensors: tensor '" + up + "' is missing"));
  auto tensors = without(tiny_llama_tensors(), up);
  tensors.push_back({up, {32, 64}});
  CHECK(contains(message(tensors), "'" + up + "' has shape [32, 64] where the configuration wants [64, 32]"));
  tensors.back() = {up, {64, 32}, "F8"};
  CHECK(contains(message(tensors), "'" + up + "' has dtype 'F8'; supported are F32, F16, BF16"));
  directory.write("config.json", tiny_llama_config("\"attention_bias\": true, "));
  CHECK(contains(message(tiny_llama_tensors()), "'model.layers.0.self_attn.q_proj.bias' is missing"));
}

TEST_CASE("loader: OPT loads under all its prefixes, with and without projections and final norm") {
  TempDir directory;
  for (const std::string prefix : {"model.decoder.", "decoder."}) {
    directory.write("config.json", tiny_opt_config());
    directory.write("model.safetensors", safetensors(tiny_opt_tensors(prefix, 32, true)));
    const auto model = Model::load(directory.path());
    REQUIRE(model.ok());
    CHECK(model->weights().position_embedding.shape == std::vector<std::uint64_t>{18, 32});
    CHECK(model->weights().layers[1].up.name == prefix + "layers.1.fc1.weight");
    CHECK(model->weights().layers[1].gate.empty());
    CHECK(model->weights().project_in.empty());
  }
  directory.write("config.json",
                  tiny_opt_config("\"word_embed_proj_dim\": 16, \"do_layer_norm_before\": false, "));
  directory.write("model.safetensors", safetensors(tiny_opt_tensors("decoder.", 16, false)));
  const auto model = Model::load(directory.path());
  REQUIRE(model.ok());
  CHECK(model->weights().project_in.shape == std::vector<std::uint64_t>{32, 16});
  CHECK(model->weights().project_out.shape == std::vector<std::uint64_t>{16, 32});
  CHECK(model->weights().final_norm.empty());
  directory.write("model.safetensors", safetensors(tiny_opt_tensors("decoder.", 16, true)));
  CHECK(contains(failure(directory.path()).message, "'decoder.final_layer_norm.weight' is not part of"));
}

TEST_CASE("loader: paths that hold no model say what is wanted") {
  TempDir directory;
  CHECK(failure(directory.path() / "none").code == Errc::kNotFound);
  CHECK(contains(failure(directory.path()).message, "config.json is missing"));
  directory.write("config.json", tiny_llama_config());
  CHECK(contains(failure(directory.path()).message,
                 "model.safetensors and model.safetensors.index.json are missing"));
  directory.write("pytorch_model.bin", "x");
  CHECK(failure(directory.path()).code == Errc::kUnsupported);
  CHECK(contains(failure(directory.path()).message, "convert them to safetensors"));
  CHECK(contains(failure(directory.path() / "config.json").message, "give the directory"));
  CHECK(contains(failure(directory.path() / "pytorch_model.bin").message, "convert them to safetensors"));
  CHECK(contains(failure(directory.write("zero.gguf", "")).message, "the file is empty"));
  CHECK(contains(failure("/dev/zero").message, "not a regular file"));
  TempDir with_gguf;
  with_gguf.write("x.gguf", "");
  CHECK(contains(failure(with_gguf.path()).message, "give that file's path ('x.gguf')"));
  directory.write("config.json", "");
  CHECK(contains(failure(directory.path()).message, "config.json: not valid JSON at byte 0"));
}

TEST_CASE("loader: no file with one header byte changed brings it down") {
  TempDir directory;
  const GgufBuilder builder = tiny_llama_gguf();
  const std::string whole = builder.build();
  std::size_t refused = 0;
  for (std::size_t at = 0; at < builder.header_bytes(); ++at) {
    for (const unsigned char mask : {0x01, 0x80, 0xff}) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(static_cast<unsigned char>(bytes[at]) ^ mask);
      const auto model = Model::load(directory.write("m.gguf", bytes));
      if (model.ok()) continue;
      ++refused;
      REQUIRE(model.error().message.find('\n') == std::string::npos);
      REQUIRE(contains(model.error().message, "m.gguf: "));
    }
  }
  CHECK(refused > builder.header_bytes());  // most bytes matter
}

TEST_CASE("loader: no safetensors header or config with one byte changed brings it down") {
  const LlamaDirectory directory;
  const std::string config = tiny_llama_config();
  for (std::size_t at = 0; at < config.size(); ++at) {
    for (const unsigned char mask : {0x01, 0x10, 0x80}) {
      std::string bytes = config;
      bytes[at] = static_cast<char>(static_cast<unsigned char>(bytes[at]) ^ mask);
      directory.write("config.json", bytes);
      const auto model = Model::load(directory.path());
      if (!model.ok()) REQUIRE(model.error().message.find('\n') == std::string::npos);
    }
    directory.write("config.json", std::string_view(config).substr(0, at));
    REQUIRE_FALSE(Model::load(directory.path()).ok());
  }
  directory.write("config.json", config);
  const std::string weights = safetensors(tiny_llama_tensors());
  const std::size_t header = weights.rfind('}') + 1;
  for (std::size_t at = 0; at < header; ++at) {
    for (const unsigned char mask : {0x01, 0x10, 0x80}) {
      std::string bytes = weights;
      bytes[at] = static_cast<char>(static_cast<unsigned char>(bytes[at]) ^ mask);
      directory.write("model.safetensors", bytes);
      const auto model = Model::load(directory.path());
      if (!model.ok()) REQUIRE(model.error().message.find('\n') == std::string::npos);
    }
  }
}

TEST_CASE("mapped file: released pages leave memory and can be read again") {
  TempDir directory;
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const auto file = MappedFile::open(directory.write("big", std::string(8 * page, 'x')));
  REQUIRE(file.ok());
  const auto sum = [&] {
    return std::accumulate(
        file->bytes().begin(), file->bytes().end(), std::size_t{0},
        [](std::size_t total, std::byte b) { return total + static_cast<std::size_t>(b); });
  };
  const std::size_t before = sum();
  file->release_pages(file->bytes().subspan(1, 6 * page));
  CHECK(sum() == before);
  file->release_pages(as_bytes("elsewhere"));  // not part of the mapping: no effect
  CHECK_FALSE(file->contains(as_bytes("elsewhere")));
  CHECK(file->contains(file->bytes().last(1)));
}

TEST_CASE("loader: SmolLM2-135M loads from its GGUF file") {
  const char* given = std::getenv("SPILLWAY_TEST_MODEL");
  const std::filesystem::path path =
      given != nullptr ? given : SPW_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(path)) {
    WARN("skipped: " << path << " is not there (./dev model fetches it)");
    return;
  }
  const auto model = Model::load(path);
  if (!model.ok()) FAIL(model.error().message);
  CHECK(model->spec().num_layers == 30);
  CHECK(model->spec().hidden_size == 576);
  CHECK(model->spec().num_heads == 9);
  CHECK(model->spec().num_kv_heads == 3);
  CHECK(model->spec().vocab_size == 49152);
  CHECK(model->spec().tied_embeddings);
  CHECK(model->parameter_count() == 134515008);
  CHECK(model->dominant_dtype() == DType::kQ4_1);
  CHECK(model->weights().token_embedding.dtype == DType::kQ8_0);
  CHECK(model->chat_template().has_value());
  model->release_pages(model->weights().token_embedding);
}
