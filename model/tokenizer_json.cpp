// SPDX-License-Identifier: Apache-2.0

// Tokenizer from Hugging Face tokenizers' tokenizer.json. Read are the model, the added tokens, the
// normalizer, the pre-tokenizer, the post-processor and the decoder; "truncation" and "padding" are settings
// of a training script. Anything this build would have to ignore to go on is refused by name.

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/string.hpp>
#include <string>
#include <utility>

#include "model/bpe_byte_alphabet.hpp"
#include "model/json.hpp"
#include "model/quote.hpp"
#include "model/tokenizer.hpp"
#include "model/tokenizer_state.hpp"

namespace spillway::model {
namespace {

namespace json = boost::json;

constexpr std::size_t kStagesMax = 32;          // of pre-tokenizers, normalizers or post-processors
constexpr std::size_t kSpecialsAroundMax = 64;  // tokens a post-processor puts before or after the text

std::string_view text_of(const json::string& text) noexcept { return {text.data(), text.size()}; }

class JsonTokenizerLoader {
 public:
  explicit JsonTokenizerLoader(JsonField root) : root_(std::move(root)) {}

  Result<std::unique_ptr<Tokenizer::State>> load() {
    if (!root_.is_object()) return root_.error("is not an object; a tokenizer.json is one");
    const JsonField model = root_["model"];
    const Result<std::string_view> type = model["type"].string_or("BPE");  // old files leave it out
    if (!type) return type.error();
    if (*type != "BPE") return unsupported(model["type"], *type, "BPE");
    if (auto r = load_vocabulary(model); !r) return r.error();
    if (auto r = load_merges(model["merges"]); !r) return r.error();
    if (auto r = load_added_tokens(root_["added_tokens"]); !r) return r.error();
    if (auto r = load_model_options(model); !r) return r.error();
    if (auto r = load_normalizer(root_["normalizer"]); !r) return r.error();
    if (auto r = load_pre_tokenizer(root_["pre_tokenizer"]); !r) return r.error();
    if (!byte_level_)
      return root_["pre_tokenizer"].error("has no ByteLevel; only byte-level BPE is supported",
                                          Errc::kUnsupported);
    if (auto r = load_decoder(root_["decoder"]); !r) return r.error();
    if (auto r = load_post_processor(root_["post_processor"]); !r) return r.error();
    return std::move(state_);
  }

 private:
  static Error unsupported(const JsonField& field, std::string_view found, std::string_view supported) {
    return field.error("is " + quote(found) + "; supported is " + std::string(supported),
                       Errc::kUnsupported);
  }

  Result<void> load_vocabulary(const JsonField& model) {
    const JsonField field = model["vocab"];
    if (!field.is_object()) return field.error("must be an object of token to id");
    const json::object& entries = field.value()->get_object();
    if (entries.empty() || entries.size() > static_cast<std::size_t>(kVocabSizeMax))
      return field.error("has " + std::to_string(entries.size()) + " entries; 1 to " +
                         std::to_string(kVocabSizeMax) + " are supported");
    Vocabulary& vocabulary = state_->bpe.vocabulary;
    std::size_t bytes = 0;
    for (const auto& entry : entries) bytes += entry.key().size();
    vocabulary.reserve(entries.size(), bytes);
    std::string raw;
    for (const auto& entry : entries) {
      const std::string_view written(entry.key().data(), entry.key().size());
      const std::int64_t* id = entry.value().if_int64();
      if (id == nullptr || *id < 0 || *id >= kVocabSizeMax)
        return field.error("gives " + quote(written) + " no id from 0 to " +
                           std::to_string(kVocabSizeMax - 1));
      raw.clear();
      if (!append_unwritten_bytes(written, raw)) raw = written;  // never an outcome of merging bytes
      vocabulary.set(static_cast<TokenId>(*id), raw);
      vocabulary.index(static_cast<TokenId>(*id));
    }
    state_->bpe.find_byte_tokens();
    return {};
  }

