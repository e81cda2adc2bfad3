// SPDX-License-Identifier: Apache-2.0
#pragma once

// Parts that several endpoints' bodies have in common.

#include "net/api_request.hpp"
#include "net/json_fields.hpp"

namespace spillway::net {

/// temperature, top_p, top_k, min_p, penalties, seed, stop, stop_token_ids, ignore_eos, sparse_kv_cache; not n,
/// max_tokens, logprobs.
void read_sampling(JsonFields& fields, model::SamplingParams& params, bool& seed_given);
/// stream, stream_options.
void read_streaming(JsonFields& fields, TextRequest& request);
/// Refuses by name what is not there yet: tools, structured output, audio, beam search.
void refuse_unsupported(JsonFields& fields);
/// A message's content: text, or parts that are all text. `where` names it in errors.
void read_content(JsonFields& fields, const boost::json::value& content, const std::string& where, std::string& text);
/// One of the roles that chat templates know; "developer" reads as "system".
void read_message(JsonFields& fields, const boost::json::value& item, const std::string& where,
                  std::vector<model::Message>& messages);
void read_messages(JsonFields& fields, std::string_view name, std::vector<model::Message>& messages);
void read_token_ids(JsonFields& fields, const boost::json::array& array, const std::string& where,
                    std::vector<model::TokenId>& ids);
/// Ranges, once everything is read.
void check_sampling(JsonFields& fields, const model::SamplingParams& params, const RequestRules& rules);
void check_prompt_bytes(JsonFields& fields, std::size_t bytes, const RequestRules& rules, std::string_view name);
[[nodiscard]] std::size_t bytes_of(const std::vector<model::Message>& messages);

}  // namespace spillway::net
