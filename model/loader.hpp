// SPDX-License-Identifier: Apache-2.0
#pragma once

// Model: a model file or directory, opened. Owns the mappings that all weight views point into; immutable after
// load, so any thread may read it. A Hugging Face directory holds config.json and *.safetensors; a GGUF file
// everything. Nothing here runs the model.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/spec.hpp"
#include "runtime/result.hpp"

namespace spillway::model {

class GgufFile;

/// What generation_config.json suggests; empty where it is silent. A request's own values win.
struct GenerationDefaults {
  std::optional<float> temperature, top_p, repetition_penalty;
  std::optional<std::int32_t> top_k;
};

/// kDummy: a Hugging Face directory's config.json (and tokenizer) without its weights, for a device that makes
/// random ones in their place: to measure a shape that was never downloaded.
enum class LoadFormat : std::uint8_t { kAuto, kDummy };

class Model {
 public:
  /// MODEL is a GGUF file or a Hugging Face directory. Errors name file, field or tensor, and what would be right:
  /// kNotFound (no such path, no weights in it), kBadFile (content), kUnsupported (architecture, option, type), kIo.
  [[nodiscard]] static Result<Model> load(const std::filesystem::path& path,
                                          LoadFormat format = LoadFormat::kAuto);

  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;
  ~Model();

  [[nodiscard]] const ModelSpec& spec() const noexcept;
  [[nodiscard]] const Weights& weights() const noexcept;
  [[nodiscard]] const std::filesystem::path& path() const noexcept;  // as given to load

  /// Ids that end an answer: config.json's and generation_config.json's together, or GGUF's eos and eot. May be
  /// empty; ids are inside the vocabulary.
  [[nodiscard]] std::span<const TokenId> eos_ids() const noexcept;
  [[nodiscard]] std::optional<TokenId> bos_id() const noexcept;
  [[nodiscard]] const GenerationDefaults& generation_defaults() const noexcept;
  /// Source of the model's chat template (Jinja), if it brings one.
  [[nodiscard]] const std::optional<std::string>& chat_template() const noexcept;

  /// The GGUF file, or null for a Hugging Face directory.
  [[nodiscard]] const GgufFile* gguf() const noexcept;
  /// A file of that name beside config.json ("tokenizer.json", "tokenizer_config.json", ...), if it exists.
  /// Always empty for GGUF.
  [[nodiscard]] std::optional<std::filesystem::path> sibling(std::string_view file_name) const;

  /// Type that holds most of the weight bytes: kF32 means the KV cache should be fp32 too.
  [[nodiscard]] DType dominant_dtype() const noexcept;
  [[nodiscard]] std::uint64_t weight_bytes() const noexcept;
  [[nodiscard]] std::uint64_t parameter_count() const noexcept;
  /// Every tensor in use, in the order of the forward pass.
  [[nodiscard]] std::vector<const TensorView*> tensors() const;

  /// Drops a tensor's pages from resident memory once it was copied or repacked. It stays readable (from disk).
  void release_pages(const TensorView& tensor) const noexcept;

 private:
  friend struct ModelLoader;
  struct State;
  explicit Model(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

}  // namespace spillway::model