  Result<void> load_merges(const JsonField& field) {
    if (!field.is_array()) return field.error("must be an array of merge rules");
    const json::array& rules = field.value()->get_array();
    if (rules.size() > static_cast<std::size_t>(kVocabSizeMax))
      return field.error("has " + std::to_string(rules.size()) + " entries; at most " +
                         std::to_string(kVocabSizeMax) + " are supported");
    BpeModel& bpe = state_->bpe;
    bpe.merges.reserve(rules.size());
    std::string scratch;
    for (std::size_t i = 0; i < rules.size(); ++i) {
      std::string_view left_text, right_text;
      bool good = false;
      if (const json::string* text = rules[i].if_string()) {  // "a b"
        const std::string_view rule = text_of(*text);
        const std::size_t space = rule.find(' ');
        good = space != std::string_view::npos;
        left_text = rule.substr(0, space);
        if (good) right_text = rule.substr(space + 1);
      } else if (const json::array* pair = rules[i].if_array();
                 pair != nullptr && pair->size() == 2) {  // ["a", "b"]
        good = (*pair)[0].is_string() && (*pair)[1].is_string();
        if (good) {
          left_text = text_of((*pair)[0].get_string());
          right_text = text_of((*pair)[1].get_string());
        }
      }
      if (!good || !add_written_merge(bpe, left_text, right_text, static_cast<std::uint32_t>(i), scratch))
        return field[i].error(
            "must be two tokens of the vocabulary (\"a b\" or [\"a\", \"b\"]) that joined are a third");
    }
    return {};
  }

  Result<void> load_added_tokens(const JsonField& field) {
    if (!field.present()) return {};
    if (!field.is_array()) return field.error("must be an array");
    std::vector<AddedToken> raw, normalized;
    for (std::size_t i = 0; i < field.size(); ++i) {
      const JsonField entry = field[i];
      const Result<std::int64_t> id = entry["id"].integer(0, kVocabSizeMax - 1);
      if (!id) return id.error();
      const Result<std::string_view> content = entry["content"].string();
      if (!content) return content.error();
      const Result<bool> special = entry["special"].boolean_or(false);
      if (!special) return special.error();
      const Result<bool> single_word = entry["single_word"].boolean_or(false);
      if (!single_word) return single_word.error();
      const Result<bool> lstrip = entry["lstrip"].boolean_or(false);
      if (!lstrip) return lstrip.error();
      const Result<bool> rstrip = entry["rstrip"].boolean_or(false);
      if (!rstrip) return rstrip.error();
      const Result<bool> after = entry["normalized"].boolean_or(!*special);
      if (!after) return after.error();
      if (content->empty()) continue;  // tokenizers ignores them too
      const auto token = static_cast<TokenId>(*id);
      if (state_->bpe.vocabulary.bytes(token) != *content) state_->bpe.vocabulary.set(token, *content);
      if (*special) state_->mark_special(token);
      (*after ? normalized : raw)
          .push_back({token, std::string(*content), *special, *single_word, *lstrip, *rstrip});
    }
    state_->added = AddedTokens(std::move(raw));
    state_->added_normalized = AddedTokens(std::move(normalized));
    return {};
  }

  Result<void> load_model_options(const JsonField& model) {
    for (const std::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const Result<std::string_view> affix = model[key].string_or("");
      if (!affix) return affix.error();
      if (!affix->empty()) return unsupported(model[key], *affix, "an empty one");
    }
    const Result<double> dropout = model["dropout"].number_or(0.0, 0.0, 1.0);
    if (!dropout) return dropout.error();
    if (*dropout != 0.0)
      return model["dropout"].error("is not 0; encoding is deterministic here", Errc::kUnsupported);
    const Result<bool> byte_fallback = model["byte_fallback"].boolean_or(false);
    if (!byte_fallback) return byte_fallback.error();
    if (*byte_fallback)
      return model["byte_fallback"].error("is true (SentencePiece); only byte-level BPE is supported",
                                          Errc::kUnsupported);
    const Result<bool> ignore_merges = model["ignore_merges"].boolean_or(false);
    if (!ignore_merges) return ignore_merges.error();
    state_->bpe.ignore_merges = *ignore_merges;
    const Result<bool> fuse = model["fuse_unk"].boolean_or(false);
    if (!fuse) return fuse.error();
    state_->bpe.fuse_unknown = *fuse;
    const Result<std::string_view> unknown = model["unk_token"].string_or("");
    if (!unknown) return unknown.error();
    if (!unknown->empty()) {
      state_->bpe.unknown = state_->find_token(*unknown);
      if (!state_->bpe.unknown)
        return model["unk_token"].error("is " + quote(*unknown) + ", which is no token");
    }
    return {};
  }

