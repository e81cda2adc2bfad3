// SPDX-License-Identifier: Apache-2.0
#include <array>

#include "model/pretokenizer.hpp"
#include "model/quote.hpp"

namespace spillway::model {
namespace {

constexpr std::string_view kDigit = R"(\p{N})";
constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekkenPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// Names that share a row's pattern list come as rows of their own: a reader finds a name by looking for it.
const std::array kPresets = {
    PreTokenizerPreset{"default", {kGpt2Pattern}},
    PreTokenizerPreset{"gpt-2", {kGpt2Pattern}},
    PreTokenizerPreset{"gpt2", {kGpt2Pattern}},
    PreTokenizerPreset{"mpt", {kGpt2Pattern}},
    PreTokenizerPreset{"olmo", {kGpt2Pattern}},
    PreTokenizerPreset{"opt", {kGpt2Pattern}, false, false, true},
    PreTokenizerPreset{"smollm", {kDigit, kGpt2Pattern}},
    PreTokenizerPreset{"starcoder", {kDigit, kGpt2Pattern}},
    PreTokenizerPreset{"llama-bpe", {kLlama3Pattern}, false, true, true},
    PreTokenizerPreset{"llama3", {kLlama3Pattern}, false, true, true},
    PreTokenizerPreset{"llama-v3", {kLlama3Pattern}, false, true, true},
    PreTokenizerPreset{"qwen2", {kQwen2Pattern}, true},
    PreTokenizerPreset{"deepseek-r1-qwen", {kQwen2Pattern}, true},
    PreTokenizerPreset{"tekken", {kTekkenPattern}, false, true, true},
};

}  // namespace

Result<const PreTokenizerPreset*> find_pretokenizer_preset(std::string_view name) {
  std::string known;
  for (const PreTokenizerPreset& preset : kPresets) {
    if (preset.name == name) return &preset;
    if (!known.empty()) known += ", ";
    known += preset.name;
  }
  return Error{Errc::kUnsupported, "pre-tokenizer " + quote(name, 80) + " is not known; known are " + known};
}

}  // namespace spillway::model
