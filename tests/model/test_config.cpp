// SPDX-License-Identifier: Apache-2.0
// config.json -> ModelSpec, over the traps that real configurations hold.

#include <string>

#include "model/hf_config.hpp"
#include "model/json.hpp"
#include "tests/model/model_files.hpp"
#include "tests/support/catch.hpp"

using namespace spillway;
using namespace spillway::model;
using namespace spillway::model::testing;

namespace {

Result<Description> describe(const std::string& config) {
  const auto document = parse_json(config, "config.json");
  REQUIRE(document.ok());
  return describe_hf(JsonField(*document, "config.json"));
}

std::string failure(const std::string& config) {
  const auto model = describe(config);
  REQUIRE_FALSE(model.ok());
  const std::string& message = model.error().message;
  CHECK(message.find('\n') == std::string::npos);
  CHECK(message.starts_with("config.json: "));
  return message;
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

/// The tiny llama's configuration with one field's text replaced.
std::string replaced(std::string config, const std::string& from, const std::string& to) {
  const std::size_t at = config.find(from);
  REQUIRE(at != std::string::npos);
  return config.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("config: a llama's fields become its spec") {
  const auto model = describe(tiny_llama_config());
  REQUIRE(model.ok());
  const ModelSpec& spec = model->spec;
  CHECK(spec.architecture == "llama");
  CHECK(spec.vocab_size == 40);
  CHECK(spec.hidden_size == 32);
  CHECK(spec.embedding_size == 32);
  CHECK(spec.intermediate_size == 64);
  CHECK(spec.num_layers == 1);
  CHECK(spec.num_heads == 4);
  CHECK(spec.num_kv_heads == 2);
  CHECK(spec.head_dim == 8);
  CHECK(spec.max_position == 128);
  CHECK(spec.norm == NormKind::kRms);
  CHECK(spec.norm_eps == 1e-5f);
  CHECK(spec.mlp == MlpKind::kGated);
  CHECK(spec.activation == Activation::kSilu);
  CHECK(spec.attention_scale == Approx(0.35355339f));
  CHECK(spec.tied_embeddings);
  CHECK_FALSE(spec.rope.interleaved);
  CHECK(spec.rope.inv_freq.size() == 4);
}

TEST_CASE("config: fields that old files omit have the defaults of their time") {
  std::string config = replaced(tiny_llama_config(), "\"num_key_value_heads\": 2, ", "");
  config = replaced(config, "\"tie_word_embeddings\": true, ", "");
  config = replaced(config, "\"rms_norm_eps\": 1e-05, ", "");
  const auto model = describe(config);
  REQUIRE(model.ok());
  CHECK(model->spec.num_kv_heads == 4);
  CHECK_FALSE(model->spec.tied_embeddings);
  CHECK(model->spec.norm_eps == 1e-6f);
  CHECK(model->spec.rope.inv_freq[1] == Approx(0.1f));  // theta 10000
}

TEST_CASE("config: null means absent") {
  const auto model = describe(replaced(tiny_llama_config("\"head_dim\": null, \"rope_scaling\": null, "),
                                       "\"num_key_value_heads\": 2", "\"num_key_value_heads\": null"));
  REQUIRE(model.ok());
  CHECK(model->spec.num_kv_heads == 4);
  CHECK(model->spec.head_dim == 8);
}

TEST_CASE("config: head_dim may differ from hidden_size / heads") {
  const auto model = describe(tiny_llama_config("\"head_dim\": 20, "));
  REQUIRE(model.ok());
  CHECK(model->spec.head_dim == 20);
  CHECK(model->spec.q_size() == 80);
  CHECK(model->spec.rope.rotary_dim == 20);
}

TEST_CASE("config: rope_theta, rope_scaling and rope_parameters say the same in three ways") {
  const std::string fields = "\"factor\": 4.0}, ";
  const auto old_way = describe(
      tiny_llama_config("\"rope_theta\": 500000.0, \"rope_scaling\": {\"type\": \"linear\", " + fields));
  const auto later = describe(
      tiny_llama_config("\"rope_theta\": 500000, \"rope_scaling\": {\"rope_type\": \"linear\", " + fields));
  const auto new_way = describe(tiny_llama_config(
      "\"rope_parameters\": {\"rope_type\": \"linear\", \"rope_theta\": 500000.0, " + fields));
  REQUIRE(old_way.ok());
  REQUIRE(later.ok());
  REQUIRE(new_way.ok());
  CHECK(old_way->spec.rope.inv_freq == later->spec.rope.inv_freq);
  CHECK(old_way->spec.rope.inv_freq == new_way->spec.rope.inv_freq);
  CHECK(old_way->spec.rope.inv_freq[0] == 0.25f);
}

TEST_CASE("config: llama3 frequencies equal those of transformers") {
  // transformers 5.23: LlamaConfig(head_dim=20, rope_theta=5e5, factor 8, low 1, high 4, original 256).
  const auto model = describe(tiny_llama_config(
      "\"head_dim\": 20, \"rope_theta\": 500000.0, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": "
      "8.0, "
      "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 256}, "));
  REQUIRE(model.ok());
  const std::vector<double> expected = {1,
                                        0.269217312,
                                        0.0503453724,
                                        0.00243904022,
                                        0.00065663195,
                                        0.000176776681,
                                        4.7591333e-05,
                                        1.28124175e-05,
                                        3.44932369e-06,
                                        9.28618078e-07};
  REQUIRE(model->spec.rope.inv_freq.size() == expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CHECK(model->spec.rope.inv_freq[i] == Approx(expected[i]).epsilon(2e-7));
  }
}

TEST_CASE("config: unknown rope scalings are refused by name") {
  for (const std::string type : {"yarn", "dynamic", "longrope"}) {
    const std::string message =
        failure(tiny_llama_config("\"rope_scaling\": {\"type\": \"" + type + "\", \"factor\": 2.0}, "));
    CHECK(contains(message, "'rope_scaling.type' is '" + type + "'; supported are default, linear, llama3"));
  }
  CHECK(contains(failure(tiny_llama_config("\"rope_scaling\": {\"type\": \"linear\"}, ")),
                 "'rope_scaling.factor' is missing"));
  CHECK(contains(failure(tiny_llama_config("\"rope_scaling\": 3, ")), "'rope_scaling' is no object"));
  CHECK(contains(failure(tiny_llama_config("\"partial_rotary_factor\": 0.5, ")), "partial_rotary_factor"));
}

TEST_CASE("config: a sliding window counts for mistral and is ignored for llama") {
  const std::string mistral =
      replaced(tiny_llama_config("\"sliding_window\": 16, "), "\"llama\"", "\"mistral\"");
  const auto windowed = describe(mistral);
  REQUIRE(windowed.ok());
  CHECK(windowed->spec.sliding_window == 16);
  CHECK(windowed->spec.architecture == "mistral");
  const auto none = describe(replaced(mistral, "16", "null"));
  REQUIRE(none.ok());
  CHECK(none->spec.sliding_window == 0);
  const auto llama = describe(tiny_llama_config("\"sliding_window\": 16, "));
  REQUIRE(llama.ok());
  CHECK(llama->spec.sliding_window == 0);
}

TEST_CASE("config: llama's bias options are honoured") {
  const auto model = describe(tiny_llama_config("\"attention_bias\": true, \"mlp_bias\": true, "));
  REQUIRE(model.ok());
  CHECK(model->options.qkv_bias);
  CHECK(model->options.o_bias);
  CHECK(model->options.mlp_bias);
}

TEST_CASE("config: OPT has learned positions from row 2, plain MLPs and norms where its fields say") {
  const auto small = describe(tiny_opt_config());
  REQUIRE(small.ok());
  CHECK(small->spec.position == PositionKind::kLearned);
  CHECK(small->spec.position_offset == 2);
  CHECK(small->spec.norm == NormKind::kLayer);
  CHECK(small->spec.norm_place == NormPlace::kPre);
  CHECK(small->spec.mlp == MlpKind::kPlain);
  CHECK(small->spec.activation == Activation::kRelu);
  CHECK(small->spec.tied_embeddings);
  CHECK(small->options.final_norm);
  CHECK(small->options.qkv_bias);

  const auto like_350m = describe(tiny_opt_config(
      "\"do_layer_norm_before\": false, \"word_embed_proj_dim\": 16, \"activation_function\": \"gelu\", "));
  REQUIRE(like_350m.ok());
  CHECK(like_350m->spec.norm_place == NormPlace::kPost);
  CHECK(like_350m->spec.embedding_size == 16);
  CHECK(like_350m->spec.activation == Activation::kGelu);
  CHECK_FALSE(like_350m->options.final_norm);

  const auto odd = describe(tiny_opt_config("\"_remove_final_layer_norm\": true, \"enable_bias\": false, "));
  REQUIRE(odd.ok());
  CHECK_FALSE(odd->options.final_norm);
  CHECK_FALSE(odd->options.qkv_bias);
}

TEST_CASE("config: what is not supported is named, with what is") {
  CHECK(contains(failure(replaced(tiny_llama_config(), "\"llama\"", "\"qwen2\"")),
                 "field 'model_type' is 'qwen2'; supported are llama, mistral, opt"));
  CHECK(contains(failure("{\"architectures\": [\"GPT2LMHeadModel\"]}"),
                 "'architectures[0]' is 'GPT2LMHeadModel'"));
  CHECK(contains(failure("{}"), "'model_type' is missing"));
  CHECK(contains(failure(tiny_llama_config("\"quantization_config\": {\"bits\": 4}, ")),
                 "'quantization_config' is set"));
  CHECK(contains(failure(tiny_llama_config("\"num_local_experts\": 8, ")), "mixture-of-experts"));
  CHECK(contains(failure(tiny_llama_config("\"hidden_act\": \"tanh\\n\", ")), "'hidden_act' is 'tanh\\x0a'"));
  CHECK(contains(failure(tiny_llama_config("\"layer_types\": [\"full_attention\", \"linear\"], ")),
                 "'layer_types'"));
  CHECK(
      contains(failure(tiny_opt_config("\"layer_norm_elementwise_affine\": false, ")), "elementwise_affine"));
}

TEST_CASE("config: a file without model_type is known by its architecture") {
  const auto model = describe(replaced(tiny_llama_config(), "\"model_type\": \"llama\"",
                                       "\"architectures\": [\"LlamaForCausalLM\"]"));
  REQUIRE(model.ok());
  CHECK(model->spec.architecture == "llama");
}

TEST_CASE("config: sizes out of range or out of proportion are refused, naming the field") {
  const std::string good = tiny_llama_config();
  CHECK(contains(failure(replaced(good, "\"hidden_size\": 32, ", "")), "'hidden_size' is missing"));
  CHECK(contains(failure(replaced(good, "\"hidden_size\": 32", "\"hidden_size\": 0")), "'hidden_size' is 0"));
  CHECK(contains(failure(replaced(good, "\"hidden_size\": 32", "\"hidden_size\": -32")),
                 "'hidden_size' is -32"));
  CHECK(contains(failure(replaced(good, "\"hidden_size\": 32", "\"hidden_size\": 1e30")), "'hidden_size'"));
  CHECK(contains(failure(replaced(good, "\"hidden_size\": 32", "\"hidden_size\": 18446744073709551615")),
                 "'hidden_size'"));
  CHECK(contains(failure(replaced(good, "\"hidden_size\": 32", "\"hidden_size\": \"32\"")), "is a string"));
  CHECK(contains(failure(replaced(good, "\"hidden_size\": 32", "\"hidden_size\": 33")),
                 "no multiple of the 4"));
  CHECK(contains(failure(replaced(good, "\"hidden_size\": 32", "\"hidden_size\": 36")), "even number"));
  CHECK(contains(failure(replaced(good, "\"num_hidden_layers\": 1", "\"num_hidden_layers\": 1000000")),
                 "1000000"));
  CHECK(contains(failure(replaced(good, "heads\": 2", "heads\": 3")), "no multiple of 3 key-value heads"));
  CHECK(contains(failure(tiny_llama_config("\"rope_theta\": 0, ")), "'rope_theta' is 0"));
  CHECK(contains(failure(tiny_llama_config("\"head_dim\": 4096, ")), "'head_dim' is 4096"));
}

TEST_CASE("config: token ids come as a number, a list or nothing, and stay inside the vocabulary") {
  const auto ids = [](const std::string& text) {
    const auto document = parse_json("{\"eos\": " + text + "}", "config.json");
    REQUIRE(document.ok());
    const auto found = read_token_ids(JsonField(*document, "config.json")["eos"], 100);
    REQUIRE(found.ok());
    return *found;
  };
  CHECK(ids("7") == std::vector<TokenId>{7});
  CHECK(ids("[7, 9, 7]") == std::vector<TokenId>{7, 9});
  CHECK(ids("null").empty());
  CHECK(ids("[3, 100, -1]") == std::vector<TokenId>{3});
  const auto document = parse_json("{\"eos\": [\"x\"]}", "config.json");
  CHECK(contains(read_token_ids(JsonField(*document, "config.json")["eos"], 100).error().message,
                 "'eos[0]' is a string"));
}

TEST_CASE("json: wrong documents are refused with the byte offset") {
  CHECK(contains(parse_json("{\"a\": }", "x.json").error().message, "x.json: not valid JSON at byte 6"));
  CHECK_FALSE(parse_json("", "x.json").ok());
  CHECK_FALSE(parse_json("{} {}", "x.json").ok());
  CHECK_FALSE(parse_json("\"\xff\"", "x.json").ok());
  CHECK_FALSE(parse_json(std::string(1000, '['), "x.json").ok());
  CHECK(parse_json("\xEF\xBB\xBF{}", "x.json").ok());
  TempDir directory;
  const auto path = directory.write("long.json", "[" + std::string(100, ' ') + "]");
  CHECK(contains(parse_json_file(path, 50).error().message, "102 bytes long; at most 50"));
  CHECK(parse_json_file(path, 200).ok());
  CHECK(parse_json_file(directory.path() / "none.json", 50).error().code == Errc::kNotFound);
}
