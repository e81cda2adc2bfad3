// SPDX-License-Identifier: Apache-2.0
#include "model/jinja_eval.hpp"

#include <algorithm>
#include <utility>

#include "model/jinja_builtins.hpp"
#include "model/jinja_operators.hpp"

namespace spillway::model::jinja {
namespace {

constexpr int kEvaluationDepthMax = 1000;  // of expressions, statements and macro calls together

enum class Flow { kNormal, kBreak, kContinue };

class Evaluator {
 public:
  Evaluator(Context& context, const Variables& variables) : context_(context) {
    scopes_.emplace_back();
    for (const auto& [name, value] : variables) set(name, value);
  }

  std::string run(const Body& body) {
    std::string out;
    out_ = &out;
    execute(body);
    return out;
  }

 private:
  // --- variables

  using Scope = std::vector<std::pair<std::string_view, Value>>;  // names live in the tree or in Variables

  void set(std::string_view name, Value value) {
    Scope& scope = scopes_.back();
    for (auto& entry : scope)
      if (entry.first == name) {
        entry.second = std::move(value);
        return;
      }
    scope.emplace_back(name, std::move(value));
  }

  [[nodiscard]] static const Value* find_in(const Scope& scope, std::string_view name) noexcept {
    for (const auto& entry : scope)
      if (entry.first == name) return &entry.second;
    return nullptr;
  }

  /// From the innermost scope out; a macro sees its own scopes and the outermost.
  [[nodiscard]] Value look_up(std::string_view name) const {
    for (std::size_t i = scopes_.size(); i-- > visible_from_;)
      if (const Value* value = find_in(scopes_[i], name)) return *value;
    if (const Value* value = find_in(scopes_.front(), name)) return *value;
    if (name == "range") return Value::of(Function::kRange);
    if (name == "namespace") return Value::of(Function::kNamespace);
    if (name == "dict") return Value::of(Function::kDict);
    if (name == "raise_exception") return Value::of(Function::kRaiseException);
    if (name == "strftime_now" && context_.now_unix_s()) return Value::of(Function::kStrftimeNow);
    return Value::undefined(name);
  }

  // --- depth

  class Level {
   public:
    Level(Evaluator& evaluator, std::uint32_t offset) : evaluator_(evaluator) {
      if (++evaluator_.depth_ > kEvaluationDepthMax)
        evaluator_.context_.fail(offset, "evaluation is nested too deeply", Errc::kUnsupported);
    }
    ~Level() { --evaluator_.depth_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    Evaluator& evaluator_;
  };

  // --- statements

  void emit(std::uint32_t offset, std::string_view text) {
    if (context_.allocate(offset, text.size())) out_->append(text);
  }

  Flow execute(const Body& body) {
    for (const Statement& statement : body) {
      if (context_.failed()) break;
      const Flow flow = execute(statement);
      if (flow != Flow::kNormal) return flow;
    }
    return Flow::kNormal;
  }

  Flow execute(const Statement& s) {
    const Level level(*this, s.offset);
    if (!context_.step(s.offset)) return Flow::kNormal;
    switch (s.kind) {
      case StatementKind::kText:
        emit(s.offset, s.text);
        return Flow::kNormal;
      case StatementKind::kOutput:
        output(s);
        return Flow::kNormal;
      case StatementKind::kIf:
        for (const Branch& branch : s.branches)
          if (branch.condition == nullptr || eval(*branch.condition).truthy()) return execute(branch.body);
        return Flow::kNormal;
      case StatementKind::kFor:
        return execute_for(s);
      case StatementKind::kSet:
        execute_set(s, eval(*s.expr));
        return Flow::kNormal;
      case StatementKind::kSetBlock: {
        std::string text = capture(s.body);
        set(s.names[0], context_.string(s.offset, std::move(text)));
        return Flow::kNormal;
      }
      case StatementKind::kMacro:
        set(s.macro->name, Value::of(static_cast<const Macro*>(s.macro.get())));
        return Flow::kNormal;
      case StatementKind::kBlock:
        return execute(s.body);
      case StatementKind::kBreak:
        return Flow::kBreak;
      case StatementKind::kContinue:
        return Flow::kContinue;
    }
    return Flow::kNormal;
  }

  void output(const Statement& s) {
    const Value value = eval(*s.expr);
    if (context_.failed()) return;
    if (const std::string* text = value.as_string()) return emit(s.offset, *text);
    emit(s.offset, context_.text(s.offset, value));
  }

  std::string capture(const Body& body) {
    std::string text;
    std::string* outer = std::exchange(out_, &text);
    scopes_.emplace_back();
    execute(body);
    scopes_.pop_back();
    out_ = outer;
    return text;
  }

