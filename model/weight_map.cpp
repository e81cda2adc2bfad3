// SPDX-License-Identifier: Apache-2.0
#include "model/weight_map.hpp"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "model/quote.hpp"

namespace spillway::model {
namespace {

class WeightMapper {
 public:
  WeightMapper(const TensorSource& source, const TensorScheme& scheme, const Description& model)
      : source_(source), scheme_(scheme), model_(model) {}

  Result<Weights> run() {
    for (const std::string_view prefix : scheme_.prefixes) {
      prefix_ = prefix;
      if (source_.has(std::string(prefix) + std::string(scheme_.probe))) break;
      prefix_ = scheme_.prefixes.front();
    }
    Weights out;
    out.layers.resize(static_cast<std::size_t>(model_.spec.num_layers));
    for (const TensorRule& rule : scheme_.rules) {
      if (rule.scope != Scope::kLayer) {
        if (auto done = take(rule, 0, out.*rule.global); !done) return std::move(done).error();
        continue;
      }
      for (std::size_t i = 0; i < out.layers.size(); ++i) {
        if (auto done = take(rule, i, out.layers[i].*rule.layer); !done) return std::move(done).error();
      }
    }
    if (auto done = refuse_strangers(); !done) return std::move(done).error();
    return out;
  }

 private:
  std::string name_of(const TensorRule& rule, std::size_t layer) const {
    if (rule.scope == Scope::kRoot) return std::string(rule.name);
    if (rule.scope == Scope::kModel) return std::string(prefix_) + std::string(rule.name);
    return std::string(prefix_) + std::string(scheme_.layer) + std::to_string(layer) + "." +
           std::string(rule.name);
  }

  Result<void> take(const TensorRule& rule, std::size_t layer, TensorView& out) {
    std::string name = name_of(rule, layer);
    if (!holds(rule.need, model_)) {
      // A tied model may store the shared matrix a second time.
      if (rule.need == Need::kUntied) known_.insert(std::move(name));
      return {};
    }
    auto found = source_.tensor(name);
    if (!found) {
      if (found.error().code == Errc::kNotFound) return Error{Errc::kBadFile, found.error().message};
      return std::move(found).error();
    }
    std::vector<std::uint64_t> wanted = {size_of(rule.rows, model_.spec)};
    if (rule.cols != Dim::kOne) wanted.push_back(size_of(rule.cols, model_.spec));
    if (found->shape != wanted) {
      return Error{Errc::kBadFile, source_.place(name) + ": tensor " + quote(name) + " has shape " +
                                       shape_text(found->shape) + " where the configuration wants " +
                                       shape_text(wanted)};
    }
    if (wanted.size() == 1 && block_elements(found->dtype) != 1) {
      return Error{Errc::kUnsupported, source_.place(name) + ": tensor " + quote(name) + " has type " +
                                           std::string(to_string(found->dtype)) +
                                           "; a vector must be F32, F16 or BF16"};
    }
    out = *std::move(found);
    known_.insert(std::move(name));
    return {};
  }

  Result<void> refuse_strangers() const {
    for (const std::string_view name : source_.names()) {
      if (known_.contains(std::string(name))) continue;
      if (std::ranges::any_of(scheme_.ignored, [&](std::string_view end) { return name.ends_with(end); }))
        continue;
      return Error{Errc::kUnsupported,
                   source_.place(name) + ": tensor " + quote(name) + " is not part of a " +
                       quote(model_.spec.architecture) + " model as its configuration has it (" +
                       std::to_string(model_.spec.num_layers) + " layers); refusing to ignore it"};
    }
    return {};
  }

  const TensorSource& source_;
  const TensorScheme& scheme_;
  const Description& model_;
  std::string_view prefix_;
  std::unordered_set<std::string> known_;
};

}  // namespace

Result<Weights> map_weights(const TensorSource& source, const TensorScheme& scheme,
                            const Description& model) {
  return WeightMapper(source, scheme, model).run();
}

}  // namespace spillway::model
