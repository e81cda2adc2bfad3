// SPDX-License-Identifier: Apache-2.0
#include "cli/sampling_fields.hpp"

namespace spillway::cli {
namespace {

template <class T, class U>
void set(T& target, const std::optional<U>& value) {
  if (value) target = *value;
}

}  // namespace

void SamplingFields::apply_to(model::SamplingParams& params) const {
  set(params.max_tokens, max_tokens);
  set(params.temperature, temperature);
  set(params.top_k, top_k);
  set(params.top_p, top_p);
  set(params.min_p, min_p);
  set(params.repetition_penalty, repetition_penalty);
  set(params.presence_penalty, presence_penalty);
  set(params.frequency_penalty, frequency_penalty);
  set(params.seed, seed);
  set(params.stop, stop);
  set(params.stop_token_ids, stop_token_ids);
  set(params.n, n);
  set(params.logprobs, logprobs);
  set(params.ignore_eos, ignore_eos);
  if (sparse_kv) {
    model::SparseKvParams sparse = params.sparse_kv.value_or(model::SparseKvParams{});
    sparse_kv->apply_to(sparse);
    params.sparse_kv = sparse;
  }
}

void apply(const model::GenerationDefaults& defaults, model::SamplingParams& params) {
  set(params.temperature, defaults.temperature);
  set(params.top_p, defaults.top_p);
  set(params.top_k, defaults.top_k);
  set(params.repetition_penalty, defaults.repetition_penalty);
}

}  // namespace spillway::cli
