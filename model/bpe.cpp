// SPDX-License-Identifier: Apache-2.0
#include "model/bpe.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <queue>
#include <utility>

#include "runtime/check.hpp"

namespace spillway::model {
namespace {

/// Multiply-and-fold over 8-byte words: quick for the short strings of a vocabulary.
std::uint32_t hash_bytes(std::string_view bytes) noexcept {
  std::uint64_t state = 0x243F6A8885A308D3ull ^ (bytes.size() * 0x9E3779B97F4A7C15ull);
  const auto mix = [&](std::uint64_t word) {
    const auto product = static_cast<unsigned __int128>(state ^ word) * 0xD6E8FEB86659FD93ull;
    state = static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
  };
  while (bytes.size() >= 8) {
    std::uint64_t word;
    std::memcpy(&word, bytes.data(), 8);
    mix(word);
    bytes.remove_prefix(8);
  }
  std::uint64_t word = 0;
  for (const char byte : bytes) word = (word << 8) | static_cast<unsigned char>(byte);
  mix(word);
  return static_cast<std::uint32_t>(state ^ (state >> 32));
}

/// The symbols of `piece` before any merge.
void start_symbols(const BpeModel& model, std::string_view piece, std::vector<TokenId>& symbols) {
  bool after_unknown = false;
  for (const char byte : piece) {
    const TokenId token = model.byte_tokens[static_cast<unsigned char>(byte)];
    if (token >= 0) {
      symbols.push_back(token);
      after_unknown = false;
    } else if (model.unknown && !(model.fuse_unknown && after_unknown)) {
      symbols.push_back(*model.unknown);
      after_unknown = true;
    }
  }
}

/// Pieces are mostly words: up to this many symbols a scan for the best pair beats a heap.
constexpr std::size_t kScanSymbolsMax = 48;

/// Scans for the best pair before each merge: O(n^2), so for short pieces only. Returns the count that is
/// left.
std::size_t merge_by_scan(const MergeTable& merges, TokenId* symbols, std::size_t count) {
  MergeTable::Rule rules[kScanSymbolsMax];  // rules[i] would join symbols i and i+1
  for (std::size_t i = 0; i + 1 < count; ++i) rules[i] = merges.find(symbols[i], symbols[i + 1]);
  while (count > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < count; ++i)
      if (rules[i].rank < rules[best].rank) best = i;
    if (rules[best].rank == MergeTable::kNone) break;
    symbols[best] = rules[best].joined;
    for (std::size_t i = best + 1; i + 1 < count; ++i) {
      symbols[i] = symbols[i + 1];
      rules[i] = rules[i + 1];
    }
    --count;
    if (best > 0) rules[best - 1] = merges.find(symbols[best - 1], symbols[best]);
    if (best + 1 < count) rules[best] = merges.find(symbols[best], symbols[best + 1]);
  }
  return count;
}

/// A linked list of symbols and a heap of possible merges: O(n log n). Entries that a merge beside them has
/// made stale stay in the heap and are skipped when they come up.
void merge_by_heap(const MergeTable& merges, std::vector<TokenId>& symbols) {
  constexpr std::uint32_t kEnd = 0xFFFFFFFF;
  struct Link {
    std::uint32_t previous, next;
  };
  struct Candidate {
    std::uint32_t rank, at;  // `at` is the left symbol
    TokenId left, right, joined;
    bool operator>(const Candidate& other) const noexcept {
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  constexpr TokenId kGone = -1;
  const auto count = static_cast<std::uint32_t>(symbols.size());
  std::vector<Link> links(count);
  for (std::uint32_t i = 0; i < count; ++i) links[i] = {i == 0 ? kEnd : i - 1, i + 1 == count ? kEnd : i + 1};

  std::vector<Candidate> storage;
  storage.reserve(count);
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(std::greater<>{},
                                                                               std::move(storage));
  const auto offer = [&](std::uint32_t at) {
    const std::uint32_t right = links[at].next;
    if (right == kEnd) return;
    const MergeTable::Rule rule = merges.find(symbols[at], symbols[right]);
    if (rule.rank != MergeTable::kNone) queue.push({rule.rank, at, symbols[at], symbols[right], rule.joined});
  };
  for (std::uint32_t i = 0; i + 1 < count; ++i) offer(i);

  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    if (symbols[best.at] != best.left) continue;
    const std::uint32_t right = links[best.at].next;
    if (right == kEnd || symbols[right] != best.right) continue;
    symbols[best.at] = best.joined;
    symbols[right] = kGone;
    links[best.at].next = links[right].next;
    if (links[right].next != kEnd) links[links[right].next].previous = best.at;
    if (links[best.at].previous != kEnd) offer(links[best.at].previous);
    offer(best.at);
  }
  std::erase(symbols, kGone);
}

}  // namespace

void Vocabulary::reserve(std::size_t tokens, std::size_t bytes) {
  spans_.reserve(tokens);
  arena_.reserve(bytes);
  const std::size_t slots = std::bit_ceil(std::max<std::size_t>(64, tokens * 2));
  if (indexed_ == 0 && slots > slots_.size()) slots_.assign(slots, Slot{});
}

void Vocabulary::set(TokenId id, std::string_view bytes) {
  SPW_CHECK(id >= 0 && id < kVocabSizeMax);
  const auto at = static_cast<std::size_t>(id);
  if (at >= spans_.size()) spans_.resize(at + 1);
  spans_[at] = {static_cast<std::uint32_t>(arena_.size()), static_cast<std::uint32_t>(bytes.size())};
  arena_.append(bytes);
  bytes_max_ = std::max(bytes_max_, bytes.size());
}

void Vocabulary::index(TokenId id) {
  if ((indexed_ + 1) * 2 > slots_.size()) grow();
  const std::string_view key = bytes(id);
  const std::uint32_t hash = hash_bytes(key);
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t at = hash & mask;; at = (at + 1) & mask) {
    if (slots_[at].id < 0) {
      slots_[at] = {hash, id};
      ++indexed_;
      return;
    }
    if (slots_[at].hash == hash && bytes(slots_[at].id) == key) return;
  }
}

