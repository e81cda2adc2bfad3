// SPDX-License-Identifier: Apache-2.0
#include "model/jinja_parser.hpp"

#include <initializer_list>
#include <utility>

#include "model/jinja_cursor.hpp"
#include "model/jinja_expression.hpp"

namespace spillway::model::jinja {
namespace {

class Parser {
 public:
  Parser(std::vector<Token> tokens, std::string_view source, std::string_view name)
      : in_(std::move(tokens), source, name) {}

  Result<Body> run() {
    Body body = parse_body({});
    if (in_.failed()) return in_.take_error();
    return body;
  }

 private:
  /// Statements up to a tag that begins with one of `ends` (which is left at its name) or the end of the
  /// template.
  Body parse_body(std::initializer_list<std::string_view> ends) {
    const TokenCursor::Level level(in_);
    Body body;
    while (!in_.failed()) {
      const Token token = in_.take();
      in_.start_tag();
      if (token.kind == TokenKind::kEnd) {
        if (ends.size() > 0)
          in_.fail(token, "expected {% " + std::string(*(ends.end() - 1)) + " %} before the end");
        break;
      }
      if (token.kind == TokenKind::kText) {
        Statement statement = make(StatementKind::kText, token);
        statement.text = token.text;
        body.push_back(std::move(statement));
      } else if (token.kind == TokenKind::kOutputBegin) {
        Statement statement = make(StatementKind::kOutput, token);
        statement.expr = parse_tuple(in_);
        in_.expect(TokenKind::kOutputEnd, "}}");
        body.push_back(std::move(statement));
      } else {  // kBlockBegin
        for (const std::string_view end : ends)
          if (in_.at_name(end)) return body;
        parse_statement(body);
      }
    }
    return body;
  }

  static Statement make(StatementKind kind, const Token& token) {
    Statement statement;
    statement.kind = kind;
    statement.offset = token.offset;
    return statement;
  }

  void end_block() { in_.expect(TokenKind::kBlockEnd, "%}"); }

  void parse_statement(Body& body) {
    const Token keyword = in_.peek();
    const std::string word = in_.expect_name();
    if (word == "if") {
      body.push_back(parse_if(keyword));
    } else if (word == "for") {
      body.push_back(parse_for(keyword));
    } else if (word == "set") {
      body.push_back(parse_set(keyword));
    } else if (word == "macro") {
      body.push_back(parse_macro(keyword));
    } else if (word == "generation") {
      Statement statement = make(StatementKind::kBlock, keyword);
      end_block();
      statement.body = parse_body({"endgeneration"});
      in_.take();
      end_block();
      body.push_back(std::move(statement));
    } else if (word == "break" || word == "continue") {
      if (loops_ == 0) in_.fail(keyword, "'" + word + "' outside of a for statement");
      body.push_back(make(word == "break" ? StatementKind::kBreak : StatementKind::kContinue, keyword));
      end_block();
    } else if (word.starts_with("end") || word == "else" || word == "elif") {
      in_.fail(keyword, "{% " + word + " %} has nothing to close");
    } else if (!in_.failed()) {
      in_.fail(
          keyword,
          "statement '" + word.substr(0, 40) +
              "' is not supported; supported are if, for, set, macro, raw, generation, break and continue",
          Errc::kUnsupported);
    }
  }

  Statement parse_if(const Token& keyword) {
    Statement statement = make(StatementKind::kIf, keyword);
    while (!in_.failed()) {
      Branch branch;
      branch.condition = parse_tuple(in_);
      end_block();
      branch.body = parse_body({"elif", "else", "endif"});
      statement.branches.push_back(std::move(branch));
      if (in_.take_name("elif")) continue;
      if (in_.take_name("else")) {
        end_block();
        Branch last;
        last.body = parse_body({"endif"});
        statement.branches.push_back(std::move(last));
      }
      in_.take();
      end_block();
      break;
    }
    return statement;
  }

  /// The names before `=` or `in`: a, or a, b, or (a, b).
  void parse_targets(Statement& statement) {
    const bool bracket = in_.take_op("(");
    do {
      statement.names.push_back(in_.expect_name());
    } while (in_.take_op(","));
    if (bracket) in_.expect_op(")");
  }

  Statement parse_for(const Token& keyword) {
    Statement statement = make(StatementKind::kFor, keyword);
    parse_targets(statement);
    if (!in_.take_name("in"))
      in_.fail(in_.peek(), "expected 'in', found " + TokenCursor::spelled(in_.peek()));
    statement.expr = parse_or(in_);  // no ternary here: `if` begins the filter
    if (in_.take_name("if")) statement.condition = parse_expression(in_);
    if (in_.at_name("recursive"))
      in_.fail(in_.peek(), "'recursive' loops are not supported", Errc::kUnsupported);
    end_block();
    ++loops_;
    statement.body = parse_body({"else", "endfor"});
    --loops_;
    if (in_.take_name("else")) {
      end_block();
      statement.otherwise = parse_body({"endfor"});
    }
    in_.take();
    end_block();
    return statement;
  }

  Statement parse_set(const Token& keyword) {
    Statement statement = make(StatementKind::kSet, keyword);
    parse_targets(statement);
    if (statement.names.size() == 1 && in_.take_op(".")) statement.field = in_.expect_name();
    if (in_.take_op("=")) {
      statement.expr = parse_tuple(in_);
      end_block();
      return statement;
    }
    if (statement.names.size() > 1 || !statement.field.empty() || in_.at_op("|")) {
      in_.fail(in_.peek(), "expected '=', found " + TokenCursor::spelled(in_.peek()));
      return statement;
    }
    end_block();
    statement.kind = StatementKind::kSetBlock;
    statement.body = parse_body({"endset"});
    in_.take();
    end_block();
    return statement;
  }

  Statement parse_macro(const Token& keyword) {
    Statement statement = make(StatementKind::kMacro, keyword);
    statement.macro = std::make_unique<Macro>();
    Macro& macro = *statement.macro;
    macro.name = in_.expect_name();
    in_.expect_op("(");
    while (!in_.failed() && !in_.at_op(")")) {
      macro.parameters.push_back(in_.expect_name());
      macro.defaults.push_back(in_.take_op("=") ? parse_expression(in_) : nullptr);
      if (!in_.at_op(")")) in_.expect_op(",");
    }
    in_.expect_op(")");
    end_block();
    const int loops = std::exchange(loops_, 0);
    macro.body = parse_body({"endmacro"});
    loops_ = loops;
    in_.take();
    end_block();
    return statement;
  }

  TokenCursor in_;
  int loops_ = 0;  // for statements around this place
};

}  // namespace

Result<Body> parse(std::vector<Token> tokens, std::string_view source, std::string_view name) {
  return Parser(std::move(tokens), source, name).run();
}

}  // namespace spillway::model::jinja
