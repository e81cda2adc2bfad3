// SPDX-License-Identifier: Apache-2.0
#include "model/loader.hpp"

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <cctype>
#include <utility>

#include "model/gguf.hpp"
#include "model/gguf_config.hpp"
#include "model/hf_config.hpp"
#include "model/json.hpp"
#include "model/quote.hpp"
#include "model/safetensors.hpp"
#include "model/tensor_sources.hpp"
#include "model/weight_map.hpp"

namespace spillway::model {

namespace fs = std::filesystem;

struct Model::State {
  fs::path path;
  std::optional<GgufFile> gguf;
  std::optional<SafetensorsModel> safetensors;
  ModelSpec spec;
  Weights weights;
  std::vector<TokenId> eos_ids;
  std::optional<TokenId> bos_id;
  GenerationDefaults generation_defaults;
  std::optional<std::string> chat_template;
};

namespace {

constexpr std::size_t kChatTemplateBytesMax = std::size_t{1} << 20;

/// The ids that GGUF names as ends of an answer: of the text, of the turn, of the message.
Result<void> read_gguf_tokens(const GgufFile& file, const ModelSpec& spec, std::vector<TokenId>& eos,
                              std::optional<TokenId>& bos) {
  const auto read = [&](std::string_view key) -> Result<std::optional<TokenId>> {
    if (!file.has(key)) return std::optional<TokenId>();
    auto id = file.integer(key);
    if (!id) return std::move(id).error();
    if (*id < 0 || *id >= spec.vocab_size) return std::optional<TokenId>();
    return std::optional(static_cast<TokenId>(*id));
  };
  for (const std::string_view key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    auto id = read(key);
    if (!id) return std::move(id).error();
    if (*id && std::ranges::find(eos, **id) == eos.end()) eos.push_back(**id);
  }
  auto id = read("tokenizer.ggml.bos_token_id");
  if (!id) return std::move(id).error();
  bos = *id;
  return {};
}

bool has_suffix(const fs::path& path, std::string_view suffix) {
  std::string text = path.extension().string();
  std::ranges::transform(text, text.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text == suffix;
}

/// What to say about a directory that has no weights this build reads.
Error no_weights(const fs::path& directory, std::string_view lacking) {
  std::error_code ignored;
  std::string hint = "; a Hugging Face directory (config.json and *.safetensors) or a GGUF file is wanted";
  for (const auto& entry : fs::directory_iterator(directory, ignored)) {
    const std::string name = entry.path().filename().string();
    if (has_suffix(entry.path(), ".gguf")) {
      hint = "; to load the GGUF file in it, give that file's path (" + quote(name) + ")";
      break;
    }
    if (name.starts_with("pytorch_model") && name.find(".bin") != std::string::npos) {
      return Error{Errc::kUnsupported, directory.string() + ": weights as " + quote(name) +
                                           " (PyTorch pickles) are unsupported; convert them to safetensors"};
    }
  }
  return Error{Errc::kNotFound, directory.string() + ": no model here: " + std::string(lacking) + hint};
}

Result<std::optional<std::string>> read_chat_template(const fs::path& directory) {
  std::error_code ignored;
  // The file of its own is the newer form, and wins in transformers too.
  if (const fs::path file = directory / "chat_template.jinja"; fs::exists(file, ignored)) {
    auto text = read_text_file(file, kChatTemplateBytesMax);
    if (!text) return std::move(text).error();
    return std::optional(*std::move(text));
  }
  const fs::path file = directory / "tokenizer_config.json";
  if (!fs::exists(file, ignored)) return std::optional<std::string>();
  auto document = parse_json_file(file, kConfigBytesMax);
  if (!document) return std::move(document).error();
  const std::string name = file.string();
  JsonField field = JsonField(*document, name)["chat_template"];
  if (field.is_array()) {
    // Several named ones: the default, or the only one.
    std::size_t chosen = 0;
    for (std::size_t i = 0; i < field.size(); ++i) {
      auto label = field[i]["name"].string();
      if (!label) return std::move(label).error();
      if (*label == "default") chosen = i;
    }
    field = field[chosen]["template"];
  }
  if (!field.present()) return std::optional<std::string>();
  auto text = field.string();
  if (!text) return std::move(text).error();
  return std::optional(std::string(*text));
}

template <class Visit>
void visit_tensors(const Weights& weights, Visit&& visit) {
  const auto each = [&](const TensorView& tensor) {
    if (!tensor.empty()) visit(tensor);
  };
  each(weights.token_embedding);
  each(weights.position_embedding);
  each(weights.project_in);
  for (const LayerWeights& layer : weights.layers) {
    for (const TensorView* tensor :
         {&layer.attn_norm, &layer.attn_norm_bias, &layer.q,      &layer.q_bias,    &layer.k,  &layer.k_bias,
          &layer.v,         &layer.v_bias,         &layer.q_norm, &layer.k_norm,    &layer.o,  &layer.o_bias,
          &layer.mlp_norm,  &layer.mlp_norm_bias,  &layer.gate,   &layer.gate_bias, &layer.up, &layer.up_bias,
          &layer.down,      &layer.down_bias}) {
      each(*tensor);
    }
  }
  each(weights.final_norm);
  each(weights.final_norm_bias);
  each(weights.project_out);
  each(weights.lm_head);
  each(weights.lm_head_bias);
}

}  // namespace

/// The two ways a model comes, each filling in a State.
struct ModelLoader {
  static Result<void> gguf(Model::State& state) {
    auto file = GgufFile::open(state.path);
    if (!file) return std::move(file).error();
    state.gguf.emplace(*std::move(file));
    const GgufFile& gguf = *state.gguf;

    const GgufFamily* family = nullptr;
    auto description = describe_gguf(gguf, &family);
    if (!description) return std::move(description).error();
    auto weights = map_weights(GgufSource(gguf), *family->tensors, *description);
    if (!weights) return std::move(weights).error();
    state.weights = *std::move(weights);
    state.spec = std::move(description->spec);
    state.spec.name = state.path.stem().string();
    if (gguf.has("general.name")) {
      auto name = gguf.string("general.name");
      if (!name) return std::move(name).error();
      state.spec.name = std::string(*name);
    }
    if (gguf.has("tokenizer.chat_template")) {
      auto text = gguf.string("tokenizer.chat_template");
      if (!text) return std::move(text).error();
      if (text->size() > kChatTemplateBytesMax) {
        return Error{Errc::kBadFile, gguf.name() + ": metadata key 'tokenizer.chat_template' is " +
                                         std::to_string(text->size()) + " bytes long; at most " +
                                         std::to_string(kChatTemplateBytesMax) + " are read"};
      }
      state.chat_template = std::string(*text);
    }
    return read_gguf_tokens(gguf, state.spec, state.eos_ids, state.bos_id);
  }

