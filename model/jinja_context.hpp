// SPDX-License-Identifier: Apache-2.0
#pragma once

// One run of a template: its first error, and the bounds on its work. Evaluation goes on after an error with
// undefined values; whoever loops looks at failed().

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/jinja_value.hpp"
#include "runtime/result.hpp"

namespace spillway::model::jinja {

/// Evaluation steps of one run; a long conversation takes about 100 a message.
inline constexpr std::uint64_t kStepsMax = 5'000'000;
/// Bytes a run may produce in strings, lists and output, for each byte of its input and besides.
inline constexpr std::uint64_t kBytesMaxPerInputByte = 64;
inline constexpr std::uint64_t kBytesMaxBesides = std::uint64_t{32} << 20;
/// Of a list or dictionary; see List.
inline constexpr std::uint64_t kWeightMax = std::uint64_t{1} << 30;

class Context {
 public:
  Context(std::string_view name, std::string_view source, std::uint64_t input_bytes,
          std::optional<std::int64_t> now_unix_s)
      : name_(name),
        source_(source),
        bytes_left_(kBytesMaxBesides + kBytesMaxPerInputByte * input_bytes),
        now_unix_s_(now_unix_s) {}

  /// Keeps the first error only. Returns an undefined value to go on with.
  Value fail(std::uint32_t offset, std::string_view what, Errc code = Errc::kInvalidArgument);
  [[nodiscard]] bool failed() const noexcept { return failed_; }
  [[nodiscard]] const Error& error() const noexcept { return error_; }

  /// Counts work on `bytes` bytes; false when it has become too much.
  bool step(std::uint32_t offset, std::uint64_t bytes = 0);
  /// Counts memory too.
  bool allocate(std::uint32_t offset, std::uint64_t bytes);

  /// Python's str(value).
  std::string text(std::uint32_t offset, const Value& value);
  Value string(std::uint32_t offset, std::string text);
  Value list(std::uint32_t offset, std::vector<Value> items, bool tuple = false);
  Value dict(std::uint32_t offset, std::vector<std::pair<std::string, Value>> items);

  [[nodiscard]] std::optional<std::int64_t> now_unix_s() const noexcept { return now_unix_s_; }

 private:
  std::string_view name_, source_;
  std::uint64_t steps_left_ = kStepsMax, bytes_left_;
  std::optional<std::int64_t> now_unix_s_;
  bool failed_ = false;
  Error error_;
};

/// Arguments of a call.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  /// The argument at `index`, or the one called `name` (if that is not empty); null if there is neither.
  [[nodiscard]] const Value* get(std::size_t index, std::string_view name = {}) const noexcept;
};

/// The values a for statement or a filter walks over: a list's items, a dictionary's keys, a string's
/// characters, nothing for an undefined value. Empty optional (after an error) for anything else.
[[nodiscard]] std::optional<std::vector<Value>> items_of(Context& context, std::uint32_t offset,
                                                         const Value& value);

}  // namespace spillway::model::jinja
