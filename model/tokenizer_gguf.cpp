// SPDX-License-Identifier: Apache-2.0

// Tokenizer from the tokenizer.ggml.* keys of a GGUF file, in the version that holds tokens and merge rules
// in GPT-2's byte alphabet (tokenizer.ggml.model = "gpt2").

#include <string>
#include <utility>

#include "model/bpe_byte_alphabet.hpp"
#include "model/gguf.hpp"
#include "model/quote.hpp"
#include "model/tokenizer.hpp"
#include "model/tokenizer_state.hpp"

namespace spillway::model {
namespace {

constexpr std::uint64_t kTokenBytesMax = std::uint64_t{256} << 20;  // of all tokens together

/// tokenizer.ggml.token_type; llama.cpp's enum llama_token_type.
enum TokenType : std::int64_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

class GgufTokenizerLoader {
 public:
  explicit GgufTokenizerLoader(const GgufFile& file) : file_(file) {}

  Result<std::unique_ptr<Tokenizer::State>> load() {
    if (auto r = check_model(); !r) return r.error();
    if (auto r = load_pre_tokenizer(); !r) return r.error();
    if (auto r = load_tokens(); !r) return r.error();
    if (auto r = load_merges(); !r) return r.error();
    if (auto r = load_special_ids(); !r) return r.error();
    return std::move(state_);
  }

 private:
  Error error(std::string_view key, std::string what, Errc code = Errc::kBadFile) const {
    return {code, file_.name() + ": field '" + std::string(key) + "' " + std::move(what)};
  }

  Result<void> check_model() const {
    const Result<std::string_view> model = file_.string("tokenizer.ggml.model");
    if (!model) return model.error();
    if (*model == "gpt2") return {};
    if (*model == "llama" || *model == "t5")
      return error("tokenizer.ggml.model",
                   "is '" + std::string(*model) +
                       "' (SentencePiece), which is not supported yet; supported is 'gpt2' "
                       "(byte-level BPE)",
                   Errc::kUnsupported);
    return error("tokenizer.ggml.model",
                 "is " + quote(*model, 80) + "; supported is 'gpt2' (byte-level BPE)", Errc::kUnsupported);
  }

  Result<void> load_pre_tokenizer() {
    std::string_view name = "default";  // files from before the key existed
    if (file_.has("tokenizer.ggml.pre")) {
      const Result<std::string_view> given = file_.string("tokenizer.ggml.pre");
      if (!given) return given.error();
      name = *given;
    }
    const Result<const PreTokenizerPreset*> found = find_pretokenizer_preset(name);
    if (!found) return error("tokenizer.ggml.pre", "names a " + found.error().message, found.error().code);
    preset_ = *found;
    for (const std::string_view pattern : preset_->patterns) {
      Result<Regex> regex = Regex::compile(pattern);
      if (!regex) return regex.error();
      state_->pre_tokenizer.add({std::move(*regex), SplitBehavior::kIsolated, false});
    }
    if (const auto r = flag("tokenizer.ggml.add_space_prefix", false); !r)
      return r.error();
    else if (*r)
      state_->pre_tokenizer.add_prefix_space();
    state_->nfc = preset_->nfc;
    state_->bpe.ignore_merges = preset_->ignore_merges;
    return {};
  }

  Result<void> load_tokens() {
    constexpr std::string_view kKey = "tokenizer.ggml.tokens", kTypeKey = "tokenizer.ggml.token_type";
    const Result<std::vector<std::string_view>> tokens = file_.strings(kKey);
    if (!tokens) return tokens.error();
    if (tokens->empty() || tokens->size() > static_cast<std::size_t>(kVocabSizeMax))
      return error(kKey, "has " + std::to_string(tokens->size()) + " entries; 1 to " +
                             std::to_string(kVocabSizeMax) + " are supported");
    std::vector<std::int64_t> types;
    if (file_.has(kTypeKey)) {
      Result<std::vector<std::int64_t>> given = file_.integers(kTypeKey);
      if (!given) return given.error();
      types = std::move(*given);
      if (types.size() != tokens->size())
        return error(kTypeKey, "has " + std::to_string(types.size()) +
                                   " entries; tokenizer.ggml.tokens has " + std::to_string(tokens->size()));
    }
    std::uint64_t bytes = 0;
    for (const std::string_view token : *tokens) bytes += token.size();
    if (bytes > kTokenBytesMax)
      return error(kKey, "has " + std::to_string(bytes) + " bytes of text; at most " +
                             std::to_string(kTokenBytesMax) + " are supported");

    Vocabulary& vocabulary = state_->bpe.vocabulary;
    vocabulary.reserve(tokens->size(), bytes);
    std::vector<AddedToken> added;
    std::string raw;
    for (std::size_t i = 0; i < tokens->size(); ++i) {
      const auto id = static_cast<TokenId>(i);
      const std::string_view written = (*tokens)[i];
      const std::int64_t type = types.empty() ? kNormal : types[i];
      raw.clear();
      if (type == kControl || type == kUserDefined || type == kUnknown) {
        raw = written;  // as it stands in the text
        if (!raw.empty()) added.push_back({id, raw, type != kUserDefined});
        if (type != kUserDefined) state_->mark_special(id);
      } else if (!append_unwritten_bytes(written, raw)) {
        raw = written;  // never an outcome of merging bytes; some converters leave such entries
      }
      vocabulary.set(id, raw);
    }
    // Ordinary tokens first: a control token of the same bytes must not hide one.
    for (const bool ordinary : {true, false})
      for (std::size_t i = 0; i < tokens->size(); ++i)
        if ((types.empty() || (types[i] != kControl && types[i] != kUserDefined)) == ordinary)
          vocabulary.index(static_cast<TokenId>(i));
    state_->bpe.find_byte_tokens();
    state_->added = AddedTokens(std::move(added));
    return {};
  }

