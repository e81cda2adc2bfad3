// SPDX-License-Identifier: Apache-2.0

// The ways to a Tokenizer: from one file, or from a loaded model with all its files. tokenizer.json does not
// say which tokens are BOS and EOS; tokenizer_config.json does, and may overrule the post-processor.

#include <string>
#include <utility>

#include "model/gguf.hpp"
#include "model/json.hpp"
#include "model/loader.hpp"
#include "model/tokenizer.hpp"
#include "model/tokenizer_state.hpp"

namespace spillway::model {
namespace {

using StatePtr = std::unique_ptr<Tokenizer::State>;

/// A token in tokenizer_config.json: "</s>" or {"content": "</s>", ...}. Empty when the file is silent.
Result<std::optional<TokenId>> config_token(JsonField field, const Tokenizer::State& state) {
  if (field.is_object()) field = field["content"];
  const Result<std::string_view> content = field.string_or("");
  if (!content) return content.error();
  return content->empty() ? std::nullopt : state.find_token(*content);
}

/// add_bos_token and add_eos_token, where one of them is given, replace the post-processor (as in
/// transformers 5).
Result<void> apply_config(const JsonField& config, Tokenizer::State& state) {
  const Result<std::optional<TokenId>> bos = config_token(config["bos_token"], state);
  if (!bos) return bos.error();
  const Result<std::optional<TokenId>> eos = config_token(config["eos_token"], state);
  if (!eos) return eos.error();
  if (*bos) state.bos = *bos;
  if (*eos) state.add_eos(**eos);

  const JsonField add_bos_field = config["add_bos_token"], add_eos_field = config["add_eos_token"];
  if (!add_bos_field.present() && !add_eos_field.present()) return {};
  const Result<bool> add_bos = add_bos_field.boolean_or(false);
  if (!add_bos) return add_bos.error();
  const Result<bool> add_eos = add_eos_field.boolean_or(false);
  if (!add_eos) return add_eos.error();
  state.prefix.clear();
  state.suffix.clear();
  if (*add_bos && *bos) state.prefix.push_back(**bos);
  if (*add_eos && *eos) state.suffix.push_back(**eos);
  return {};
}

Result<StatePtr> read_directory(const Model& model) {
  const auto path = model.sibling("tokenizer.json");
  if (!path) {
    if (model.sibling("tokenizer.model"))
      return Error{Errc::kUnsupported, model.path().string() +
                                           ": has tokenizer.model (SentencePiece), which is not "
                                           "supported yet, and no tokenizer.json, which is"};
    return Error{Errc::kNotFound, model.path().string() + ": there is no tokenizer.json beside config.json"};
  }
  const Result<std::string> text = read_text_file(*path, kTokenizerJsonBytesMax);
  if (!text) return text.error();
  Result<StatePtr> state = read_tokenizer_json(*text, path->string());
  if (!state) return state;
  if (const auto config_path = model.sibling("tokenizer_config.json")) {
    const Result<boost::json::value> config = parse_json_file(*config_path, kConfigBytesMax);
    if (!config) return config.error();
    const std::string name = config_path->string();
    if (auto r = apply_config(JsonField(*config, name), **state); !r) return r.error();
  }
  return state;
}

Result<Tokenizer> finished(Result<StatePtr> state) {
  if (!state) return std::move(state).error();
  return Tokenizer(std::move(state).value());
}

}  // namespace

Result<Tokenizer> Tokenizer::from_gguf(const GgufFile& file) { return finished(read_gguf_tokenizer(file)); }

Result<Tokenizer> Tokenizer::from_tokenizer_json(const std::filesystem::path& path) {
  const Result<std::string> text = read_text_file(path, kTokenizerJsonBytesMax);
  if (!text) return text.error();
  return parse_tokenizer_json(*text, path.string());
}

Result<Tokenizer> parse_tokenizer_json(std::string_view text, std::string_view name) {
  return finished(read_tokenizer_json(text, name));
}

Result<Tokenizer> load_tokenizer(const Model& model) {
  Result<StatePtr> state =
      model.gguf() != nullptr ? read_gguf_tokenizer(*model.gguf()) : read_directory(model);
  if (!state) return std::move(state).error();
  for (const TokenId id : model.eos_ids()) (*state)->add_eos(id);
  if (!(*state)->bos) (*state)->bos = model.bos_id();
  return finished(std::move(state));
}

}  // namespace spillway::model
