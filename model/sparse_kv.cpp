// SPDX-License-Identifier: Apache-2.0
#include "model/sparse_kv.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <string>
#include <utility>

namespace spillway::model {
namespace {

template <class E>
using Names = std::span<const std::pair<std::string_view, E>>;

constexpr std::array<std::pair<std::string_view, SparseMethod>, 6> kMethods = {
    {{"none", SparseMethod::kNone},
     {"random", SparseMethod::kRandom},
     {"h2o", SparseMethod::kH2o},
     {"streaming", SparseMethod::kStreaming},
     {"snapkv", SparseMethod::kSnapKv},
     {"tova", SparseMethod::kTova}}};
constexpr std::array<std::pair<std::string_view, SparseStrategy>, 4> kStrategies = {
    {{"spvllm", SparseStrategy::kSpvllm},
     {"no-op", SparseStrategy::kNoOp},
     {"free-block", SparseStrategy::kFreeBlock},
     {"sparse-copy", SparseStrategy::kSparseCopy}}};
constexpr std::array<std::pair<std::string_view, SparseGranularity>, 4> kGranularities = {
    {{"head", SparseGranularity::kHead},
     {"layer", SparseGranularity::kLayer},
     {"token", SparseGranularity::kToken},
     {"auto", SparseGranularity::kAuto}}};

template <class E>
std::string_view name_in(Names<E> names, E value) {
  return std::ranges::find(names, value, &std::pair<std::string_view, E>::second)->first;
}

template <class E>
Result<E> parse_in(Names<E> names, std::string_view what, std::string_view name) {
  const auto found = std::ranges::find(names, name, &std::pair<std::string_view, E>::first);
  if (found != names.end()) return found->second;
  std::string known;
  for (const auto& [text, value] : names) known += (known.empty() ? "" : ", ") + std::string(text);
  return Error{Errc::kInvalidArgument,
               std::string(what) + " is '" + std::string(name) + "'; there are " + known};
}

Error refuse(std::string text) { return {Errc::kInvalidArgument, "sparse_kv_cache: " + std::move(text)}; }

}  // namespace

Result<void> validate(const SparseKvParams& p) {
  if (!p.on()) return {};
  const bool has_fraction = p.budget_fraction != 0;
  if (has_fraction && !(p.budget_fraction > 0 && p.budget_fraction < 1))
    return refuse("a budget that is no whole number is a share of the prompt, over 0 and under 1");
  if (p.budget != 0 && has_fraction) return refuse("the budget is a number of tokens or a share, not both");
  if (p.budget == 0 && !has_fraction && !(p.recent && p.heavy))
    return refuse("there is no budget: a number of tokens, or a share of the prompt such as 0.5");
  if (p.num_per_evict == 0) return refuse("num_per_evict must be 1 or more");
  if (p.window == 0) return refuse("window must be 1 or more");
  if (p.rotate_to_cache && p.method != SparseMethod::kStreaming)
    return refuse("positions 'cache' goes with method streaming only");
  if (p.rotate_to_cache && p.sinks > 256) return refuse("positions 'cache' goes with at most 256 sinks");
  if (p.budget != 0) {
    if (Result<SparseKvParams> whole = resolve(p, p.budget); !whole) return std::move(whole).error();
  }
  return {};
}

Result<SparseKvParams> resolve(SparseKvParams p, std::uint32_t prompt_tokens) {
  if (!p.on()) return p;
  if (p.granularity == SparseGranularity::kAuto)
    p.granularity = p.method == SparseMethod::kTova ? SparseGranularity::kLayer : SparseGranularity::kHead;
  if (p.recent) p.recent = std::max<std::uint32_t>(1, *p.recent);  // the token just computed
  const bool sized = p.budget == 0;
  if (p.budget == 0 && p.budget_fraction > 0)
    p.budget = static_cast<std::uint32_t>(std::ceil(p.budget_fraction * prompt_tokens));
  const std::uint64_t quotas = std::uint64_t{p.sinks} + p.recent.value_or(0) + p.heavy.value_or(0);
  if (sized && p.budget_fraction == 0) {
    p.budget = static_cast<std::uint32_t>(std::min<std::uint64_t>(quotas, UINT32_MAX));
  } else if (sized) {
    // A share of a short prompt still has to hold what is protected and one token to evict.
    const std::uint64_t least =
        std::max<std::uint64_t>(quotas, std::uint64_t{p.sinks} + p.recent.value_or(1)) + p.num_per_evict;
    p.budget = static_cast<std::uint32_t>(
        std::min<std::uint64_t>(std::max<std::uint64_t>(p.budget, least), UINT32_MAX));
  }
  const std::uint64_t fixed = std::uint64_t{p.sinks} + p.num_per_evict;
  const auto too_small = [&](std::uint64_t least) {
    return refuse("a budget of " + std::to_string(p.budget) + " tokens is too small: sinks (" +
                  std::to_string(p.sinks) + "), recent and num_per_evict (" +
                  std::to_string(p.num_per_evict) + ") need at least " + std::to_string(least));
  };
  if (p.budget < fixed + p.recent.value_or(1)) return too_small(fixed + p.recent.value_or(1));
  const std::uint32_t rest = p.budget - p.sinks;
  if (!p.recent && p.heavy) {
    if (*p.heavy >= rest)
      return refuse("heavy (" + std::to_string(*p.heavy) + ") and sinks leave nothing for recent tokens");
    p.recent = rest - *p.heavy;
  }
  if (!p.recent) {
    const std::uint32_t most = rest - p.num_per_evict;
    p.recent = p.method == SparseMethod::kStreaming ? most
               : p.method == SparseMethod::kSnapKv  ? std::min({p.window, most, (rest + 1) / 2})
               : p.method == SparseMethod::kTova || p.method == SparseMethod::kRandom
                   ? 1
                   : std::min(most, (rest + 1) / 2);
  }
  if (rest < *p.recent + p.num_per_evict) return too_small(fixed + *p.recent);
  if (p.heavy && *p.heavy + *p.recent != rest) {
    return refuse("sinks, recent and heavy add up to " + std::to_string(p.sinks + *p.recent + *p.heavy) +
                  ", the budget is " + std::to_string(p.budget));
  }
  p.heavy = rest - *p.recent;
  p.budget_fraction = 0;
  return p;
}

std::string_view name_of(SparseMethod method) noexcept { return name_in<SparseMethod>(kMethods, method); }
std::string_view name_of(SparseStrategy strategy) noexcept {
  return name_in<SparseStrategy>(kStrategies, strategy);
}
std::string_view name_of(SparseGranularity granularity) noexcept {
  return name_in<SparseGranularity>(kGranularities, granularity);
}
Result<SparseMethod> parse_sparse_method(std::string_view name) {
  return parse_in<SparseMethod>(kMethods, "the method", name);
}
Result<SparseStrategy> parse_sparse_strategy(std::string_view name) {
  return parse_in<SparseStrategy>(kStrategies, "the strategy", name);
}
Result<SparseGranularity> parse_sparse_granularity(std::string_view name) {
  return parse_in<SparseGranularity>(kGranularities, "the granularity", name);
}

}  // namespace spillway::model
