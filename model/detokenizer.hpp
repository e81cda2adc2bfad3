// SPDX-License-Identifier: Apache-2.0
#pragma once

// Token ids to text as they arrive. One object belongs to one stream.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/spec.hpp"

namespace spillway::model {

class Tokenizer;

/// Turns a stream of bytes into UTF-8 text that never ends inside a character. The texts of all push() calls
/// and of finish(), joined, are the whole byte stream decoded with each maximal broken sequence as one U+FFFD
/// (Unicode 15 section 3.9, "substitution of maximal subparts"; Python's errors='replace').
class Utf8Stream {
 public:
  /// Appends to `text` what `bytes` completes; holds back at most 3 bytes of an unfinished character.
  void push(std::string_view bytes, std::string& text);
  /// The stream has ended: a held-back beginning becomes one U+FFFD.
  void finish(std::string& text);
  [[nodiscard]] bool holds_back() const noexcept { return held_size_ != 0; }

 private:
  char held_[4] = {};
  std::uint8_t held_size_ = 0;
};

class IncrementalDetokenizer {
 public:
  /// `tokenizer` outlives this object.
  explicit IncrementalDetokenizer(const Tokenizer& tokenizer, bool skip_special = true) noexcept
      : tokenizer_(&tokenizer), skip_special_(skip_special) {}

  /// The text that `id` adds; often empty while a character is incomplete.
  [[nodiscard]] std::string push(TokenId id);
  /// Ends the stream; returns U+FFFD if it ended inside a character.
  [[nodiscard]] std::string finish();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  Utf8Stream utf8_;
};

/// Looks for stop strings in streamed text, wherever the stream is cut into pieces. The stop string that is
/// complete first wins, the longest of those complete at the same byte; it is not part of the text. Text is
/// held back only as far as it is a proper beginning of a stop string.
class StopMatcher {
 public:
  /// Empty stop strings are ignored. Memory is proportional to their total length.
  explicit StopMatcher(const std::vector<std::string>& stops);

  struct Output {
    std::string text;  // safe to emit
    bool stopped = false;
  };
  /// After `stopped` has been returned, everything further is swallowed.
  [[nodiscard]] Output feed(std::string_view delta);
  /// The stream ended without a stop string: what was held back.
  [[nodiscard]] std::string finish();

  [[nodiscard]] bool stopped() const noexcept { return stopped_; }

 private:
  struct Edge {
    char byte;
    std::uint32_t node;
  };
  struct Node {               // a beginning of some stop string
    std::vector<Edge> edges;  // sorted by byte
    std::uint32_t fail = 0;   // the longest proper suffix of this node that is a node too
    std::uint32_t depth = 0;  // its length, bytes
    std::uint32_t match = 0;  // length of the longest stop string that ends here; 0: none
  };
  [[nodiscard]] std::uint32_t child(std::uint32_t node, char byte) const noexcept;  // 0: none
  [[nodiscard]] std::uint32_t next(std::uint32_t node, char byte) const noexcept;

  std::vector<Node> nodes_;  // Aho-Corasick automaton; node 0 is the empty beginning
  std::uint32_t state_ = 0;
  std::string held_;  // the last nodes_[state_].depth bytes of the text so far
  bool stopped_ = false;
};

}  // namespace spillway::model
