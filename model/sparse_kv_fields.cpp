// SPDX-License-Identifier: Apache-2.0
#include "model/sparse_kv_fields.hpp"

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <cstdio>
#include <limits>
#include <string>

#include "model/quote.hpp"

namespace spillway::model {
namespace {

namespace json = boost::json;

Error refuse(const std::string& field, std::string text) {
  return {Errc::kInvalidArgument,
          "sparse_kv_cache" + (field.empty() ? "" : "." + field) + " " + std::move(text)};
}

std::string shown(const json::value& value) {
  if (!value.is_double()) return printable(json::serialize(value), 40);
  char digits[32];
  std::snprintf(digits, sizeof digits, "%g", value.get_double());
  return digits;
}

Result<std::uint32_t> count(const std::string& field, const json::value& value, std::uint32_t min) {
  constexpr std::int64_t kMax = std::numeric_limits<std::int32_t>::max();
  if (value.is_int64() && value.get_int64() >= min && value.get_int64() <= kMax)
    return static_cast<std::uint32_t>(value.get_int64());
  return refuse(field, "is " + shown(value) + "; it must be a whole number of tokens, " +
                           std::to_string(min) + " or more");
}

/// A whole number of tokens, or a share of the prompt.
Result<void> read_budget(const json::value& value, SparseKvFields& fields) {
  if (value.is_double() && value.get_double() > 0 && value.get_double() < 1) {
    fields.budget_fraction = value.get_double();
    return {};
  }
  const bool whole = value.is_int64();
  Result<std::uint32_t> tokens = count("budget", value, 1);
  if (!tokens && !whole)
    return refuse("budget", "is " + shown(value) +
                                "; it must be a whole number of tokens, 1 or more, or a share "
                                "of the prompt over 0 and under 1");
  if (!tokens) return std::move(tokens).error();
  fields.budget = *tokens;
  return {};
}

template <class T, class Parse>
Result<void> read_word(const std::string& field, const json::value& value, std::optional<T>& target,
                       Parse parse) {
  if (!value.is_string() || value.get_string().size() > 40)
    return refuse(field, "is " + shown(value) + "; it must be one of a few words");
  Result<T> parsed = parse(std::string_view(value.get_string()));
  if (!parsed) return refuse(field, "is not right: " + parsed.error().message);
  target = *parsed;
  return {};
}

Result<void> read_count(const std::string& field, const json::value& value, std::uint32_t min,
                        std::optional<std::uint32_t>& target) {
  Result<std::uint32_t> tokens = count(field, value, min);
  if (!tokens) return std::move(tokens).error();
  target = *tokens;
  return {};
}

Result<void> read_field(const std::string& field, const json::value& value, SparseKvFields& fields) {
  if (field == "method") return read_word(field, value, fields.method, &parse_sparse_method);
  if (field == "internal") return read_word(field, value, fields.strategy, &parse_sparse_strategy);
  if (field == "granularity") return read_word(field, value, fields.granularity, &parse_sparse_granularity);
  if (field == "positions") return read_word(field, value, fields.rotate_to_cache, &parse_sparse_positions);
  if (field == "budget") return read_budget(value, fields);
  if (field == "num_per_evict") return read_count(field, value, 1, fields.num_per_evict);
  if (field == "sinks") return read_count(field, value, 0, fields.sinks);
  if (field == "recent") return read_count(field, value, 0, fields.recent);
  if (field == "heavy") return read_count(field, value, 0, fields.heavy);
  if (field == "window") return read_count(field, value, 1, fields.window);
  return refuse("",
                "has no field " + quote(field, 40) +
                    "; there are method, budget, num_per_evict, internal, granularity, sinks, recent, heavy, "
                    "window, positions");
}

template <class T, class U>
void set(T& target, const std::optional<U>& value) {
  if (value) target = *value;
}

}  // namespace

void SparseKvFields::apply_to(SparseKvParams& params) const {
  if (budget || budget_fraction) {
    params.budget = budget.value_or(0);
    params.budget_fraction = budget_fraction.value_or(0);
    params.recent.reset();
    params.heavy.reset();
  }
  set(params.method, method);
  set(params.strategy, strategy);
  set(params.granularity, granularity);
  set(params.num_per_evict, num_per_evict);
  set(params.sinks, sinks);
  set(params.recent, recent);
  set(params.heavy, heavy);
  set(params.window, window);
  set(params.rotate_to_cache, rotate_to_cache);
}

Result<SparseKvFields> parse_sparse_kv(const json::value& value) {
  if (!value.is_object()) {
    return refuse(
        "", "is " + shown(value) + R"(; it must be an object such as {"method": "h2o", "budget": 512})");
  }
  SparseKvFields fields;
  for (const auto& [key, each] : value.get_object()) {
    if (each.is_null()) continue;
    if (Result<void> read = read_field(std::string(std::string_view(key)), each, fields); !read)
      return std::move(read).error();
  }
  return fields;
}

Result<bool> parse_sparse_positions(std::string_view name) {
  if (name == "original") return false;
  if (name == "cache") return true;
  return Error{Errc::kInvalidArgument,
               "the positions are '" + std::string(name) + "'; there are original, cache"};
}

}  // namespace spillway::model
