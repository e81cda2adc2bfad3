// SPDX-License-Identifier: Apache-2.0
#include "model/tokenizer.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "model/detokenizer.hpp"
#include "model/tokenizer_state.hpp"
#include "model/unicode.hpp"

namespace spillway::model {
namespace {

/// Text repeats its words: remembers the tokens of recent short pieces for the length of one encode() call.
/// Direct-mapped; a new piece takes the place of an old one.
class PieceCache {
 public:
  explicit PieceCache(std::size_t text_bytes)
      : entries_(text_bytes < 512 ? 0 : std::clamp<std::size_t>(std::bit_ceil(text_bytes / 16), 64, 4096)) {}

  void encode(const BpeModel& bpe, std::string_view piece, std::vector<TokenId>& out) {
    if (entries_.empty() || piece.size() > kPieceBytesMax) return bpe.encode_piece(piece, out);
    std::uint64_t low = 0, high = 0;  // the piece's bytes: the whole key, with its size
    std::memcpy(&low, piece.data(), std::min<std::size_t>(8, piece.size()));
    if (piece.size() > 8) std::memcpy(&high, piece.data() + 8, piece.size() - 8);
    const std::uint64_t mixed = (low ^ (high * 0x9E3779B97F4A7C15ull) ^ piece.size()) * 0xD6E8FEB86659FD93ull;
    Entry& entry = entries_[(mixed >> 40) & (entries_.size() - 1)];
    if (entry.size == piece.size() && entry.low == low && entry.high == high) {
      out.insert(out.end(), entry.tokens.begin(), entry.tokens.begin() + entry.count);
      return;
    }
    const std::size_t begin = out.size();
    bpe.encode_piece(piece, out);
    const std::size_t count = out.size() - begin;
    if (count > kTokensMax) return;
    entry.low = low;
    entry.high = high;
    entry.size = static_cast<std::uint8_t>(piece.size());
    entry.count = static_cast<std::uint8_t>(count);
    std::copy(out.begin() + static_cast<std::ptrdiff_t>(begin), out.end(), entry.tokens.begin());
  }

 private:
  static constexpr std::size_t kPieceBytesMax = 16, kTokensMax = 5;
  struct Entry {
    std::uint64_t low = 0, high = 0;
    std::array<TokenId, kTokensMax> tokens{};
    std::uint8_t size = 0;  // 0: free
    std::uint8_t count = 0;
  };
  std::vector<Entry> entries_;
};

}  // namespace

void Tokenizer::State::mark_special(TokenId id) {
  const auto at = static_cast<std::size_t>(id);
  if (at >= special.size()) special.resize(at + 1, 0);
  special[at] = 1;
}

void Tokenizer::State::add_eos(TokenId id) {
  if (std::find(eos.begin(), eos.end(), id) == eos.end()) eos.push_back(id);
}

std::optional<TokenId> Tokenizer::State::find_token(std::string_view bytes) const noexcept {
  if (const auto id = added.find(bytes)) return id;
  if (const auto id = added_normalized.find(bytes)) return id;
  return bpe.vocabulary.find(bytes);
}

Tokenizer::Tokenizer(std::unique_ptr<const State> state) noexcept : state_(std::move(state)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

std::vector<TokenId> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  const State& s = *state_;
  std::vector<TokenId> out;
  out.reserve(text.size() / 3 + 8);
  if (options.add_special_tokens) out.insert(out.end(), s.prefix.begin(), s.prefix.end());

  std::string repaired;
  if (!is_valid_utf8(text)) {
    append_repaired_utf8(text, repaired);
    text = repaired;
  }
  PieceCache cache(text.size());
  const auto on_token = [&](TokenId id) { out.push_back(id); };
  const PreTokenizer::Sink on_piece = [&](std::string_view piece) { cache.encode(s.bpe, piece, out); };
  const auto on_normal_text = [&](std::string_view part) { s.pre_tokenizer.split(part, on_piece); };
  const auto on_text = [&](std::string_view part) {
    std::string normal;
    if (s.nfc) {
      normal = normalize_nfc(part);
      part = normal;
    }
    s.added_normalized.split(part, options.parse_special, on_normal_text, on_token);
  };
  s.added.split(text, options.parse_special, on_text, on_token);

  if (options.add_special_tokens) out.insert(out.end(), s.suffix.begin(), s.suffix.end());
  return out;
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string text;
  Utf8Stream utf8;
  for (const TokenId id : ids)
    if (!(skip_special && is_special(id))) utf8.push(token_bytes(id), text);
  utf8.finish(text);
  return text;
}

std::string_view Tokenizer::token_bytes(TokenId id) const noexcept {
  return state_->bpe.vocabulary.bytes(id);
}

bool Tokenizer::is_special(TokenId id) const noexcept {
  return id >= 0 && static_cast<std::size_t>(id) < state_->special.size() &&
         state_->special[static_cast<std::size_t>(id)] != 0;
}

std::optional<TokenId> Tokenizer::token_to_id(std::string_view bytes) const noexcept {
  return state_->find_token(bytes);
}

std::int32_t Tokenizer::vocab_size() const noexcept { return state_->bpe.vocabulary.size(); }
std::optional<TokenId> Tokenizer::bos() const noexcept { return state_->bos; }
std::span<const TokenId> Tokenizer::eos_ids() const noexcept { return state_->eos; }
std::size_t Tokenizer::token_bytes_max() const noexcept { return state_->bpe.vocabulary.bytes_max(); }

bool Tokenizer::is_eos(TokenId id) const noexcept {
  return std::find(state_->eos.begin(), state_->eos.end(), id) != state_->eos.end();
}

}  // namespace spillway::model
