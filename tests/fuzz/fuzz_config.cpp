// SPDX-License-Identifier: Apache-2.0
// config.json and generation_config.json: whatever is accepted keeps the promises of model/spec.hpp.

#include <cmath>

#include "model/hf_config.hpp"
#include "model/json.hpp"
#include "tests/fuzz/check_message.hpp"
#include "tests/fuzz/targets.hpp"

namespace spillway::fuzz {
namespace {

using namespace spillway::model;

void check_spec(const ModelSpec& spec) {
  SPW_CHECK(spec.vocab_size > 0 && spec.hidden_size > 0 && spec.embedding_size > 0 &&
            spec.intermediate_size > 0);
  SPW_CHECK(spec.num_layers > 0 && spec.num_layers <= kLayersMax);
  SPW_CHECK(spec.num_heads > 0 && spec.num_kv_heads > 0 && spec.num_heads % spec.num_kv_heads == 0);
  SPW_CHECK(spec.head_dim > 0 && spec.head_dim <= kHeadDimMax);
  SPW_CHECK(spec.max_position > 0 && spec.sliding_window >= 0);
  SPW_CHECK(std::isfinite(spec.norm_eps) && spec.norm_eps >= 0 && spec.attention_scale > 0);
  if (spec.position == PositionKind::kRotary) {
    SPW_CHECK(spec.rope.rotary_dim > 0 && spec.rope.rotary_dim % 2 == 0 &&
              spec.rope.rotary_dim <= spec.head_dim);
    SPW_CHECK(spec.rope.inv_freq.size() * 2 == static_cast<std::size_t>(spec.rope.rotary_dim));
    for (const float frequency : spec.rope.inv_freq) SPW_CHECK(std::isfinite(frequency));
  }
}

}  // namespace

void config(Input input) {
  const auto document =
      parse_json({reinterpret_cast<const char*>(input.data()), input.size()}, "config.json");
  if (!document) return check_message(document.error(), "config.json");
  const JsonField root(*document, "config.json");
  const auto model = describe_hf(root);
  if (model) {
    check_spec(model->spec);
  } else {
    check_message(model.error(), "config.json");
  }
  const auto ids = read_token_ids(root["eos_token_id"], 100);
  if (!ids) check_message(ids.error(), "config.json");
  const auto defaults = read_generation_defaults(root);
  if (!defaults) check_message(defaults.error(), "config.json");
}

}  // namespace spillway::fuzz
