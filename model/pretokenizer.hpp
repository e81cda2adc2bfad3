// SPDX-License-Identifier: Apache-2.0
#pragma once

// Cuts text into the pieces that are encoded one by one: a chain of stages, each working on the pieces of the
// one before. The stages and their rules are those of Hugging Face tokenizers' pre_tokenizers.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "model/pretokenizer_regex.hpp"
#include "runtime/result.hpp"

namespace spillway::model {

/// What becomes of the text a stage's pattern matches.
enum class SplitBehavior : std::uint8_t {
  kIsolated,            // a piece of its own
  kRemoved,             // dropped
  kMergedWithPrevious,  // end of the piece before it
  kMergedWithNext,      // beginning of the piece after it
  kContiguous,          // one piece with the matches that touch it
};

struct SplitStage {
  Regex regex;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // the pattern describes the text between the matches
};

/// GPT-2's pattern, which ByteLevel(use_regex=true) means.
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

class PreTokenizer {
 public:
  void add(SplitStage stage) { stages_.push_back(std::move(stage)); }
  /// Each piece that does not begin with a space gets one, before the stage at this place in the chain.
  void add_prefix_space() { prefix_space_before_.push_back(stages_.size()); }

  using Sink = std::function<void(std::string_view)>;
  /// Calls `sink` with each piece of `text` (valid UTF-8), in order. A view is valid during its call only.
  void split(std::string_view text, const Sink& sink) const;

 private:
  void run(std::size_t stage, std::size_t prefix, std::string_view piece, Regex::Scratch& scratch,
           const Sink& sink) const;

  std::vector<SplitStage> stages_;
  std::vector<std::size_t> prefix_space_before_;
};

/// A tokenizer.ggml.pre name: how llama.cpp's converters call the pre-tokenizer of a model family.
struct PreTokenizerPreset {
  std::string_view name;
  std::vector<std::string_view> patterns;  // one isolating stage each
  bool nfc = false;
  bool ignore_merges = false;
  bool add_bos = false;  // where the file does not say
};

/// kUnsupported lists the names there are.
[[nodiscard]] Result<const PreTokenizerPreset*> find_pretokenizer_preset(std::string_view name);

}  // namespace spillway::model
