// SPDX-License-Identifier: Apache-2.0
#include "model/jinja_expression.hpp"

#include <array>
#include <charconv>
#include <utility>

namespace spillway::model::jinja {
namespace {

class ExpressionParser {
 public:
  explicit ExpressionParser(TokenCursor& cursor) : in_(cursor) {}

  static ExprPtr make_expr(ExprKind kind, const Token& token) {
    auto expr = std::make_unique<Expr>();
    expr->kind = kind;
    expr->offset = token.offset;
    return expr;
  }
  static ExprPtr join(ExprKind kind, const Token& token, ExprPtr left, ExprPtr right) {
    ExprPtr expr = make_expr(kind, token);
    expr->name = token.text;
    expr->operands.push_back(std::move(left));
    expr->operands.push_back(std::move(right));
    return expr;
  }
  /// a, b, c without brackets is a list; a alone is itself.
  ExprPtr parse_tuple() {
    const Token first = in_.peek();
    ExprPtr expr = parse_expression();
    if (!in_.at_op(",")) return expr;
    ExprPtr list = make_expr(ExprKind::kList, first);
    list->tuple = true;
    list->operands.push_back(std::move(expr));
    while (in_.take_op(",") && in_.peek().kind != TokenKind::kBlockEnd &&
           in_.peek().kind != TokenKind::kOutputEnd)
      list->operands.push_back(parse_expression());
    return list;
  }

  ExprPtr parse_expression() {
    const TokenCursor::Level level(in_);
    ExprPtr expr = parse_or();
    while (in_.at_name("if")) {
      in_.count_link();
      ExprPtr conditional = make_expr(ExprKind::kConditional, in_.take());
      conditional->operands.push_back(parse_or());
      conditional->operands.push_back(std::move(expr));
      conditional->operands.push_back(in_.take_name("else") ? parse_expression() : nullptr);
      expr = std::move(conditional);
    }
    return expr;
  }

  ExprPtr parse_or() {
    ExprPtr expr = parse_and();
    while (in_.at_name("or")) {
      in_.count_link();
      const Token op = in_.take();
      expr = join(ExprKind::kOr, op, std::move(expr), parse_and());
    }
    return expr;
  }

  ExprPtr parse_and() {
    ExprPtr expr = parse_not();
    while (in_.at_name("and")) {
      in_.count_link();
      const Token op = in_.take();
      expr = join(ExprKind::kAnd, op, std::move(expr), parse_not());
    }
    return expr;
  }

  ExprPtr parse_not() {
    if (!in_.at_name("not")) return parse_compare();
    const TokenCursor::Level level(in_);
    ExprPtr expr = make_expr(ExprKind::kNot, in_.take());
    expr->operands.push_back(parse_not());
    return expr;
  }

  ExprPtr parse_compare() {
    ExprPtr expr = parse_sum();
    ExprPtr compare;
    while (!in_.failed()) {
      std::string op;
      const Token token = in_.peek();
      if (in_.at_op("==") || in_.at_op("!=") || in_.at_op("<") || in_.at_op("<=") || in_.at_op(">") ||
          in_.at_op(">=") || in_.at_name("in")) {
        op = in_.take().text;
      } else if (in_.at_name("not") && in_.peek_next().kind == TokenKind::kName &&
                 in_.peek_next().text == "in") {
        in_.take();
        in_.take();
        op = "not in";
      } else {
        break;
      }
      if (compare == nullptr) {
        compare = make_expr(ExprKind::kCompare, token);
        compare->operands.push_back(std::move(expr));
      }
      compare->ops.push_back(std::move(op));
      compare->operands.push_back(parse_sum());
    }
    return compare != nullptr ? std::move(compare) : std::move(expr);
  }

  ExprPtr parse_sum() {
    ExprPtr expr = parse_concat();
    while (in_.at_op("+") || in_.at_op("-")) {
      in_.count_link();
      const Token op = in_.take();
      expr = join(ExprKind::kBinary, op, std::move(expr), parse_concat());
    }
    return expr;
  }

  ExprPtr parse_concat() {
    ExprPtr expr = parse_product();
    while (in_.at_op("~")) {
      in_.count_link();
      const Token op = in_.take();
      expr = join(ExprKind::kBinary, op, std::move(expr), parse_product());
    }
    return expr;
  }

  ExprPtr parse_product() {
    ExprPtr expr = parse_power();
    while (in_.at_op("*") || in_.at_op("/") || in_.at_op("//") || in_.at_op("%")) {
      in_.count_link();
      const Token op = in_.take();
      expr = join(ExprKind::kBinary, op, std::move(expr), parse_power());
    }
    return expr;
  }

