// SPDX-License-Identifier: Apache-2.0
#include "model/jinja_lexer.hpp"

#include <algorithm>
#include <array>
#include <charconv>

#include "model/quote.hpp"
#include "model/unicode.hpp"

namespace spillway::model::jinja {
namespace {

// A message may quote the template or carry what raise_exception was given: it stays one short line.
constexpr std::size_t kMessageBytesMax = 500;

bool is_space(char c) noexcept { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }
bool is_name_start(char c) noexcept { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

class Lexer {
 public:
  Lexer(std::string_view source, std::string_view name) : source_(source), name_(name) {}

  Result<std::vector<Token>> run() {
    while (at_ < source_.size() && !failed_) next_part();
    if (failed_) return std::move(error_);
    push(TokenKind::kEnd, at_, "");
    return std::move(tokens_);
  }

 private:
  void fail(std::size_t at, std::string_view what) {
    if (!failed_) error_ = template_error(name_, source_, at, what, Errc::kInvalidArgument);
    failed_ = true;
  }
  void push(TokenKind kind, std::size_t at, std::string_view text) {
    tokens_.push_back({kind, static_cast<std::uint32_t>(at), std::string(text)});
  }
  [[nodiscard]] bool here(std::string_view text) const noexcept {
    return source_.substr(at_).starts_with(text);
  }

  /// The text up to the next tag, and that tag.
  void next_part() {
    std::size_t tag = at_;
    for (;; ++tag) {
      tag = source_.find('{', tag);
      if (tag == source_.npos || tag + 1 >= source_.size()) {
        push(TokenKind::kText, at_, source_.substr(at_));
        at_ = source_.size();
        return;
      }
      const char second = source_[tag + 1];
      if (second == '{' || second == '%' || second == '#') break;
    }
    const char kind = source_[tag + 1];
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
    const bool has_sign = sign == '-' || sign == '+';
    push_text_before(tag, kind, has_sign ? sign : ' ');
    at_ = tag + 2 + (has_sign ? 1 : 0);
    if (kind == '#') return skip_comment(tag);
    if (kind == '%' && skip_raw(tag)) return;
    push(kind == '{' ? TokenKind::kOutputBegin : TokenKind::kBlockBegin, tag, source_.substr(tag, 2));
    inside_tag(tag, kind == '{');
  }

  void push_text_before(std::size_t tag, char kind, char sign) {
    std::string_view text = source_.substr(at_, tag - at_);
    if (sign == '-') {
      while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
    } else if (sign != '+' && kind != '{') {          // lstrip_blocks
      const std::size_t line = text.rfind('\n') + 1;  // npos + 1 is 0
      const bool starts_line = line > 0 || line_starting_;
      if (starts_line && std::all_of(text.begin() + static_cast<std::ptrdiff_t>(line), text.end(), is_space))
        text = text.substr(0, line);
    }
    if (!text.empty()) push(TokenKind::kText, at_, text);
  }

  /// Steps over the end of a tag at at_; `close` is its two characters. False if it is not there.
  bool skip_tag_end(std::string_view close) {
    const bool minus =
        at_ < source_.size() && source_[at_] == '-' && source_.substr(at_ + 1).starts_with(close);
    const bool plus = at_ < source_.size() && source_[at_] == '+' &&
                      source_.substr(at_ + 1).starts_with(close) && close != "}}";
    if (!minus && !plus && !here(close)) return false;
    at_ += close.size() + (minus || plus ? 1 : 0);
    if (minus) {
      while (at_ < source_.size() && is_space(source_[at_])) ++at_;
    } else if (!plus && close != "}}" && here("\n")) {
      ++at_;  // trim_blocks
    }
    line_starting_ = source_[at_ - 1] == '\n';
    return true;
  }

  void skip_comment(std::size_t tag) {
    for (; at_ < source_.size(); ++at_)
      if (skip_tag_end("#}")) return;
    fail(tag, "the comment {# has no end #}");
  }

  /// {% raw %} text {% endraw %}. False (and nothing done) if the tag is another.
  bool skip_raw(std::size_t tag) {
    const std::size_t before = at_;
    if (!skip_word_tag("raw")) {
      at_ = before;
      return false;
    }
    const std::size_t begin = at_;
    for (std::size_t end = begin; (end = source_.find("{%", end)) != source_.npos; end += 2) {
      const char sign = end + 2 < source_.size() ? source_[end + 2] : ' ';
      const bool has_sign = sign == '-' || sign == '+';
      at_ = end + 2 + (has_sign ? 1 : 0);
      if (!skip_word_tag("endraw")) continue;
      const std::size_t after = at_;
      const bool line_starting = line_starting_;
      at_ = begin;
      line_starting_ = false;
      push_text_before(end, '%', has_sign ? sign : ' ');
      at_ = after;
      line_starting_ = line_starting;
      return true;
    }
    fail(tag, "{% raw %} has no {% endraw %}");
    return true;
  }

  /// Steps over " WORD %}".
  bool skip_word_tag(std::string_view word) {
    while (at_ < source_.size() && is_space(source_[at_])) ++at_;
    if (!here(word)) return false;
    at_ += word.size();
    while (at_ < source_.size() && is_space(source_[at_])) ++at_;
    return skip_tag_end("%}");
  }

  void inside_tag(std::size_t tag, bool output) {
    const std::string_view close = output ? "}}" : "%}";
    std::string open;  // brackets not yet closed: within them }} is two braces
    while (!failed_) {
      while (at_ < source_.size() && is_space(source_[at_])) ++at_;
      if (at_ >= source_.size()) return fail(tag, output ? "{{ has no end }}" : "{% has no end %}");
      const std::size_t begin = at_;
      if (open.empty() && skip_tag_end(close))
        return push(output ? TokenKind::kOutputEnd : TokenKind::kBlockEnd, begin, close);
      const char c = source_[at_];
      if (is_name_start(c)) {
        while (at_ < source_.size() && (is_name_start(source_[at_]) || is_digit(source_[at_]))) ++at_;
        push(TokenKind::kName, begin, source_.substr(begin, at_ - begin));
      } else if (is_digit(c)) {
        number();
      } else if (c == '"' || c == '\'') {
        string();
      } else {
        op(open);
      }
    }
  }

  void number() {
    const std::size_t begin = at_;
    std::string digits;
    const auto take_digits = [&] {
      while (at_ < source_.size() && (is_digit(source_[at_]) || source_[at_] == '_')) {
        if (source_[at_] != '_') digits += source_[at_];
        ++at_;
      }
    };
    take_digits();
    bool fraction = false;
    if (at_ + 1 < source_.size() && source_[at_] == '.' && is_digit(source_[at_ + 1])) {
      fraction = true;
      digits += source_[at_++];
      take_digits();
    }
    if (at_ < source_.size() && (source_[at_] == 'e' || source_[at_] == 'E')) {
      const bool sign = at_ + 1 < source_.size() && (source_[at_ + 1] == '-' || source_[at_ + 1] == '+');
      const std::size_t first = at_ + (sign ? 2 : 1);
      if (first < source_.size() && is_digit(source_[first])) {
        fraction = true;
        digits += source_.substr(at_, first - at_);
        at_ = first;
        take_digits();
      }
    }
    push(fraction ? TokenKind::kFloat : TokenKind::kInteger, begin, digits);
  }

  void string() {
    const std::size_t begin = at_;
    const char quote = source_[at_++];
    std::string text;
    while (at_ < source_.size() && source_[at_] != quote) {
      if (source_[at_] == '\\' && at_ + 1 < source_.size()) {
        ++at_;
        escape(text);
      } else {
        text += source_[at_++];
      }
    }
    if (at_ >= source_.size()) return fail(begin, "the string has no closing quote");
    ++at_;
    push(TokenKind::kString, begin, text);
  }

  /// Python's escapes; at_ is behind the backslash.
  void escape(std::string& out) {
    const char c = source_[at_++];
    constexpr std::string_view kLetters = "ntr\\'\"abfv0", kMeanings = "\n\t\r\\'\"\a\b\f\v";
    if (c == '\n') return;
    if (c == 'x' || c == 'u' || c == 'U') {
      const std::size_t size = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      const std::string_view hex = source_.substr(at_, size);
      std::uint32_t code = 0;
      const auto parsed = std::from_chars(hex.data(), hex.data() + hex.size(), code, 16);
      const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
      if (hex.size() != size || parsed.ptr != hex.data() + size || code > 0x10FFFF || surrogate)
        return fail(at_ - 2, "the escape is no character");
      append_utf8(code, out);
      at_ += size;
      return;
    }
    const std::size_t known = kLetters.find(c);
    if (known == kLetters.npos)
      (out += '\\') += c;
    else if (known < kMeanings.size())
      out += kMeanings[known];
    else
      out += '\0';
  }

  void op(std::string& open) {
    constexpr std::array<std::string_view, 6> kTwo = {"==", "!=", "<=", ">=", "//", "**"};
    const std::size_t begin = at_;
    std::size_t size = 1;
    for (const std::string_view two : kTwo)
      if (here(two)) size = 2;
    const char c = source_[at_];
    if (size == 1 && std::string_view("+-*/%~<>=.,:|()[]{}").find(c) == std::string_view::npos)
      return fail(begin, "unexpected character " + std::string(1, c >= ' ' && c < 127 ? c : '?'));
    if (c == '(' || c == '[' || c == '{') {
      open += c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
      if (open.empty() || open.back() != c) return fail(begin, "unexpected " + std::string(1, c));
      open.pop_back();
    }
    at_ += size;
    push(TokenKind::kOperator, begin, source_.substr(begin, size));
  }

  std::string_view source_, name_;
  std::size_t at_ = 0;
  bool line_starting_ = true;  // the text at at_ begins a line of the source
  bool failed_ = false;
  Error error_;
  std::vector<Token> tokens_;
};

}  // namespace

Error template_error(std::string_view name, std::string_view source, std::size_t offset,
                     std::string_view what, Errc code) {
  const std::string_view before = source.substr(0, std::min(offset, source.size()));
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const std::size_t column = before.size() - (before.rfind('\n') + 1) + 1;
  return {code, std::string(name) + ":" + std::to_string(line) + ":" + std::to_string(column) + ": " +
                    printable(what, kMessageBytesMax)};
}

std::string normalize_source(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

Result<std::vector<Token>> tokenize(std::string_view source, std::string_view name) {
  return Lexer(source, name).run();
}

}  // namespace spillway::model::jinja