void Vocabulary::grow() {
  std::vector<Slot> old(std::max<std::size_t>(64, slots_.size() * 2));
  old.swap(slots_);
  const std::size_t mask = slots_.size() - 1;
  for (const Slot slot : old) {
    if (slot.id < 0) continue;
    std::size_t at = slot.hash & mask;
    while (slots_[at].id >= 0) at = (at + 1) & mask;
    slots_[at] = slot;
  }
}

std::optional<TokenId> Vocabulary::find(std::string_view key) const noexcept {
  if (slots_.empty()) return std::nullopt;
  const std::uint32_t hash = hash_bytes(key);
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t at = hash & mask; slots_[at].id >= 0; at = (at + 1) & mask)
    if (slots_[at].hash == hash && bytes(slots_[at].id) == key) return slots_[at].id;
  return std::nullopt;
}

void MergeTable::reserve(std::size_t rules) {
  const std::size_t slots = std::bit_ceil(std::max<std::size_t>(64, rules * 2));
  if (slots > slots_.size()) rehash(slots);
}

void MergeTable::rehash(std::size_t slots) {
  std::vector<Slot> old(slots);
  old.swap(slots_);
  shift_ = 64 - std::countr_zero(slots);
  for (const Slot& slot : old) {
    if (slot.rule.rank == kNone) continue;
    std::size_t at = place(slot.key);
    while (slots_[at].rule.rank != kNone) at = (at + 1) & (slots - 1);
    slots_[at] = slot;
  }
}

void MergeTable::add(TokenId left, TokenId right, Rule rule) {
  if ((count_ + 1) * 2 > slots_.size()) rehash(std::max<std::size_t>(64, slots_.size() * 2));
  const std::uint64_t key = pack(left, right);
  std::size_t at = place(key);
  while (slots_[at].rule.rank != kNone) {
    if (slots_[at].key == key) {
      slots_[at].rule = rule;
      return;
    }
    at = (at + 1) & (slots_.size() - 1);
  }
  slots_[at] = {key, rule};
  ++count_;
}

void BpeModel::find_byte_tokens() noexcept {
  for (std::size_t i = 0; i < byte_tokens.size(); ++i) {
    const char byte = static_cast<char>(i);
    byte_tokens[i] = vocabulary.find({&byte, 1}).value_or(-1);
  }
}

void BpeModel::encode_piece(std::string_view piece, std::vector<TokenId>& out) const {
  if (ignore_merges) {
    if (const auto whole = vocabulary.find(piece)) {
      out.push_back(*whole);
      return;
    }
  }
  if (piece.size() <= kScanSymbolsMax) {
    const std::size_t begin = out.size();
    start_symbols(*this, piece, out);
    const std::size_t left = merge_by_scan(merges, out.data() + begin, out.size() - begin);
    out.resize(begin + left);
    return;
  }
  std::vector<TokenId> symbols;
  symbols.reserve(piece.size());
  start_symbols(*this, piece, symbols);
  merge_by_heap(merges, symbols);
  out.insert(out.end(), symbols.begin(), symbols.end());
}

}  // namespace spillway::model
