// SPDX-License-Identifier: Apache-2.0
#pragma once

// What one place (a request's body, a line of a batch) says about sparsification; empty where it is silent,
// and then the engine's own parameters hold.

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <optional>
#include <string_view>

#include "model/sparse_kv.hpp"
#include "runtime/result.hpp"

namespace spillway::model {

struct SparseKvFields {
  std::optional<SparseMethod> method;
  std::optional<SparseStrategy> strategy;
  std::optional<SparseGranularity> granularity;
  std::optional<std::uint32_t> budget, num_per_evict, sinks, recent, heavy, window;  // tokens
  std::optional<double> budget_fraction;                                             // of the prompt's tokens
  std::optional<bool> rotate_to_cache;

  /// A budget takes the place of the one below it whether it is a number or a share, and with it the quotas
  /// that divided the old one.
  void apply_to(SparseKvParams& params) const;
};

/// {"method","budget","num_per_evict","internal","granularity","sinks","recent","heavy","window","positions"};
/// null counts as absent. Errors: kInvalidArgument, beginning with the field ("sparse_kv_cache.budget is
/// ...").
[[nodiscard]] Result<SparseKvFields> parse_sparse_kv(const boost::json::value& value);

/// "original" (false) or "cache" (true): what a token's position counts.
[[nodiscard]] Result<bool> parse_sparse_positions(std::string_view name);

}  // namespace spillway::model