  Result<void> load_merges() {
    constexpr std::string_view kKey = "tokenizer.ggml.merges";
    const Result<std::vector<std::string_view>> merges = file_.strings(kKey);
    if (!merges) return merges.error();
    if (merges->size() > static_cast<std::size_t>(kVocabSizeMax))
      return error(kKey, "has " + std::to_string(merges->size()) + " entries; at most " +
                             std::to_string(kVocabSizeMax) + " are supported");
    BpeModel& bpe = state_->bpe;
    bpe.merges.reserve(merges->size());
    std::string scratch;
    for (std::size_t i = 0; i < merges->size(); ++i) {
      const std::string_view rule = (*merges)[i];
      const std::size_t space = rule.find(' ');
      if (space == std::string_view::npos ||
          !add_written_merge(bpe, rule.substr(0, space), rule.substr(space + 1),
                             static_cast<std::uint32_t>(i), scratch))
        return error(kKey, "entry " + std::to_string(i) + " is " + quote(rule, 80) +
                               "; it must be two tokens of tokenizer.ggml.tokens, separated by a space, that "
                               "joined are a third");
    }
    return {};
  }

  Result<void> load_special_ids() {
    const Result<std::optional<TokenId>> bos = token_id("tokenizer.ggml.bos_token_id");
    if (!bos) return bos.error();
    const Result<std::optional<TokenId>> eos = token_id("tokenizer.ggml.eos_token_id");
    if (!eos) return eos.error();
    state_->bos = *bos;
    if (*eos) state_->add_eos(**eos);
    for (const std::string_view key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
      const Result<std::optional<TokenId>> id = token_id(key);
      if (!id) return id.error();
      if (*id) state_->add_eos(**id);
    }
    const Result<bool> add_bos = flag("tokenizer.ggml.add_bos_token", preset_->add_bos);
    if (!add_bos) return add_bos.error();
    const Result<bool> add_eos = flag("tokenizer.ggml.add_eos_token", false);
    if (!add_eos) return add_eos.error();
    if (*add_bos) {
      if (!*bos)
        return error("tokenizer.ggml.bos_token_id", "is missing; tokenizer.ggml.add_bos_token needs it");
      state_->prefix.push_back(**bos);
    }
    if (*add_eos) {
      if (!*eos)
        return error("tokenizer.ggml.eos_token_id", "is missing; tokenizer.ggml.add_eos_token needs it");
      state_->suffix.push_back(**eos);
    }
    return {};
  }

  Result<bool> flag(std::string_view key, bool fallback) const {
    if (!file_.has(key)) return fallback;
    return file_.boolean(key);
  }

  Result<std::optional<TokenId>> token_id(std::string_view key) const {
    if (!file_.has(key)) return std::optional<TokenId>{};
    const Result<std::int64_t> id = file_.integer(key);
    if (!id) return id.error();
    const std::int32_t size = state_->bpe.vocabulary.size();
    if (*id < 0 || *id >= size)
      return error(key,
                   "is " + std::to_string(*id) + "; the vocabulary has ids 0 to " + std::to_string(size - 1));
    return std::optional<TokenId>(static_cast<TokenId>(*id));
  }

  const GgufFile& file_;
  const PreTokenizerPreset* preset_ = nullptr;
  std::unique_ptr<Tokenizer::State> state_ = std::make_unique<Tokenizer::State>();
};

}  // namespace

Result<std::unique_ptr<Tokenizer::State>> read_gguf_tokenizer(const GgufFile& file) {
  return GgufTokenizerLoader(file).load();
}

}  // namespace spillway::model
