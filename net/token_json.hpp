// SPDX-License-Identifier: Apache-2.0
#pragma once

// Log probabilities as the API's endpoints write them.

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

}  // namespace spillway::net