  void execute_set(const Statement& s, Value value) {
    if (context_.failed()) return;
    if (!s.field.empty()) {
      const Value target = look_up(s.names[0]);
      Namespace* names = target.as_namespace();
      if (names == nullptr) {
        context_.fail(s.offset, "'" + s.names[0] + "' is no namespace; only a namespace's fields can be set");
      } else if (value.depth() >= kDepthUnstorable) {
        context_.fail(s.offset, "a namespace cannot hold another", Errc::kUnsupported);
      } else {
        auto& fields = names->fields.items;
        const auto at =
            std::find_if(fields.begin(), fields.end(), [&](const auto& f) { return f.first == s.field; });
        if (at != fields.end())
          at->second = std::move(value);
        else
          fields.emplace_back(s.field, std::move(value));
      }
      return;
    }
    assign(s.offset, s.names, std::move(value));
  }

  /// names = value; several names take the items of a list.
  void assign(std::uint32_t offset, const std::vector<std::string>& names, Value value) {
    if (names.size() == 1) return set(names[0], std::move(value));
    const auto items = items_of(context_, offset, value);
    if (!items) return;
    if (items->size() != names.size()) {
      context_.fail(offset,
                    std::to_string(items->size()) + " values for " + std::to_string(names.size()) + " names");
      return;
    }
    for (std::size_t i = 0; i < names.size(); ++i) set(names[i], (*items)[i]);
  }

  Flow execute_for(const Statement& s) {
    const Value source = eval(*s.expr);
    auto items = items_of(context_, s.offset, source);
    if (!items) return Flow::kNormal;
    if (s.condition != nullptr) {
      std::vector<Value> kept;
      scopes_.emplace_back();
      for (Value& item : *items) {
        if (context_.failed()) break;
        assign(s.offset, s.names, item);
        if (eval(*s.condition).truthy()) kept.push_back(std::move(item));
      }
      scopes_.pop_back();
      *items = std::move(kept);
    }
    if (items->empty()) return execute(s.otherwise);

    auto loop = std::make_shared<Loop>();
    auto list = std::make_shared<List>();
    list->items = std::move(*items);
    loop->items = list;
    for (std::size_t i = 0; i < list->items.size() && !context_.failed(); ++i) {
      // Each round has a scope of its own: what it sets is gone afterwards.
      scopes_.emplace_back();
      loop->index = i;
      set("loop", Value::of(loop));
      assign(s.offset, s.names, list->items[i]);
      const Flow flow = execute(s.body);
      scopes_.pop_back();
      if (flow == Flow::kBreak) break;
    }
    return Flow::kNormal;
  }

  // --- expressions

  Value eval(const Expr& e) {
    const Level level(*this, e.offset);
    if (!context_.step(e.offset)) return Value();
    switch (e.kind) {
      case ExprKind::kLiteral:
        return e.value;
      case ExprKind::kName:
        return look_up(e.name);
      case ExprKind::kList: {
        std::vector<Value> items;
        for (const ExprPtr& item : e.operands) items.push_back(eval(*item));
        return context_.list(e.offset, std::move(items), e.tuple);
      }
      case ExprKind::kDict:
        return eval_dict(e);
      case ExprKind::kAttribute:
        return attribute(context_, e.offset, eval(*e.operands[0]), e.name);
      case ExprKind::kIndex: {
        const Value object = eval(*e.operands[0]);
        const Value key = eval(*e.operands[1]);
        return context_.failed() ? Value() : index(context_, e.offset, object, key);
      }
      case ExprKind::kSlice:
        return eval_slice(e);
      case ExprKind::kCall:
        return eval_call(e);
      case ExprKind::kFilter: {
        const Value input = eval(*e.operands[0]);
        const Arguments arguments = eval_arguments(e);
        return context_.failed() ? Value() : apply_filter(context_, e.offset, e.name, input, arguments);
      }
      case ExprKind::kTest: {
        const Value input = eval(*e.operands[0]);
        const Arguments arguments = eval_arguments(e);
        return context_.failed() ? Value()
                                 : Value::boolean(apply_test(context_, e.offset, e.name, input, arguments));
      }
      case ExprKind::kNot:
        return Value::boolean(!eval(*e.operands[0]).truthy());
      case ExprKind::kNegate:
        return negate(context_, e.offset, eval(*e.operands[0]));
      case ExprKind::kBinary: {
        const Value left = eval(*e.operands[0]);
        const Value right = eval(*e.operands[1]);
        return context_.failed() ? Value() : binary(context_, e.offset, e.name, left, right);
      }
      case ExprKind::kCompare:
        return eval_compare(e);
      case ExprKind::kAnd: {
        Value left = eval(*e.operands[0]);
        return left.truthy() ? eval(*e.operands[1]) : left;
      }
      case ExprKind::kOr: {
        Value left = eval(*e.operands[0]);
        return left.truthy() ? left : eval(*e.operands[1]);
      }
      case ExprKind::kConditional:
        if (eval(*e.operands[0]).truthy()) return eval(*e.operands[1]);
        return e.operands[2] != nullptr ? eval(*e.operands[2]) : Value();
    }
    return Value();
  }