  ExprPtr parse_power() {
    ExprPtr expr = parse_unary(true);
    while (in_.at_op("**")) {
      in_.count_link();
      const Token op = in_.take();
      expr = join(ExprKind::kBinary, op, std::move(expr), parse_unary(true));
    }
    return expr;
  }

  ExprPtr parse_unary(bool with_filters) {
    const TokenCursor::Level level(in_);
    ExprPtr expr;
    if (in_.at_op("-")) {
      expr = make_expr(ExprKind::kNegate, in_.take());
      expr->operands.push_back(parse_unary(false));
    } else if (in_.take_op("+")) {
      expr = parse_unary(false);
    } else {
      expr = parse_postfix(parse_primary());
    }
    return with_filters ? parse_filters(std::move(expr)) : std::move(expr);
  }

  ExprPtr parse_primary() {
    const Token token = in_.take();
    switch (token.kind) {
      case TokenKind::kName: {
        const std::string& word = token.text;
        ExprPtr expr = make_expr(ExprKind::kLiteral, token);
        if (word == "true" || word == "True")
          expr->value = Value::boolean(true);
        else if (word == "false" || word == "False")
          expr->value = Value::boolean(false);
        else if (word == "none" || word == "None")
          expr->value = Value::none();
        else {
          expr->kind = ExprKind::kName;
          expr->name = word;
        }
        return expr;
      }
      case TokenKind::kString: {
        ExprPtr expr = make_expr(ExprKind::kLiteral, token);
        std::string text = token.text;
        while (in_.peek().kind == TokenKind::kString)
          text += in_.take().text;  // neighbours join, as in Python
        expr->value = Value::string(std::move(text));
        return expr;
      }
      case TokenKind::kInteger:
      case TokenKind::kFloat:
        return parse_number(token);
      case TokenKind::kOperator:
        if (token.text == "(") return parse_brackets(token);
        if (token.text == "[") return parse_list(token);
        if (token.text == "{") return parse_dict(token);
        break;
      default:
        break;
    }
    in_.fail(token, "expected an expression, found " + TokenCursor::spelled(token));
    return make_expr(ExprKind::kLiteral, token);
  }

  ExprPtr parse_number(const Token& token) {
    ExprPtr expr = make_expr(ExprKind::kLiteral, token);
    const char *begin = token.text.data(), *end = begin + token.text.size();
    std::int64_t integer = 0;
    double number = 0;
    if (token.kind == TokenKind::kInteger) {
      if (std::from_chars(begin, end, integer).ec != std::errc()) in_.fail(token, "the number is too large");
      expr->value = Value::integer(integer);
    } else {
      if (std::from_chars(begin, end, number).ec != std::errc())
        in_.fail(token, "the number is out of range");
      expr->value = Value::of(number);
    }
    return expr;
  }

  ExprPtr parse_brackets(const Token& open) {
    ExprPtr list = make_expr(ExprKind::kList, open);
    bool tuple = in_.at_op(")");
    while (!in_.failed() && !in_.at_op(")")) {
      list->operands.push_back(parse_expression());
      if (!in_.take_op(",")) break;
      tuple = true;
    }
    in_.expect_op(")");
    list->tuple = true;
    if (tuple || list->operands.empty()) return list;
    return std::move(list->operands.front());
  }

  ExprPtr parse_list(const Token& open) {
    ExprPtr list = make_expr(ExprKind::kList, open);
    while (!in_.failed() && !in_.at_op("]")) {
      list->operands.push_back(parse_expression());
      if (!in_.at_op("]")) in_.expect_op(",");
    }
    in_.expect_op("]");
    return list;
  }

  ExprPtr parse_dict(const Token& open) {
    ExprPtr dict = make_expr(ExprKind::kDict, open);
    while (!in_.failed() && !in_.at_op("}")) {
      dict->operands.push_back(parse_expression());
      in_.expect_op(":");
      dict->operands.push_back(parse_expression());
      if (!in_.at_op("}")) in_.expect_op(",");
    }
    in_.expect_op("}");
    return dict;
  }

  ExprPtr parse_postfix(ExprPtr expr) {
    for (; !in_.failed(); in_.count_link()) {
      if (in_.at_op(".")) {
        const Token dot = in_.take();
        ExprPtr attribute = make_expr(ExprKind::kAttribute, dot);
        attribute->name = in_.expect_name();
        attribute->operands.push_back(std::move(expr));
        expr = std::move(attribute);
      } else if (in_.at_op("[")) {
        expr = parse_subscript(std::move(expr));
      } else if (in_.at_op("(")) {
        expr = parse_call(ExprKind::kCall, in_.take(), std::move(expr));
      } else {
        break;
      }
    }
    return expr;
  }