  static Result<void> directory(Model::State& state, LoadFormat format) {
    const fs::path config_path = state.path / "config.json";
    std::error_code ignored;
    if (!fs::exists(config_path, ignored)) return no_weights(state.path, "config.json is missing");
    auto document = parse_json_file(config_path, kConfigBytesMax);
    if (!document) return std::move(document).error();
    const std::string config_name = config_path.string();
    const JsonField config(*document, config_name);
    const HfFamily* family = nullptr;
    auto description = describe_hf(config, &family);
    if (!description) return std::move(description).error();

    if (format == LoadFormat::kAuto) {
      auto files = SafetensorsModel::open(state.path);
      if (!files) {
        if (files.error().code == Errc::kNotFound) {
          return no_weights(state.path, "model.safetensors and model.safetensors.index.json are missing");
        }
        return std::move(files).error();
      }
      state.safetensors.emplace(*std::move(files));
      auto weights = map_weights(SafetensorsSource(*state.safetensors), *family->tensors, *description);
      if (!weights) return std::move(weights).error();
      state.weights = *std::move(weights);
    }
    state.spec = std::move(description->spec);
    state.spec.name = fs::weakly_canonical(state.path, ignored).filename().string();

    if (auto done = token_ids(state, config); !done) return done;
    auto text = read_chat_template(state.path);
    if (!text) return std::move(text).error();
    state.chat_template = *std::move(text);
    return {};
  }

