// SPDX-License-Identifier: Apache-2.0
#pragma once

// A place in the tokens of a template, and the first error found there. After it the cursor sees only the end
// of the input, so every loop of a parser ends by itself.

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/jinja_lexer.hpp"
#include "runtime/result.hpp"

namespace spillway::model::jinja {

class TokenCursor {
 public:
  /// Levels of statements and brackets together; real templates reach about 15.
  static constexpr int kNestingMax = 100;
  /// Links of a.b.c and a + b + c chains in one tag: each makes the tree one level deeper.
  static constexpr int kLinksMax = 500;

  TokenCursor(std::vector<Token> tokens, std::string_view source, std::string_view name)
      : tokens_(std::move(tokens)), source_(source), name_(name) {}

  [[nodiscard]] bool failed() const noexcept { return failed_; }
  [[nodiscard]] Error&& take_error() noexcept { return std::move(error_); }

  [[nodiscard]] const Token& peek() const noexcept { return failed_ ? tokens_.back() : tokens_[at_]; }
  [[nodiscard]] const Token& peek_next() const noexcept {
    return failed_ || at_ + 1 >= tokens_.size() ? tokens_.back() : tokens_[at_ + 1];
  }
  Token take() {
    if (failed_) return tokens_.back();
    Token token = tokens_[at_];
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  [[nodiscard]] bool at_op(std::string_view op) const noexcept {
    return peek().kind == TokenKind::kOperator && peek().text == op;
  }
  [[nodiscard]] bool at_name(std::string_view name) const noexcept {
    return peek().kind == TokenKind::kName && peek().text == name;
  }
  bool take_op(std::string_view op) { return at_op(op) && (take(), true); }
  bool take_name(std::string_view name) { return at_name(name) && (take(), true); }

  void fail(const Token& at, std::string_view what, Errc code = Errc::kInvalidArgument) {
    if (failed_) return;
    error_ = template_error(name_, source_, at.offset, what, code);
    failed_ = true;
    tokens_.back().offset = at.offset;
  }
  [[nodiscard]] static std::string spelled(const Token& token) {
    if (token.kind == TokenKind::kEnd) return "the end of the template";
    if (token.kind == TokenKind::kText) return "text";
    return "'" + token.text.substr(0, 40) + "'";
  }
  void expect_op(std::string_view op) {
    if (!take_op(op)) fail(peek(), "expected '" + std::string(op) + "', found " + spelled(peek()));
  }
  void expect(TokenKind kind, std::string_view spelling) {
    if (peek().kind == kind)
      take();
    else
      fail(peek(), "expected '" + std::string(spelling) + "', found " + spelled(peek()));
  }
  std::string expect_name() {
    if (peek().kind == TokenKind::kName) return take().text;
    fail(peek(), "expected a name, found " + spelled(peek()));
    return {};
  }

  /// Counts one level of nesting for as long as it lives.
  class Level {
   public:
    explicit Level(TokenCursor& cursor) : cursor_(cursor) {
      if (++cursor_.nesting_ > kNestingMax)
        cursor_.fail(cursor_.peek(), "nested deeper than " + std::to_string(kNestingMax) + " levels",
                     Errc::kUnsupported);
    }
    ~Level() { --cursor_.nesting_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    TokenCursor& cursor_;
  };

  void start_tag() noexcept { links_ = 0; }
  void count_link() {
    if (++links_ > kLinksMax)
      fail(peek(), "an expression of more than " + std::to_string(kLinksMax) + " terms", Errc::kUnsupported);
  }

 private:
  std::vector<Token> tokens_;  // the last is kEnd
  std::string_view source_, name_;
  std::size_t at_ = 0;
  int nesting_ = 0;
  int links_ = 0;  // in the tag that is being parsed
  bool failed_ = false;
  Error error_;
};

}  // namespace spillway::model::jinja