  ExprPtr parse_subscript(ExprPtr object) {
    const Token open = in_.take();
    ExprPtr parts[3];
    int colons = 0;
    if (!in_.at_op(":")) parts[0] = parse_expression();
    while (colons < 2 && in_.take_op(":")) {
      ++colons;
      if (!in_.at_op(":") && !in_.at_op("]")) parts[colons] = parse_expression();
    }
    in_.expect_op("]");
    ExprPtr expr = make_expr(colons > 0 ? ExprKind::kSlice : ExprKind::kIndex, open);
    expr->operands.push_back(std::move(object));
    for (int i = 0; i < (colons > 0 ? 3 : 1); ++i) expr->operands.push_back(std::move(parts[i]));
    return expr;
  }

  /// Arguments in brackets; the opening one has been taken.
  ExprPtr parse_call(ExprKind kind, const Token& at, ExprPtr callee) {
    ExprPtr call = make_expr(kind, at);
    call->operands.push_back(std::move(callee));
    while (!in_.failed() && !in_.at_op(")")) {
      if (in_.at_op("*") || in_.at_op("**"))
        in_.fail(in_.peek(), "argument unpacking is not supported", Errc::kUnsupported);
      if (in_.peek().kind == TokenKind::kName && in_.peek_next().kind == TokenKind::kOperator &&
          in_.peek_next().text == "=") {
        std::string name = in_.take().text;
        in_.take();
        call->named.emplace_back(std::move(name), parse_expression());
      } else {
        call->operands.push_back(parse_expression());
      }
      if (!in_.at_op(")")) in_.expect_op(",");
    }
    in_.expect_op(")");
    return call;
  }

  ExprPtr parse_filters(ExprPtr expr) {
    for (; !in_.failed(); in_.count_link()) {
      if (in_.at_op("|")) {
        in_.take();
        const Token name = in_.peek();
        std::string filter = in_.expect_name();
        if (in_.take_op("(")) {
          expr = parse_call(ExprKind::kFilter, name, std::move(expr));
        } else {
          ExprPtr bare = make_expr(ExprKind::kFilter, name);
          bare->operands.push_back(std::move(expr));
          expr = std::move(bare);
        }
        expr->name = std::move(filter);
      } else if (in_.at_name("is")) {
        expr = parse_test(std::move(expr));
      } else if (in_.at_op("(")) {
        expr = parse_call(ExprKind::kCall, in_.take(), std::move(expr));
      } else {
        break;
      }
    }
    return expr;
  }

  ExprPtr parse_test(ExprPtr object) {
    in_.take();
    const Token start = in_.peek();
    const bool negated = in_.take_name("not");
    const Token name = in_.peek();
    std::string test_name = in_.expect_name();
    ExprPtr test;
    if (in_.take_op("(")) {
      test = parse_call(ExprKind::kTest, name, std::move(object));
    } else {
      test = make_expr(ExprKind::kTest, name);
      test->operands.push_back(std::move(object));
      if (starts_test_argument()) test->operands.push_back(parse_postfix(parse_primary()));
    }
    test->name = std::move(test_name);
    if (!negated) return test;
    ExprPtr inverse = make_expr(ExprKind::kNot, start);
    inverse->operands.push_back(std::move(test));
    return inverse;
  }

  /// `x is divisibleby 3`: an argument without brackets.
  [[nodiscard]] bool starts_test_argument() const noexcept {
    constexpr std::array<std::string_view, 7> kOther = {"else", "or", "and", "is", "if", "in", "not"};
    switch (in_.peek().kind) {
      case TokenKind::kString:
      case TokenKind::kInteger:
      case TokenKind::kFloat:
        return true;
      case TokenKind::kName:
        for (const std::string_view word : kOther)
          if (in_.peek().text == word) return false;
        return true;
      case TokenKind::kOperator:
        return in_.peek().text == "[" || in_.peek().text == "{";
      default:
        return false;
    }
  }

 private:
  TokenCursor& in_;
};

}  // namespace

ExprPtr parse_tuple(TokenCursor& cursor) { return ExpressionParser(cursor).parse_tuple(); }
ExprPtr parse_expression(TokenCursor& cursor) { return ExpressionParser(cursor).parse_expression(); }
ExprPtr parse_or(TokenCursor& cursor) { return ExpressionParser(cursor).parse_or(); }

}  // namespace spillway::model::jinja