  /// A field that is one stage {"type": ...} or a Sequence of them under `list_key`; calls `one` for each.
  template <class One>
  Result<void> each_stage(const JsonField& field, std::string_view list_key, One one) {
    if (!field.present()) return {};
    const Result<std::string_view> type = field["type"].string();
    if (!type) return type.error();
    if (*type != "Sequence") return one(field, *type);
    const JsonField list = field[list_key];
    if (!list.is_array()) return list.error("must be an array");
    if (list.size() > kStagesMax)
      return list.error("has " + std::to_string(list.size()) + " entries; at most " +
                        std::to_string(kStagesMax) + " are supported");
    for (std::size_t i = 0; i < list.size(); ++i)
      if (auto r = each_stage(list[i], list_key, one); !r) return r;
    return {};
  }

  Result<void> load_normalizer(const JsonField& field) {
    return each_stage(field, "normalizers",
                      [&](const JsonField& stage, std::string_view type) -> Result<void> {
                        if (type != "NFC") return unsupported(stage["type"], type, "NFC, or none");
                        state_->nfc = true;
                        return {};
                      });
  }

  Result<void> load_pre_tokenizer(const JsonField& field) {
    std::size_t stages = 0;
    return each_stage(
        field, "pretokenizers", [&](const JsonField& stage, std::string_view type) -> Result<void> {
          if (byte_level_)
            return stage.error("comes after ByteLevel, which must be the last", Errc::kUnsupported);
          if (++stages > kStagesMax)
            return stage.error("is over the limit of " + std::to_string(kStagesMax) + " stages",
                               Errc::kUnsupported);
          if (type == "ByteLevel") return load_byte_level(stage);
          if (type == "Split") return load_split(stage);
          if (type == "Digits") {
            const Result<bool> individual = stage["individual_digits"].boolean_or(false);
            if (!individual) return individual.error();
            return add_split(stage, *individual ? R"(\p{N})" : R"(\p{N}+)", false, SplitBehavior::kIsolated,
                             false);
          }
          return unsupported(stage["type"], type, "ByteLevel, Split, Digits and Sequence");
        });
  }

  Result<void> load_byte_level(const JsonField& stage) {
    byte_level_ = true;
    const Result<bool> prefix_space = stage["add_prefix_space"].boolean_or(true);
    if (!prefix_space) return prefix_space.error();
    const Result<bool> use_regex = stage["use_regex"].boolean_or(true);
    if (!use_regex) return use_regex.error();
    if (*prefix_space) state_->pre_tokenizer.add_prefix_space();
    if (!*use_regex) return {};
    return add_split(stage, kGpt2Pattern, false, SplitBehavior::kIsolated, false);
  }

  Result<void> load_split(const JsonField& stage) {
    const JsonField pattern = stage["pattern"];
    const bool literal = pattern["String"].present();
    const Result<std::string_view> text = literal ? pattern["String"].string() : pattern["Regex"].string();
    if (!text) return text.error();
    const Result<bool> invert = stage["invert"].boolean_or(false);
    if (!invert) return invert.error();
    const Result<std::string_view> name = stage["behavior"].string();
    if (!name) return name.error();
    SplitBehavior behavior;
    if (*name == "Isolated")
      behavior = SplitBehavior::kIsolated;
    else if (*name == "Removed")
      behavior = SplitBehavior::kRemoved;
    else if (*name == "MergedWithPrevious")
      behavior = SplitBehavior::kMergedWithPrevious;
    else if (*name == "MergedWithNext")
      behavior = SplitBehavior::kMergedWithNext;
    else if (*name == "Contiguous")
      behavior = SplitBehavior::kContiguous;
    else
      return unsupported(stage["behavior"], *name,
                         "Isolated, Removed, MergedWithPrevious, MergedWithNext and Contiguous");
    return add_split(pattern, *text, literal, behavior, *invert);
  }

