// SPDX-License-Identifier: Apache-2.0
#pragma once

// A parsed template: a tree of statements and expressions. Constant once built; its depth is bounded by the
// parser.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/chat_template.hpp"
#include "model/jinja_value.hpp"

namespace spillway::model::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

enum class ExprKind : std::uint8_t {
  kLiteral,    // value
  kName,       // name
  kList,       // operands: items (a tuple is a list)
  kDict,       // operands: key, value, key, value, ...
  kAttribute,  // operands[0] . name
  kIndex,      // operands[0] [ operands[1] ]
  kSlice,      // operands[0] [ operands[1] : operands[2] : operands[3] ], null where left out
  kCall,       // operands[0] ( operands[1...], named )
  kFilter,     // operands[0] | name ( operands[1...], named )
  kTest,       // operands[0] is name ( operands[1...] )
  kNot,        // operands[0]
  kNegate,     // operands[0]
  kBinary,     // operands[0] name operands[1]; name is + - * / // % ** ~
  kCompare,    // operands[0] ops[0] operands[1] ops[1] operands[2] ...
  kAnd,        // operands[0], operands[1]
  kOr,
  kConditional,  // operands[1] if operands[0] else operands[2] (null: undefined)
};

struct Expr {
  ExprKind kind = ExprKind::kLiteral;
  bool tuple = false;
  std::uint32_t offset = 0;  // in the source
  std::string name;
  Value value;
  std::vector<ExprPtr> operands;
  std::vector<std::pair<std::string, ExprPtr>> named;
  std::vector<std::string> ops;
};

struct Statement;
using Body = std::vector<Statement>;

enum class StatementKind : std::uint8_t {
  kText,      // text
  kOutput,    // expr
  kIf,        // branches; the last may have no condition
  kFor,       // names in expr [if condition]: body, else otherwise
  kSet,       // names = expr, or name.field = expr
  kSetBlock,  // names[0] = output of body
  kMacro,     // macro
  kBlock,     // body, as it stands: {% generation %}
  kBreak,
  kContinue,
};

struct Branch;

struct Statement {
  StatementKind kind = StatementKind::kText;
  std::uint32_t offset = 0;
  std::string text;
  ExprPtr expr, condition;
  std::vector<std::string> names;
  std::string field;  // of a namespace
  std::vector<Branch> branches;
  Body body, otherwise;
  std::unique_ptr<Macro> macro;
};

struct Branch {
  ExprPtr condition;  // null: else
  Body body;
};

struct Macro {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExprPtr> defaults;  // as many as parameters; null: none
  Body body;
};

}  // namespace spillway::model::jinja

namespace spillway::model {

struct ChatTemplate::Program {
  std::string name;
  std::string source;  // normalized; offsets point into it
  jinja::Body body;
};

}  // namespace spillway::model
