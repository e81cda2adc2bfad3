// SPDX-License-Identifier: Apache-2.0
#pragma once

// Model families as data. A row says how a file spells its tensors and which reader turns its configuration
// into a ModelSpec. To add a family: a row here, a TensorScheme if its names are new, a reader if its fields
// are.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "model/spec.hpp"
#include "runtime/result.hpp"

namespace spillway::model {

class GgufFile;
class JsonField;

/// Limits on what a file may claim, so that sizes computed from it stay far from overflow.
inline constexpr std::int64_t kVocabSizeMax = 1 << 22;
inline constexpr std::int64_t kHiddenSizeMax = 1 << 17;
inline constexpr std::int64_t kIntermediateSizeMax = 1 << 20;
inline constexpr std::int64_t kLayersMax = 1024;
inline constexpr std::int64_t kHeadsMax = 1024;
inline constexpr std::int64_t kHeadDimMax = 1024;
inline constexpr std::int64_t kPositionsMax = 1 << 24;

/// Which of the optional tensors a model has.
struct TensorOptions {
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;
  bool final_norm = true;
};

struct Description {
  ModelSpec spec;
  TensorOptions options;
};

/// The condition under which a tensor must be there. Where it does not hold, the tensor must be absent.
enum class Need : std::uint8_t {
  kAlways,
  kQkvBias,
  kOBias,
  kMlpBias,
  kQkNorm,
  kFinalNorm,
  kProjection,
  kUntied,
};

/// A size, by its place in the spec. kOne as columns marks a vector.
enum class Dim : std::uint8_t {
  kOne,
  kHidden,
  kEmbedding,
  kIntermediate,
  kQuery,
  kKeyValue,
  kHeadDim,
  kVocab,
  kPositions,
};

enum class Scope : std::uint8_t { kRoot, kModel, kLayer };  // name | prefix name | prefix layer N . name

struct TensorRule {
  Scope scope;
  std::string_view name;
  TensorView LayerWeights::*layer;  // for kLayer, else null
  TensorView Weights::*global;      // for kRoot and kModel, else null
  Need need;
  Dim rows, cols;
};

struct TensorScheme {
  std::span<const std::string_view> prefixes;  // the first under which `probe` exists is the file's
  std::string_view probe;
  std::string_view layer;  // "layers.": followed by the number and a dot
  std::span<const TensorRule> rules;
  std::span<const std::string_view> ignored;  // ends of names that carry no weights
};

struct HfFamily {
  std::string_view model_type;    // config.json
  std::string_view architecture;  // in "architectures", for configs without model_type
  const TensorScheme* tensors;
  Result<Description> (*describe)(const HfFamily& family, const JsonField& config);
  bool bias_options = false;    // honours attention_bias and mlp_bias
  bool sliding_window = false;  // honours sliding_window
};

struct GgufFamily {
  std::string_view architecture;  // general.architecture, and the prefix of its keys
  const TensorScheme* tensors;
  Result<Description> (*describe)(const GgufFamily& family, const GgufFile& file);
  bool interleaved_rope = false;  // q and k rows are permuted to rotate neighbours
};

/// kUnsupported, listing what is supported, for any other word.
[[nodiscard]] Result<const HfFamily*> find_hf_family(const JsonField& config);
[[nodiscard]] Result<const GgufFamily*> find_gguf_family(const GgufFile& file);

/// The size a Dim stands for.
[[nodiscard]] std::uint64_t size_of(Dim dim, const ModelSpec& spec) noexcept;
[[nodiscard]] bool holds(Need need, const Description& model) noexcept;

/// Relations that spec.hpp promises to devices. `place` names the file in messages.
[[nodiscard]] Result<void> check_relations(const ModelSpec& spec, std::string_view place);

}  // namespace spillway::model
