// SPDX-License-Identifier: Apache-2.0
#pragma once

// One line of results: the same keys from every sparsification bench, null where a bench measures something
// else. What they mean: docs/sparsification.md.

#include <boost/json/object.hpp>
#include <string_view>

#include "model/sparse_kv.hpp"

namespace spillway::bench {

[[nodiscard]] inline boost::json::object result_line(const model::SparseKvParams& params,
                                                     std::string_view workload) {
  using boost::json::value;
  const bool on = params.on();
  const auto word = [on](std::string_view text) { return on ? value(text) : value(nullptr); };
  return {{"method", model::name_of(params.method)},
          {"strategy", word(model::name_of(params.strategy))},
          {"granularity", word(model::name_of(params.granularity))},
          {"budget", on ? value(params.budget) : value(nullptr)},
          {"workload", workload},
          {"frag_p99", nullptr},
          {"frag_mean", nullptr},
          {"req_per_s", nullptr},
          {"tok_per_s", nullptr},
          {"ttft_p50_ms", nullptr},
          {"tpot_p50_ms", nullptr},
          {"itl_p99_ms", nullptr},
          {"preemptions", nullptr},
          {"slots_reused", nullptr},
          {"blocks_copied", nullptr},
          {"perplexity", nullptr},
          {"bound_ratio", nullptr}};
}

}  // namespace spillway::bench