  static Result<void> token_ids(Model::State& state, const JsonField& config) {
    const auto merge = [&](const JsonField& source) -> Result<void> {
      auto eos = read_token_ids(source["eos_token_id"], state.spec.vocab_size);
      if (!eos) return std::move(eos).error();
      for (const TokenId id : *eos) {
        if (std::ranges::find(state.eos_ids, id) == state.eos_ids.end()) state.eos_ids.push_back(id);
      }
      auto bos = read_token_ids(source["bos_token_id"], state.spec.vocab_size);
      if (!bos) return std::move(bos).error();
      if (!state.bos_id && !bos->empty()) state.bos_id = bos->front();
      return {};
    };
    if (auto done = merge(config); !done) return done;
    const fs::path path = state.path / "generation_config.json";
    std::error_code ignored;
    if (!fs::exists(path, ignored)) return {};
    auto document = parse_json_file(path, kConfigBytesMax);
    if (!document) return std::move(document).error();
    const std::string name = path.string();
    const JsonField generation(*document, name);
    if (auto done = merge(generation); !done) return done;
    auto defaults = read_generation_defaults(generation);
    if (!defaults) return std::move(defaults).error();
    state.generation_defaults = *defaults;
    return {};
  }
};

Result<Model> Model::load(const fs::path& path, LoadFormat format) {
  auto state = std::make_unique<State>();
  state->path = path;
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) {
    return Error{Errc::kNotFound, path.string() +
                                      ": no such file or directory; a GGUF file or a Hugging Face "
                                      "directory is wanted"};
  }
  if (error) return Error{Errc::kIo, path.string() + ": " + error.message()};
  if (fs::is_directory(status)) {
    // Listing it tells an unreadable directory from an empty one.
    fs::directory_iterator probe(path, error);
    if (error) return Error{Errc::kIo, path.string() + ": " + error.message()};
    if (auto done = ModelLoader::directory(*state, format); !done) return std::move(done).error();
    return Model(std::move(state));
  }
  if (has_suffix(path, ".safetensors") || has_suffix(path, ".json")) {
    return Error{Errc::kInvalidArgument, path.string() +
                                             ": give the directory that holds config.json and the "
                                             "weights, not a file in it"};
  }
  if (has_suffix(path, ".bin") || has_suffix(path, ".pt") || has_suffix(path, ".pth")) {
    return Error{Errc::kUnsupported,
                 path.string() + ": PyTorch pickles are unsupported; convert them to safetensors"};
  }
  if (format == LoadFormat::kDummy) {
    return Error{Errc::kInvalidArgument, path.string() +
                                             ": random weights are made for a Hugging Face directory's config.json; "
                                             "this is a file with weights of its own"};
  }
  if (auto done = ModelLoader::gguf(*state); !done) return std::move(done).error();
  return Model(std::move(state));
}

Model::Model(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

const ModelSpec& Model::spec() const noexcept { return state_->spec; }
const Weights& Model::weights() const noexcept { return state_->weights; }
const fs::path& Model::path() const noexcept { return state_->path; }
std::span<const TokenId> Model::eos_ids() const noexcept { return state_->eos_ids; }
std::optional<TokenId> Model::bos_id() const noexcept { return state_->bos_id; }
const GenerationDefaults& Model::generation_defaults() const noexcept { return state_->generation_defaults; }
const std::optional<std::string>& Model::chat_template() const noexcept { return state_->chat_template; }
const GgufFile* Model::gguf() const noexcept { return state_->gguf ? &*state_->gguf : nullptr; }

std::optional<fs::path> Model::sibling(std::string_view file_name) const {
  if (state_->gguf) return std::nullopt;
  fs::path path = state_->path / file_name;
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return std::nullopt;
  return path;
}

std::vector<const TensorView*> Model::tensors() const {
  std::vector<const TensorView*> out;
  visit_tensors(state_->weights, [&](const TensorView& tensor) { out.push_back(&tensor); });
  return out;
}

DType Model::dominant_dtype() const noexcept {
  std::array<std::uint64_t, 8> bytes{};
  visit_tensors(state_->weights, [&](const TensorView& tensor) {
    bytes[static_cast<std::size_t>(tensor.dtype)] += tensor.data.size();
  });
  return static_cast<DType>(std::ranges::max_element(bytes) - bytes.begin());
}

std::uint64_t Model::weight_bytes() const noexcept {
  std::uint64_t total = 0;
  visit_tensors(state_->weights, [&](const TensorView& tensor) { total += tensor.data.size(); });
  return total;
}

std::uint64_t Model::parameter_count() const noexcept {
  std::uint64_t total = 0;
  visit_tensors(state_->weights, [&](const TensorView& tensor) { total += tensor.rows() * tensor.cols(); });
  return total;
}

void Model::release_pages(const TensorView& tensor) const noexcept {
  if (state_->gguf) state_->gguf->mapping().release_pages(tensor.data);
  if (!state_->safetensors) return;
  for (const MappedFile& mapping : state_->safetensors->mappings()) mapping.release_pages(tensor.data);
}

}  // namespace spillway::model
