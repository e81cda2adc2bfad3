// SPDX-License-Identifier: Apache-2.0
#pragma once

// What a Tokenizer knows. Filled by one of the loaders (tokenizer_gguf.cpp, tokenizer_json.cpp), then
// constant.

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "model/bpe.hpp"
#include "model/pretokenizer.hpp"
#include "model/tokenizer.hpp"
#include "model/tokenizer_added.hpp"

namespace spillway::model {

struct Tokenizer::State {
  BpeModel bpe;  // its vocabulary holds the bytes of every token, added ones too
  PreTokenizer pre_tokenizer;
  bool nfc = false;                     // text is normalized to NFC first
  AddedTokens added;                    // looked for in the text as it is
  AddedTokens added_normalized;         // and after normalization
  std::vector<std::uint8_t> special;    // [vocab_size] 1: control token
  std::vector<TokenId> prefix, suffix;  // add_special_tokens
  std::optional<TokenId> bos;
  std::vector<TokenId> eos;

  void mark_special(TokenId id);
  void add_eos(TokenId id);  // ignores one that is there
  [[nodiscard]] std::optional<TokenId> find_token(std::string_view bytes) const noexcept;
};

[[nodiscard]] Result<std::unique_ptr<Tokenizer::State>> read_gguf_tokenizer(const GgufFile& file);
[[nodiscard]] Result<std::unique_ptr<Tokenizer::State>> read_tokenizer_json(std::string_view text,
                                                                            std::string_view name);

}  // namespace spillway::model
