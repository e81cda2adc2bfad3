// SPDX-License-Identifier: Apache-2.0
#include "net/service.hpp"

#include <algorithm>
#include <random>

namespace spillway::net {

Service::Service(ServerOptions options)
    : options_(std::move(options)),
      conversations_(options_.conversations_max, options_.conversation_bytes_max) {
  rules_.prompt_bytes_max = options_.prompt_bytes_max;
  metrics_.name_model(model_name());
}

void Service::attach(Engine& engine, boost::asio::any_io_executor executor) {
  port_ = std::make_unique<EnginePort>(engine, std::move(executor), options_.credits);
  const model::GenerationDefaults& defaults = engine.model().generation_defaults();
  if (defaults.temperature) rules_.defaults.temperature = *defaults.temperature;
  if (defaults.top_p) rules_.defaults.top_p = *defaults.top_p;
  if (defaults.top_k) rules_.defaults.top_k = *defaults.top_k;
  rules_.defaults.sparse_kv = engine.options().sparse_kv;
  if (defaults.repetition_penalty) rules_.defaults.repetition_penalty = *defaults.repetition_penalty;
}

void Service::detach() { port_.reset(); }

std::optional<ApiError> Service::refusal(std::string_view model) const {
  if (loading()) {
    return ApiError{.status = 503, .code = "loading", .message = "The model is still being loaded.", .retry_after_s = 1};
  }
  if (draining_) return net::draining();
  const auto& names = options_.served_model_names;
  if (!model.empty() && std::ranges::find(names, model) == names.end()) return model_not_found(model.substr(0, 256));
  return std::nullopt;
}

std::optional<ApiError> Service::queue_refusal(std::size_t choices) {
  const std::size_t room = port_->engine().options().max_num_seqs + std::size_t{options_.max_num_queued_reqs};
  if (choices_ + choices <= room) return std::nullopt;
  metrics_.count_refused();
  return queue_full();
}

Result<std::vector<model::TokenId>> Service::encode(const Prompt& prompt, bool add_special_tokens) const {
  const Engine& engine = port_->engine();
  if (const auto* ids = std::get_if<std::vector<model::TokenId>>(&prompt)) return *ids;
  if (const auto* messages = std::get_if<std::vector<model::Message>>(&prompt)) return engine.chat_prompt(*messages);
  if (add_special_tokens || engine.tokenizer() == nullptr) return engine.encode(std::get<std::string>(prompt));
  return engine.tokenizer()->encode(std::get<std::string>(prompt), {.add_special_tokens = false});
}

void Service::complete_params(model::SamplingParams& params, std::size_t prompt_tokens, bool max_tokens_given,
                              bool seed_given) const {
  const std::size_t longest = port_->engine().max_model_len();
  if (!max_tokens_given) params.max_tokens = static_cast<std::int32_t>(longest - std::min(prompt_tokens, longest - 1));
  if (!seed_given) {
    std::random_device random;
    params.seed = std::uint64_t{random()} << 32 | random();
  }
}

actors::PrefixHash Service::salt_of(std::uint32_t principal) const noexcept {
  if (!options_.salt_prefix_cache_per_key || principal == 0) return {};
  return {0x73616c7400000000ULL | principal, principal};
}

std::string Service::new_id(std::string_view prefix) const {
  constexpr char kHex[] = "0123456789abcdef";
  std::random_device random;
  std::string id(prefix);
  for (int word = 0; word < 3; ++word) {
    std::uint32_t bits = random();
    for (int digit = 0; digit < 8; ++digit, bits >>= 4) id += kHex[bits & 15];
  }
  return id;
}

void Service::enlist(const std::string& id, std::uint32_t principal, std::size_t choices,
                     std::function<void()> cancel) {
  choices_ += choices;
  running_.emplace(id, Running{principal, choices, std::move(cancel)});
}

void Service::delist(const std::string& id) {
  const auto found = running_.find(id);
  if (found == running_.end()) return;
  choices_ -= found->second.choices;
  running_.erase(found);
}

bool Service::cancel(const std::string& id, std::uint32_t principal) {
  const auto found = running_.find(id);
  if (found == running_.end() || found->second.principal != principal) return false;
  found->second.cancel();
  return true;
}

void Service::cancel_all() {
  for (auto& [id, running] : running_) running.cancel();
}

}  // namespace spillway::net
