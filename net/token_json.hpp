// SPDX-License-Identifier: Apache-2.0
#pragma once

// Parts of answers that the API's endpoints have in common: log probabilities, and what sparsification did.

#include <span>
#include <string>

#include "actors/messages.hpp"
#include "model/tokenizer.hpp"

namespace spillway::net {

/// The text of a token for people and the raw bytes beside it. Without a tokenizer: "token_id:N".
[[nodiscard]] std::string token_text(const model::Tokenizer* tokenizer, model::TokenId id);

/// Entries of {"token","logprob","bytes","top_logprobs"}, separated by commas: chat and Responses.
void append_logprob_entries(std::string& out, const model::Tokenizer* tokenizer,
                            std::span<const actors::TokenInfo> tokens);

/// ,"sparse_kv_cache":{"evicted_tokens","exact"} behind the other members of a usage; nothing for a request that was
/// not sparsified.
void append_sparse_usage(std::string& out, const actors::Usage& usage);

}  // namespace spillway::net
