// SPDX-License-Identifier: Apache-2.0
#pragma once

// Values of the template language: Python's, as far as chat templates meet them. Copying a Value is cheap;
// strings, lists and dictionaries are shared and never change (a namespace does). Nesting is bounded, so
// walking and destroying a value cannot exhaust the stack.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace spillway::model::jinja {

class Value;
struct Macro;

/// A name nobody has set. False, empty when printed or walked; anything else is an error.
struct Undefined {
  std::string name;  // for messages
};
struct None {};
/// Elements of a list. `depth` is one more than its deepest element's. `weight` counts the bytes of all that
/// can be reached, as often as it can be reached: what walking it costs, though elements are shared.
struct List {
  std::vector<Value> items;
  int depth = 1;
  std::uint64_t weight = 0;
  bool tuple = false;  // made by (a, b): printed so, in all else a list
};
/// Entries in the order they were made; keys are strings. Chat templates' dictionaries have a few entries.
struct Dict {
  std::vector<std::pair<std::string, Value>> items;
  int depth = 1;
  std::uint64_t weight = 0;
  [[nodiscard]] const Value* find(std::string_view key) const noexcept;
};
struct Namespace {
  Dict fields;
};
/// The `loop` variable of a for statement.
struct Loop {
  std::shared_ptr<const List> items;
  std::size_t index = 0;  // of the current item
};
enum class Function : std::uint8_t { kRange, kNamespace, kDict, kRaiseException, kStrftimeNow };

/// Values that may not be stored inside others: a namespace could otherwise come to hold itself.
inline constexpr int kDepthUnstorable = 1000;
/// Lists and dictionaries nest this deep at most.
inline constexpr int kDepthMax = 64;

class Value {
 public:
  using Storage = std::variant<std::shared_ptr<const Undefined>, None, bool, std::int64_t, double,
                               std::shared_ptr<const std::string>, std::shared_ptr<const List>,
                               std::shared_ptr<const Dict>, std::shared_ptr<Namespace>, std::shared_ptr<Loop>,
                               Function, const Macro*>;

  Value() : storage_(std::shared_ptr<const Undefined>()) {}
  template <class T>
  static Value of(T value) {
    Value v;
    v.storage_ = std::move(value);
    return v;
  }
  static Value undefined(std::string_view name) {
    return of(std::make_shared<const Undefined>(Undefined{std::string(name)}));
  }
  static Value none() { return of(None{}); }
  static Value boolean(bool value) { return of(value); }
  static Value integer(std::int64_t value) { return of(value); }
  static Value string(std::string value) { return of(std::make_shared<const std::string>(std::move(value))); }

  [[nodiscard]] bool is_undefined() const noexcept { return storage_.index() == 0; }
  [[nodiscard]] bool is_none() const noexcept { return std::holds_alternative<None>(storage_); }
  [[nodiscard]] bool is_bool() const noexcept { return std::holds_alternative<bool>(storage_); }
  [[nodiscard]] bool is_integer() const noexcept { return std::holds_alternative<std::int64_t>(storage_); }
  [[nodiscard]] bool is_float() const noexcept { return std::holds_alternative<double>(storage_); }
  [[nodiscard]] bool is_string() const noexcept { return as_string() != nullptr; }
  [[nodiscard]] bool is_callable() const noexcept {
    return std::holds_alternative<Function>(storage_) || std::holds_alternative<const Macro*>(storage_);
  }

  /// An integer, or a boolean as 0 or 1, as in Python.
  [[nodiscard]] std::optional<std::int64_t> as_integer() const noexcept;
  /// Any number.
  [[nodiscard]] std::optional<double> as_number() const noexcept;
  [[nodiscard]] const std::string* as_string() const noexcept { return pointer<const std::string>(); }
  [[nodiscard]] const List* as_list() const noexcept { return pointer<const List>(); }
  [[nodiscard]] const Dict* as_dict() const noexcept { return pointer<const Dict>(); }
  [[nodiscard]] Namespace* as_namespace() const noexcept { return pointer<Namespace>(); }
  [[nodiscard]] Loop* as_loop() const noexcept { return pointer<Loop>(); }
  [[nodiscard]] const Function* as_function() const noexcept { return std::get_if<Function>(&storage_); }
  [[nodiscard]] const Macro* as_macro() const noexcept {
    const auto* macro = std::get_if<const Macro*>(&storage_);
    return macro == nullptr ? nullptr : *macro;
  }
  [[nodiscard]] const Storage& storage() const noexcept { return storage_; }

  [[nodiscard]] bool truthy() const noexcept;
  /// 0 for a value that holds no others.
  [[nodiscard]] int depth() const noexcept;
  [[nodiscard]] std::uint64_t weight() const noexcept;
  /// The name of an undefined value, or "".
  [[nodiscard]] std::string_view undefined_name() const noexcept;
  /// "a string", "a list", ... for messages.
  [[nodiscard]] std::string_view kind_name() const noexcept;

 private:
  template <class T>
  [[nodiscard]] T* pointer() const noexcept {
    const auto* held = std::get_if<std::shared_ptr<T>>(&storage_);
    return held == nullptr ? nullptr : held->get();
  }
  Storage storage_;
};

[[nodiscard]] bool equal(const Value& a, const Value& b) noexcept;
/// Python's a < b; empty if the two cannot be ordered.
[[nodiscard]] std::optional<bool> less(const Value& a, const Value& b) noexcept;

/// Python's str(value).
void append_text(const Value& value, std::string& out);
/// json.dumps(value, ensure_ascii=False, indent=indent); indent < 0: on one line. False if there is no JSON
/// for it.
[[nodiscard]] bool append_json(const Value& value, int indent, std::string& out);

}  // namespace spillway::model::jinja
