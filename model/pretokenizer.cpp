// SPDX-License-Identifier: Apache-2.0
#include "model/pretokenizer.hpp"

namespace spillway::model {
namespace {

/// Collects the pieces of one stage under its behavior: `delimiter` says whether [begin, end) matched.
template <class Emit>
class PieceJoiner {
 public:
  PieceJoiner(SplitBehavior behavior, Emit emit) : behavior_(behavior), emit_(std::move(emit)) {}

  void add(std::size_t begin, std::size_t end, bool delimiter) {
    if (begin == end) return;
    switch (behavior_) {
      case SplitBehavior::kIsolated:
        emit_(begin, end);
        return;
      case SplitBehavior::kRemoved:
        if (!delimiter) emit_(begin, end);
        return;
      case SplitBehavior::kMergedWithPrevious:
        if (delimiter && open_ && !open_delimiter_) return close(end);
        break;
      case SplitBehavior::kMergedWithNext:
        if (!delimiter && open_ && open_delimiter_) return close(end);
        break;
      case SplitBehavior::kContiguous:
        if (open_ && delimiter == open_delimiter_) {
          end_ = end;
          return;
        }
        break;
    }
    finish();
    open_ = true;
    open_delimiter_ = delimiter;
    begin_ = begin;
    end_ = end;
  }

  void finish() {
    if (open_) emit_(begin_, end_);
    open_ = false;
  }

 private:
  void close(std::size_t end) {
    emit_(begin_, end);
    open_ = false;
  }

  SplitBehavior behavior_;
  Emit emit_;
  bool open_ = false, open_delimiter_ = false;
  std::size_t begin_ = 0, end_ = 0;
};

std::size_t next_character(std::string_view text, std::size_t at) noexcept {
  do ++at;
  while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  return at;
}

}  // namespace

void PreTokenizer::split(std::string_view text, const Sink& sink) const {
  if (text.empty()) return;
  Regex::Scratch scratch;
  run(0, 0, text, scratch, sink);
}

void PreTokenizer::run(std::size_t stage, std::size_t prefix, std::string_view piece, Regex::Scratch& scratch,
                       const Sink& sink) const {
  if (prefix < prefix_space_before_.size() && prefix_space_before_[prefix] == stage) {
    if (piece.front() == ' ') return run(stage, prefix + 1, piece, scratch, sink);
    std::string with_space;
    with_space.reserve(piece.size() + 1);
    with_space.append(1, ' ').append(piece);
    return run(stage, prefix + 1, with_space, scratch, sink);
  }
  if (stage == stages_.size()) return sink(piece);

  const SplitStage& split = stages_[stage];
  PieceJoiner joiner(split.behavior, [&](std::size_t begin, std::size_t end) {
    run(stage + 1, prefix, piece.substr(begin, end - begin), scratch, sink);
  });
  std::size_t done = 0, from = 0;
  Regex::Match match{};
  while (from <= piece.size() && split.regex.find(piece, from, scratch, match)) {
    joiner.add(done, match.begin, split.invert);
    joiner.add(match.begin, match.end, !split.invert);
    done = match.end;
    from = match.end > match.begin ? match.end : next_character(piece, match.end);
  }
  joiner.add(done, piece.size(), split.invert);
  joiner.finish();
}

}  // namespace spillway::model