  Value eval_dict(const Expr& e) {
    std::vector<std::pair<std::string, Value>> items;
    for (std::size_t i = 0; i + 1 < e.operands.size() && !context_.failed(); i += 2) {
      const Value key = eval(*e.operands[i]);
      Value value = eval(*e.operands[i + 1]);
      if (context_.failed()) break;
      const std::string* name = key.as_string();
      if (name == nullptr)
        return context_.fail(e.offset, "a dictionary's keys must be strings", Errc::kUnsupported);
      const auto same =
          std::find_if(items.begin(), items.end(), [&](const auto& item) { return item.first == *name; });
      if (same != items.end())
        same->second = std::move(value);
      else
        items.emplace_back(*name, std::move(value));
    }
    return context_.dict(e.offset, std::move(items));
  }

  Value eval_slice(const Expr& e) {
    const Value object = eval(*e.operands[0]);
    Value parts[3];
    const Value* given[3] = {};
    for (std::size_t i = 0; i < 3; ++i) {
      if (e.operands[i + 1] == nullptr) continue;
      parts[i] = eval(*e.operands[i + 1]);
      given[i] = &parts[i];
    }
    return context_.failed() ? Value() : slice(context_, e.offset, object, given[0], given[1], given[2]);
  }

  Value eval_compare(const Expr& e) {
    Value left = eval(*e.operands[0]);
    for (std::size_t i = 0; i < e.ops.size(); ++i) {
      Value right = eval(*e.operands[i + 1]);
      if (context_.failed()) return Value();
      if (!compare(context_, e.offset, e.ops[i], left, right)) return Value::boolean(false);
      left = std::move(right);
    }
    return Value::boolean(true);
  }

  Arguments eval_arguments(const Expr& e) {
    Arguments arguments;
    for (std::size_t i = 1; i < e.operands.size(); ++i) arguments.positional.push_back(eval(*e.operands[i]));
    for (const auto& [name, value] : e.named) arguments.named.emplace_back(name, eval(*value));
    return arguments;
  }

  Value eval_call(const Expr& e) {
    const Expr& callee = *e.operands[0];
    if (callee.kind == ExprKind::kAttribute) {
      const Value object = eval(*callee.operands[0]);
      const Arguments arguments = eval_arguments(e);
      return context_.failed() ? Value()
                               : call_method(context_, callee.offset, object, callee.name, arguments);
    }
    const Value function = eval(callee);
    const Arguments arguments = eval_arguments(e);
    if (context_.failed()) return Value();
    if (const Function* builtin = function.as_function())
      return call_function(context_, e.offset, *builtin, arguments);
    if (const Macro* macro = function.as_macro()) return call_macro(e.offset, *macro, arguments);
    if (function.is_undefined())
      return context_.fail(callee.offset, "'" + std::string(function.undefined_name()) + "' is undefined");
    return context_.fail(callee.offset, std::string(function.kind_name()) + " cannot be called");
  }

  Value call_macro(std::uint32_t offset, const Macro& macro, const Arguments& arguments) {
    if (arguments.positional.size() > macro.parameters.size())
      return context_.fail(offset, "macro '" + macro.name + "' takes " +
                                       std::to_string(macro.parameters.size()) + " arguments");
    for (const auto& [name, value] : arguments.named)
      if (std::find(macro.parameters.begin(), macro.parameters.end(), name) == macro.parameters.end())
        return context_.fail(offset, "macro '" + macro.name + "' has no parameter '" + name + "'");
    const std::size_t visible = std::exchange(visible_from_, scopes_.size());
    scopes_.emplace_back();
    for (std::size_t i = 0; i < macro.parameters.size(); ++i) {
      if (const Value* given = arguments.get(i, macro.parameters[i]))
        set(macro.parameters[i], *given);
      else if (macro.defaults[i] != nullptr)
        set(macro.parameters[i], eval(*macro.defaults[i]));
      else
        set(macro.parameters[i], Value::undefined(macro.parameters[i]));
    }
    std::string text = capture(macro.body);
    scopes_.pop_back();
    visible_from_ = visible;
    return context_.string(offset, std::move(text));
  }

  Context& context_;
  std::vector<Scope> scopes_;
  std::size_t visible_from_ = 0;  // scopes below, but for the outermost, belong to a macro's caller
  std::string* out_ = nullptr;
  int depth_ = 0;
};

}  // namespace

std::string evaluate(const Body& body, Context& context, const Variables& variables) {
  return Evaluator(context, variables).run(body);
}

}  // namespace spillway::model::jinja
