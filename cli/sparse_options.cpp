// SPDX-License-Identifier: Apache-2.0
// Options of KV sparsification (model/sparse_kv.hpp).

#include <charconv>

#include "cli/option_values.hpp"
#include "cli/options.hpp"
#include "model/sparse_kv_fields.hpp"

namespace spillway::cli {
namespace {

/// One of the words that `parse` knows; its error lists them.
template <class T, class Parse>
void add_name(CLI::App& command, const std::string& name, const std::string& words, const std::string& help,
              T& target, Parse parse) {
  add_value(command, name, words, help, [&target, parse](const std::string& text) -> Result<void> {
    Result<T> value = parse(text);
    if (!value) return std::move(value).error();
    target = *value;
    return {};
  });
}

}  // namespace

Result<void> parse_sparse_budget(std::string_view text, model::SparseKvParams& params) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool share = error == std::errc() && end == text.data() + text.size() && number > 0 && number < 1;
  const Result<std::int64_t> tokens = parse_integer(text, 1, std::numeric_limits<std::int32_t>::max());
  if (!share && !tokens) {
    return Error{Errc::kInvalidArgument,
                 "'" + std::string(text) +
                     "' is neither a whole number of tokens, 1 or more, nor a share of "
                     "the prompt over 0 and under 1"};
  }
  params.budget = share ? 0 : static_cast<std::uint32_t>(*tokens);
  params.budget_fraction = share ? number : 0;
  return {};
}

void add_sparse_options(CLI::App& command, EngineOptions& options) {
  const OptionGroup group(command, "KV sparsification (the answers are not exact)");
  model::SparseKvParams& params = options.sparse_kv;
  const std::string prefix = "--sparse-kv-cache-";
  add_name(command, prefix + "method", "none|random|h2o|streaming|snapkv|tova",
           "how tokens are chosen that a sequence over its budget forgets; none: it forgets nothing [none]",
           params.method, &model::parse_sparse_method);
  add_value(command, prefix + "budget", "N|FRACTION",
            "tokens that a sequence keeps, or their share of its prompt",
            [&params](const std::string& text) { return parse_sparse_budget(text, params); });
  add_number(command, prefix + "num-per-evict", "tokens forgotten at a time [1]", params.num_per_evict, 1);
  add_name(command, prefix + "internal", "spvllm|no-op|free-block|sparse-copy",
           "what becomes of their memory: the next token's, nothing, given back by whole blocks, survivors "
           "copied together [spvllm]",
           params.strategy, &model::parse_sparse_strategy);
  add_name(command, prefix + "granularity", "auto|head|layer|token",
           "who chooses: each KV head, the heads of a layer, or all layers together "
           "[auto: head, with tova layer]",
           params.granularity, &model::parse_sparse_granularity);
  add_number(command, prefix + "sinks", "first tokens, always kept [4]", params.sinks, 0);
  add_number(command, prefix + "recent",
             "last tokens, always kept [half of what the sinks leave; streaming: all, tova and random: 1, "
             "snapkv: its window]",
             params.recent, 0);
  add_number(command, prefix + "heavy", "tokens kept for their score [what sinks and recent leave]",
             params.heavy, 0);
  add_number(command, prefix + "window", "snapkv: queries at the prompt's end that count [32]", params.window,
             1);
  add_name(command, prefix + "positions", "original|cache",
           "streaming: positions count all tokens, or those that are left [original]", params.rotate_to_cache,
           &model::parse_sparse_positions);
  command.add_flag(prefix + "per-request", options.sparse_kv_per_request,
                   "let requests choose (sparse_kv_cache) though the method here is none");
  add_number(command, prefix + "min-budget", "refuse requests with a smaller budget [0]",
             options.sparse_kv_budget_min, 0);
}

}  // namespace spillway::cli
