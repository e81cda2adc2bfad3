// SPDX-License-Identifier: Apache-2.0
#include "model/detokenizer.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "model/tokenizer.hpp"
#include "model/unicode.hpp"

namespace spillway::model {

void Utf8Stream::push(std::string_view bytes, std::string& text) {
  // Finish the held-back beginning first, one byte at a time: it takes at most three.
  while (held_size_ != 0 && !bytes.empty()) {
    held_[held_size_++] = bytes.front();
    const std::string_view held(held_, held_size_);
    const Utf8Step step = utf8_step(held, 0);
    if (step.truncated) {
      bytes.remove_prefix(1);
    } else if (step.valid) {
      text.append(held);
      bytes.remove_prefix(1);
      held_size_ = 0;
    } else {  // the new byte does not belong to it: that byte stays in `bytes` and starts anew
      text.append(kReplacementCharacter);
      held_size_ = 0;
    }
  }
  if (bytes.empty()) return;

  // A character has at most 4 bytes, so an unfinished one begins within the last 3.
  std::size_t whole = bytes.size();
  for (std::size_t back = 1; back <= std::min<std::size_t>(3, bytes.size()); ++back) {
    const std::size_t at = bytes.size() - back;
    if ((static_cast<unsigned char>(bytes[at]) & 0xC0) == 0x80) continue;  // not a first byte
    if (utf8_step(bytes, at).truncated) whole = at;
    break;
  }
  append_repaired_utf8(bytes.substr(0, whole), text);
  held_size_ = static_cast<std::uint8_t>(bytes.size() - whole);
  std::memcpy(held_, bytes.data() + whole, held_size_);
}

void Utf8Stream::finish(std::string& text) {
  if (held_size_ != 0) text.append(kReplacementCharacter);
  held_size_ = 0;
}

std::string IncrementalDetokenizer::push(TokenId id) {
  std::string text;
  if (skip_special_ && tokenizer_->is_special(id)) return text;
  utf8_.push(tokenizer_->token_bytes(id), text);
  return text;
}

std::string IncrementalDetokenizer::finish() {
  std::string text;
  utf8_.finish(text);
  return text;
}

StopMatcher::StopMatcher(const std::vector<std::string>& stops) : nodes_(1) {
  for (const std::string& stop : stops) {
    std::uint32_t node = 0;
    for (const char byte : stop) {
      std::uint32_t to = child(node, byte);
      if (to == 0) {
        to = static_cast<std::uint32_t>(nodes_.size());
        auto& edges = nodes_[node].edges;
        const auto at = std::lower_bound(edges.begin(), edges.end(), byte,
                                         [](const Edge& edge, char b) { return edge.byte < b; });
        edges.insert(at, Edge{byte, to});
        Node made;
        made.depth = nodes_[node].depth + 1;
        nodes_.push_back(std::move(made));
      }
      node = to;
    }
    if (node != 0) nodes_[node].match = nodes_[node].depth;
  }
  // Failure links in breadth-first order: a link points to a shallower node, whose own link is ready by then.
  std::vector<std::uint32_t> order{0};
  for (std::size_t i = 0; i < order.size(); ++i) {
    const std::uint32_t node = order[i];
    for (const Edge edge : nodes_[node].edges) {
      Node& to = nodes_[edge.node];
      if (node != 0) to.fail = next(nodes_[node].fail, edge.byte);
      if (to.match == 0) to.match = nodes_[to.fail].match;
      order.push_back(edge.node);
    }
  }
}

std::uint32_t StopMatcher::child(std::uint32_t node, char byte) const noexcept {
  const auto& edges = nodes_[node].edges;
  const auto at = std::lower_bound(edges.begin(), edges.end(), byte,
                                   [](const Edge& edge, char b) { return edge.byte < b; });
  return at != edges.end() && at->byte == byte ? at->node : 0;
}

std::uint32_t StopMatcher::next(std::uint32_t node, char byte) const noexcept {
  for (;;) {
    if (const std::uint32_t to = child(node, byte)) return to;
    if (node == 0) return 0;
    node = nodes_[node].fail;
  }
}

StopMatcher::Output StopMatcher::feed(std::string_view delta) {
  Output out;
  out.stopped = stopped_;
  if (stopped_) return out;
  if (nodes_.size() == 1) {  // no stop strings
    out.text = delta;
    return out;
  }
  out.text = std::exchange(held_, {});
  for (std::size_t i = 0; i < delta.size(); ++i) {
    state_ = next(state_, delta[i]);
    if (const std::uint32_t match = nodes_[state_].match) {
      out.text.append(delta.substr(0, i + 1));
      out.text.resize(out.text.size() - match);
      out.stopped = stopped_ = true;
      return out;
    }
  }
  out.text.append(delta);
  const std::size_t emit = out.text.size() - nodes_[state_].depth;
  held_ = out.text.substr(emit);
  out.text.resize(emit);
  return out;
}

std::string StopMatcher::finish() {
  state_ = 0;
  return std::exchange(held_, {});
}

}  // namespace spillway::model