  Result<void> add_split(const JsonField& at, std::string_view pattern, bool literal, SplitBehavior behavior,
                         bool invert) {
    Result<Regex> regex = Regex::compile(pattern, literal);
    if (!regex) return at.error("has " + regex.error().message, regex.error().code);
    state_->pre_tokenizer.add({std::move(*regex), behavior, invert});
    return {};
  }

  Result<void> load_decoder(const JsonField& field) {
    return each_stage(field, "decoders", [&](const JsonField& stage, std::string_view type) -> Result<void> {
      if (type != "ByteLevel") return unsupported(stage["type"], type, "ByteLevel");
      return {};
    });
  }

  Result<void> load_post_processor(const JsonField& field) {
    return each_stage(field, "processors",
                      [&](const JsonField& stage, std::string_view type) -> Result<void> {
                        if (type == "ByteLevel") return {};  // only moves character offsets
                        if (type == "TemplateProcessing") return load_template(stage);
                        if (type == "RobertaProcessing" || type == "BertProcessing") {
                          const Result<std::int64_t> first = stage["cls"][1].integer(0, kVocabSizeMax - 1);
                          if (!first) return first.error();
                          const Result<std::int64_t> last = stage["sep"][1].integer(0, kVocabSizeMax - 1);
                          if (!last) return last.error();
                          return wrap(stage, {static_cast<TokenId>(*first)}, {static_cast<TokenId>(*last)});
                        }
                        return unsupported(stage["type"], type,
                                           "TemplateProcessing, RobertaProcessing, ByteLevel and Sequence");
                      });
  }

  Result<void> load_template(const JsonField& stage) {
    const JsonField single = stage["single"];
    if (!single.is_array()) return single.error("must be an array");
    std::vector<TokenId> before, after;
    int sequences = 0;
    for (std::size_t i = 0; i < single.size(); ++i) {
      if (single[i]["Sequence"].present()) {
        ++sequences;
        continue;
      }
      const JsonField name = single[i]["SpecialToken"]["id"];
      const Result<std::string_view> token = name.string();
      if (!token) return token.error();
      const JsonField ids = stage["special_tokens"][*token]["ids"];
      if (!ids.is_array()) return ids.error("must be an array of token ids");
      for (std::size_t k = 0; k < ids.size(); ++k) {
        const Result<std::int64_t> id = ids[k].integer(0, kVocabSizeMax - 1);
        if (!id) return id.error();
        std::vector<TokenId>& side = sequences == 0 ? before : after;
        side.push_back(static_cast<TokenId>(*id));
      }
    }
    if (sequences != 1) return single.error("must hold the sequence A exactly once");
    return wrap(stage, before, after);
  }

  /// Puts tokens around what earlier post-processors have put around the text.
  Result<void> wrap(const JsonField& stage, const std::vector<TokenId>& before,
                    const std::vector<TokenId>& after) {
    for (const auto* side : {&before, &after})
      for (const TokenId id : *side)
        if (id >= state_->bpe.vocabulary.size())
          return stage.error("names token " + std::to_string(id) + "; the vocabulary has " +
                             std::to_string(state_->bpe.vocabulary.size()));
    if (state_->prefix.size() + before.size() > kSpecialsAroundMax ||
        state_->suffix.size() + after.size() > kSpecialsAroundMax)
      return stage.error(
          "puts more than " + std::to_string(kSpecialsAroundMax) + " tokens before or after the text",
          Errc::kUnsupported);
    state_->prefix.insert(state_->prefix.begin(), before.begin(), before.end());
    state_->suffix.insert(state_->suffix.end(), after.begin(), after.end());
    return {};
  }

  JsonField root_;
  bool byte_level_ = false;
  std::unique_ptr<Tokenizer::State> state_ = std::make_unique<Tokenizer::State>();
};

}  // namespace

Result<std::unique_ptr<Tokenizer::State>> read_tokenizer_json(std::string_view text, std::string_view name) {
  if (text.size() > kTokenizerJsonBytesMax)
    return Error{Errc::kBadFile, std::string(name) + ": " + std::to_string(text.size()) +
                                     " bytes long; at most " + std::to_string(kTokenizerJsonBytesMax) +
                                     " are read"};
  const Result<json::value> root = parse_json(text, name);
  if (!root) return root.error();
  return JsonTokenizerLoader(JsonField(*root, name)).load();
}

}  // namespace spillway::model
