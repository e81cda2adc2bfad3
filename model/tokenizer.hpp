// SPDX-License-Identifier: Apache-2.0
#pragma once

// Text to token ids and back, as the model's own tokenizer file says.
//
// A Tokenizer is immutable after load, owns all its memory (no view into the file it came from) and may be
// used from any thread. What it can do: byte-level BPE (GPT-2, OPT, Llama 3, Qwen2, SmolLM2, ...) from a GGUF
// file or a Hugging Face tokenizer.json. SentencePiece models are refused by name.
//
// Text that is not UTF-8 is read as Python's bytes.decode('utf-8', 'replace') reads it: each maximal broken
// sequence is one U+FFFD. So encode() gives what Hugging Face tokenizers gives for the same bytes.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/spec.hpp"
#include "runtime/result.hpp"

namespace spillway::model {

class GgufFile;
class Model;

struct EncodeOptions {
  bool add_special_tokens = true;  // BOS/EOS as the tokenizer's own settings say (not every model has them)
  bool parse_special = false;  // "<|im_end|>" in the text becomes that token; true for chat templates only
};

class Tokenizer {
 public:
  /// From the tokenizer.ggml.* keys. kUnsupported names the model or pre-tokenizer this build does not know.
  [[nodiscard]] static Result<Tokenizer> from_gguf(const GgufFile& file);

  /// From tokenizer.json alone: it names no BOS or EOS token, so bos() and eos_ids() are empty.
  [[nodiscard]] static Result<Tokenizer> from_tokenizer_json(const std::filesystem::path& path);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Token ids of `text`. Never fails: text is arbitrary bytes. Time is O(n log n) in the longest piece.
  [[nodiscard]] std::vector<TokenId> encode(std::string_view text, EncodeOptions options = {}) const;

  /// UTF-8 text of `ids`; bytes that form no character become U+FFFD. Ids out of range stand for nothing.
  [[nodiscard]] std::string decode(std::span<const TokenId> ids, bool skip_special = true) const;

  /// The raw bytes a token stands for: not necessarily whole characters. Empty for ids out of range. The view
  /// lives as long as the Tokenizer (a move keeps it).
  [[nodiscard]] std::string_view token_bytes(TokenId id) const noexcept;

  /// Control tokens such as BOS, EOS, <|im_start|>: left out of decoded text when skip_special is set.
  [[nodiscard]] bool is_special(TokenId id) const noexcept;

  /// The id whose token_bytes are exactly `bytes`; added tokens come first.
  [[nodiscard]] std::optional<TokenId> token_to_id(std::string_view bytes) const noexcept;

  /// Ids are 0 .. vocab_size()-1. May differ from ModelSpec::vocab_size, whose matrices are often padded.
  [[nodiscard]] std::int32_t vocab_size() const noexcept;

  [[nodiscard]] std::optional<TokenId> bos() const noexcept;
  /// Every token that ends an answer (end of text, end of turn); the first is the tokenizer's own EOS.
  [[nodiscard]] std::span<const TokenId> eos_ids() const noexcept;
  [[nodiscard]] bool is_eos(TokenId id) const noexcept;

  /// Longest token_bytes() of the vocabulary.
  [[nodiscard]] std::size_t token_bytes_max() const noexcept;

  struct State;  // model/tokenizer_state.hpp
  explicit Tokenizer(std::unique_ptr<const State> state) noexcept;

 private:
  std::unique_ptr<const State> state_;
};

/// The content of a tokenizer.json; `name` stands for it in messages. Any bytes are safe to pass.
[[nodiscard]] Result<Tokenizer> parse_tokenizer_json(std::string_view text, std::string_view name);

/// The tokenizer that belongs to a loaded model, whatever its format: the GGUF's own, or tokenizer.json
/// beside config.json with what tokenizer_config.json adds. eos_ids() is the model's and the tokenizer's
/// together.
[[nodiscard]] Result<Tokenizer> load_tokenizer(const Model& model);

}  // namespace spillway::model
