// SPDX-License-Identifier: Apache-2.0
#pragma once

// Byte-pair encoding of one piece of text: start with one symbol per byte, then always join the adjacent pair
// whose merge rule comes first in the model's list (the leftmost such pair), until no rule applies.
// Sennrich et al. 2016, section 3.2, over bytes (Radford et al. 2019).

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/spec.hpp"

namespace spillway::model {

/// More ids than any vocabulary in use (Gemma 3: 262,144), few enough that a hostile file stays small.
inline constexpr std::int32_t kVocabSizeMax = 1 << 22;

/// The tokens' bytes, in one arena, by id; and the way back by an open-addressing hash table.
class Vocabulary {
 public:
  void reserve(std::size_t tokens, std::size_t bytes);
  /// Gives `id` its bytes; ids may come in any order and leave holes. 0 <= id < kVocabSizeMax.
  void set(TokenId id, std::string_view bytes);
  /// Makes `id` the answer to find(bytes of id), unless an earlier call has claimed these bytes.
  void index(TokenId id);

  [[nodiscard]] std::optional<TokenId> find(std::string_view bytes) const noexcept;
  [[nodiscard]] std::string_view bytes(TokenId id) const noexcept {
    if (id < 0 || id >= size()) return {};
    const Span span = spans_[static_cast<std::size_t>(id)];
    return std::string_view(arena_).substr(span.begin, span.size);
  }
  [[nodiscard]] std::int32_t size() const noexcept { return static_cast<std::int32_t>(spans_.size()); }
  [[nodiscard]] std::size_t bytes_max() const noexcept { return bytes_max_; }

 private:
  struct Span {
    std::uint32_t begin = 0, size = 0;
  };
  struct Slot {
    std::uint32_t hash = 0;
    TokenId id = -1;
  };
  void grow();

  std::string arena_;
  std::vector<Span> spans_;
  std::vector<Slot> slots_;  // size is a power of two, at most half full
  std::size_t indexed_ = 0;
  std::size_t bytes_max_ = 0;
};

/// The merge rules: (left, right) -> rank and the joined token.
class MergeTable {
 public:
  struct Rule {
    std::uint32_t rank = kNone;
    TokenId joined = -1;
  };
  static constexpr std::uint32_t kNone = 0xFFFFFFFF;

  void reserve(std::size_t rules);
  /// A second rule for a pair replaces the first, as in Hugging Face tokenizers.
  void add(TokenId left, TokenId right, Rule rule);
  [[nodiscard]] Rule find(TokenId left, TokenId right) const noexcept {
    if (slots_.empty()) return {};
    const std::uint64_t key = pack(left, right);
    for (std::size_t at = place(key);; at = (at + 1) & (slots_.size() - 1)) {
      if (slots_[at].rule.rank == kNone) return {};
      if (slots_[at].key == key) return slots_[at].rule;
    }
  }
  [[nodiscard]] std::size_t size() const noexcept { return count_; }

 private:
  struct Slot {
    std::uint64_t key = 0;
    Rule rule;
  };
  [[nodiscard]] static std::uint64_t pack(TokenId left, TokenId right) noexcept {
    return (std::uint64_t{static_cast<std::uint32_t>(left)} << 32) | static_cast<std::uint32_t>(right);
  }
  [[nodiscard]] std::size_t place(std::uint64_t key) const noexcept {
    return static_cast<std::size_t>((key * 0x9E3779B97F4A7C15ull) >> shift_);
  }
  void rehash(std::size_t slots);

  std::vector<Slot> slots_;  // size is a power of two, at most half full
  std::size_t count_ = 0;
  int shift_ = 63;
};

/// A byte-level BPE model. Filled by a loader, then constant.
struct BpeModel {
  Vocabulary vocabulary;
  MergeTable merges;
  std::array<TokenId, 256> byte_tokens{};  // -1: the vocabulary lacks that byte
  std::optional<TokenId> unknown;          // stands for bytes it lacks; without it they are dropped
  bool fuse_unknown = false;               // one `unknown` for a run of such bytes
  bool ignore_merges = false;              // a piece that is a token is that token (Llama 3)

  /// Looks up the 256 single-byte tokens. Call once the vocabulary is complete.
  void find_byte_tokens() noexcept;

  /// Appends the tokens of `piece`. O(n log n).
  void encode_piece(std::string_view piece, std::vector<TokenId>& out) const;
};

}  // namespace spillway::model
