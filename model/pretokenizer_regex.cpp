// SPDX-License-Identifier: Apache-2.0
#include "model/pretokenizer_regex.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "model/quote.hpp"
#include "runtime/check.hpp"

namespace spillway::model {
namespace {

constexpr std::size_t kPatternBytesMax = 16 << 10;  // the longest in use has under 1 KiB
constexpr std::uint32_t kHeapKiBMax = 32 << 10;     // of the interpreter, where JIT ran out of stack

Error bad_pattern(std::string_view pattern, std::size_t at, std::string_view what,
                  Errc code = Errc::kBadFile) {
  return {code, "regular expression " + quote(pattern, 200) + ", offset " + std::to_string(at) + ": " +
                    std::string(what)};
}

/// Oniguruma's pattern as PCRE2 understands it.
Result<std::string> translate(std::string_view pattern) {
  constexpr std::string_view kSpace =
      "\\t-\\r\\x{20}\\x{85}\\p{Z}";  // Unicode White_Space, for inside a class
  std::string out;
  int class_depth = 0;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 'h' || escaped == 'H')
        return bad_pattern(pattern, i - 1,
                           "\\h (a hex digit in Oniguruma) is not supported; write [0-9a-fA-F]",
                           Errc::kUnsupported);
      if (escaped == 's') {
        out += class_depth > 0 ? std::string(kSpace) : "[" + std::string(kSpace) + "]";
      } else if (escaped == 'S' && class_depth == 0) {
        out += "[^" + std::string(kSpace) + "]";
      } else {
        out += c;
        out += escaped;
      }
      continue;
    }
    if (class_depth > 0 && c == '&' && i + 1 < pattern.size() && pattern[i + 1] == '&')
      return bad_pattern(pattern, i, "&& in a character class is not supported", Errc::kUnsupported);
    if (c == '[') {
      // "[[:alpha:]]" is one class; any other '[' in a class opens a nested one, which PCRE2 reads literally.
      if (class_depth > 0 && !(i + 1 < pattern.size() && pattern[i + 1] == ':'))
        return bad_pattern(pattern, i, "a class within a class is not supported; write \\[ for the character",
                           Errc::kUnsupported);
      ++class_depth;
    } else if (c == ']' && class_depth > 0) {
      --class_depth;
    }
    out += c;
  }
  return out;
}

}  // namespace

void Regex::Free::operator()(void* code) const noexcept { pcre2_code_free(static_cast<pcre2_code*>(code)); }

Result<Regex> Regex::compile(std::string_view pattern, bool literal) {
  if (pattern.size() > kPatternBytesMax)
    return bad_pattern(pattern, kPatternBytesMax,
                       "has " + std::to_string(pattern.size()) + " bytes; at most " +
                           std::to_string(kPatternBytesMax) + " are supported");
  std::string source(pattern);
  if (!literal) {
    Result<std::string> translated = translate(pattern);
    if (!translated) return translated.error();
    source = std::move(*translated);
  }
  int error = 0;
  PCRE2_SIZE offset = 0;
  const std::uint32_t options = PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP);
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(source.data()), source.size(), options,
                                   &error, &offset, nullptr);
  if (code == nullptr) {
    PCRE2_UCHAR message[160] = {};
    pcre2_get_error_message(error, message, sizeof message);
    return bad_pattern(source, offset, reinterpret_cast<const char*>(message));
  }
  pcre2_jit_compile(code,
                    PCRE2_JIT_COMPLETE);  // where it fails, matching falls back to the interpreter by itself
  return Regex(code);
}

Regex::Scratch::Scratch()
    : match_data_(pcre2_match_data_create(1, nullptr)), context_(pcre2_match_context_create(nullptr)) {
  SPW_CHECK(match_data_ != nullptr && context_ != nullptr);
  pcre2_set_heap_limit(static_cast<pcre2_match_context*>(context_), kHeapKiBMax);
}

Regex::Scratch::~Scratch() {
  pcre2_match_data_free(static_cast<pcre2_match_data*>(match_data_));
  pcre2_match_context_free(static_cast<pcre2_match_context*>(context_));
}

bool Regex::find(std::string_view text, std::size_t from, Scratch& scratch, Match& match) const {
  auto* data = static_cast<pcre2_match_data*>(scratch.match_data_);
  auto* context = static_cast<pcre2_match_context*>(scratch.context_);
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  // A real pattern takes a few steps a character; the limit only has to end the ones that explode.
  const std::size_t steps = 100'000 + 8 * (text.size() - from);
  const auto limit =
      static_cast<std::uint32_t>(std::min<std::size_t>(steps, std::numeric_limits<std::int32_t>::max()));
  pcre2_set_match_limit(context, limit);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  int found = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, data, context);
  if (found == PCRE2_ERROR_JIT_STACKLIMIT)
    found = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, context);
  if (found < 0) return false;
  const PCRE2_SIZE* span = pcre2_get_ovector_pointer(data);
  if (span[1] < span[0]) return false;  // \K in a lookahead can put the start behind the end
  match = {span[0], span[1]};
  return true;
}

}  // namespace spillway::model
