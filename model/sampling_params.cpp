// SPDX-License-Identifier: Apache-2.0
#include "model/sampling_params.hpp"

#include <cmath>
#include <cstdio>
#include <string>
#include <string_view>

namespace spillway::model {
namespace {

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

Error refuse(std::string_view field, std::string value, std::string_view range) {
  return {Errc::kInvalidArgument,
          std::string(field) + " is " + std::move(value) + "; it must be " + std::string(range)};
}

}  // namespace

Result<void> validate(const SamplingParams& p) {
  // Conditions are written so that NaN fails them.
  const bool temperature_ok = p.temperature >= 0.0f && std::isfinite(p.temperature);
  const bool repetition_ok = p.repetition_penalty > 0.0f && std::isfinite(p.repetition_penalty);
  if (p.max_tokens < 0) return refuse("max_tokens", std::to_string(p.max_tokens), "0 or more");
  if (!temperature_ok)
    return refuse("temperature", number(p.temperature), "a finite number, 0 (greedy) or more");
  if (p.top_k < -1) return refuse("top_k", std::to_string(p.top_k), "1 or more, or 0 or -1 for off");
  if (!(p.top_p > 0.0f && p.top_p <= 1.0f)) return refuse("top_p", number(p.top_p), "over 0 and at most 1");
  if (!(p.min_p >= 0.0f && p.min_p <= 1.0f)) return refuse("min_p", number(p.min_p), "between 0 and 1");
  if (!repetition_ok)
    return refuse("repetition_penalty", number(p.repetition_penalty), "a finite number over 0");
  if (!(p.presence_penalty >= -2.0f && p.presence_penalty <= 2.0f))
    return refuse("presence_penalty", number(p.presence_penalty), "between -2 and 2");
  if (!(p.frequency_penalty >= -2.0f && p.frequency_penalty <= 2.0f))
    return refuse("frequency_penalty", number(p.frequency_penalty), "between -2 and 2");
  for (std::size_t i = 0; i < p.stop.size(); ++i)
    if (p.stop[i].empty())
      return refuse("stop[" + std::to_string(i) + "]", "empty", "a string of at least one byte");
  for (std::size_t i = 0; i < p.stop_token_ids.size(); ++i)
    if (p.stop_token_ids[i] < 0)
      return refuse("stop_token_ids[" + std::to_string(i) + "]", std::to_string(p.stop_token_ids[i]),
                    "0 or more");
  if (p.n < 1) return refuse("n", std::to_string(p.n), "1 or more");
  if (p.logprobs < -1) return refuse("logprobs", std::to_string(p.logprobs), "0 or more, or -1 for none");
  return p.sparse_kv ? validate(*p.sparse_kv) : Result<void>{};
}

}  // namespace spillway::model
