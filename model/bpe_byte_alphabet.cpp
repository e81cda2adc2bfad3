// SPDX-License-Identifier: Apache-2.0
#include "model/bpe_byte_alphabet.hpp"

#include <array>
#include <cstddef>
#include <cstdint>

#include "model/unicode.hpp"

namespace spillway::model {
namespace {

constexpr std::size_t kCodes = 256 + 68;

/// By character code: the byte it stands for, or -1.
constexpr std::array<std::int16_t, kCodes> make_bytes() {
  std::array<std::int16_t, kCodes> bytes{};
  bytes.fill(-1);
  std::size_t next = 256;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
    bytes[printable ? byte : next++] = static_cast<std::int16_t>(byte);
  }
  return bytes;
}
constexpr std::array<std::int16_t, kCodes> kBytes = make_bytes();

}  // namespace

bool append_unwritten_bytes(std::string_view written, std::string& out) {
  const std::size_t before = out.size();
  for (std::size_t at = 0; at < written.size();) {
    char32_t code = static_cast<unsigned char>(written[at]);
    std::size_t size = 1;
    if (code >= 0x80) {
      const Utf8Step step = utf8_step(written, at);
      code = step.valid ? step.code : kCodes;
      size = step.size;
    }
    if (code >= kCodes || kBytes[code] < 0) {
      out.resize(before);
      return false;
    }
    out.push_back(static_cast<char>(kBytes[code]));
    at += size;
  }
  return true;
}

bool add_written_merge(BpeModel& bpe, std::string_view left, std::string_view right, std::uint32_t rank,
                       std::string& scratch) {
  scratch.clear();
  if (!append_unwritten_bytes(left, scratch)) return false;
  const std::size_t left_size = scratch.size();
  if (!append_unwritten_bytes(right, scratch)) return false;
  const std::string_view both(scratch);
  const auto left_id = bpe.vocabulary.find(both.substr(0, left_size));
  const auto right_id = bpe.vocabulary.find(both.substr(left_size));
  const auto joined_id = bpe.vocabulary.find(both);
  if (!left_id || !right_id || !joined_id) return false;
  bpe.merges.add(*left_id, *right_id, {rank, *joined_id});
  return true;
}

}  // namespace spillway::model
