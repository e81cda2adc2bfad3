// SPDX-License-Identifier: Apache-2.0
#include "net/token_json.hpp"

#include "net/json_text.hpp"

namespace spillway::net {
namespace {

void append_one(std::string& out, const model::Tokenizer* tokenizer, model::TokenId id, float logprob) {
  const std::string text = token_text(tokenizer, id);
  out += R"("token":)";
  append_quoted(out, text);
  out += R"(,"logprob":)";
  append_number(out, logprob);
  out += R"(,"bytes":)";
  append_bytes(out, text);
}

}  // namespace

std::string token_text(const model::Tokenizer* tokenizer, model::TokenId id) {
  if (tokenizer == nullptr) return "token_id:" + std::to_string(id);
  return std::string(tokenizer->token_bytes(id));
}

void append_logprob_entries(std::string& out, const model::Tokenizer* tokenizer,
                            std::span<const actors::TokenInfo> tokens) {
  bool first = true;
  for (const actors::TokenInfo& token : tokens) {
    if (!first) out += ',';
    first = false;
    out += '{';
    append_one(out, tokenizer, token.token, token.logprob);
    out += R"(,"top_logprobs":[)";
    for (std::size_t k = 0; k < token.top.size(); ++k) {
      out += k == 0 ? "{" : ",{";
      append_one(out, tokenizer, token.top[k].token, token.top[k].logprob);
      out += '}';
    }
    out += "]}";
  }
}

void append_sparse_usage(std::string& out, const actors::Usage& usage) {
  if (!usage.sparsified) return;
  out += R"(,"sparse_kv_cache":{"evicted_tokens":)" + std::to_string(usage.evicted_tokens) + R"(,"exact":)" +
         (usage.evicted_tokens == 0 ? "true}" : "false}");
}

}  // namespace spillway::net
