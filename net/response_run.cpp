// SPDX-License-Identifier: Apache-2.0
#include "net/response_run.hpp"

namespace spillway::net {
namespace {

ResponseAnswerConfig config_of(const Service& service, const ResponseRequest& request) {
  return {.id = service.new_id("resp_"),
          .item_id = service.new_id("msg_"),
          .model = request.model.empty() ? service.model_name() : request.model,
          .stream_id = request.stream_id,
          .created_s = service.now_s(),
          .previous_response_id = request.previous_response_id,
          .instructions = request.instructions.value_or(""),
          .metadata = request.metadata,
          .params = request.params,
          .max_tokens_given = request.max_tokens_given,
          .logprobs = request.params.logprobs >= 0,
          .tokenizer = nullptr};
}

}  // namespace

ResponseRun::ResponseRun(Service& service, ResponseRequest request, std::uint32_t principal, std::uint64_t connection)
    : service_(service),
      request_(std::move(request)),
      principal_(principal),
      connection_(connection),
      answer_([&] {
        ResponseAnswerConfig config = config_of(service_, request_);
        if (!service_.loading()) config.tokenizer = service_.engine().tokenizer();
        return config;
      }()) {}

ResponseRun::~ResponseRun() {
  if (clock_ && !clock_->ended() && !refused_) service_.metrics().count_abandoned();
}

std::optional<ApiError> ResponseRun::start(std::function<void()> on_event) {
  if (auto refusal = service_.refusal(request_.model)) return refusal;
  if (auto refusal = service_.queue_refusal(1)) return refusal;
  if (!request_.previous_response_id.empty()) {
    const auto* earlier = service_.conversations().find(request_.previous_response_id, principal_, connection_);
    if (earlier == nullptr) {
      return invalid_request("Previous response with id '" + request_.previous_response_id.substr(0, 128) + "' not found.",
                             "previous_response_id", "previous_response_not_found");
    }
    messages_ = *earlier;
  }
  for (model::Message& message : request_.input) messages_.push_back(std::move(message));
  request_.input.clear();
  // Not part of the conversation: the next response brings its own.
  std::vector<model::Message> prompt;
  if (request_.instructions && !request_.instructions->empty()) prompt.push_back({"system", *request_.instructions});
  prompt.insert(prompt.end(), messages_.begin(), messages_.end());
  if (prompt.empty()) return invalid_request("'input' must hold at least one message.", "input");

  Result<std::vector<model::TokenId>> tokens = service_.encode(std::move(prompt), false);
  if (!tokens) return to_api_error(tokens.error());
  GenerationRequest generation{.prompt = *std::move(tokens), .params = request_.params};
  service_.complete_params(generation.params, generation.prompt.size(), request_.max_tokens_given, request_.seed_given);
  if (!request_.generate) generation.params.max_tokens = 0;
  enlisted_.emplace(service_, id(), principal_, 1, [this] { cancel(); });
  clock_.emplace(service_.engine().now());
  generation_ = service_.port().generate(std::move(generation), std::move(on_event), service_.salt_of(principal_));
  return std::nullopt;
}

void ResponseRun::pump(std::vector<ResponseEvent>& events) {
  while (!ended_) {
    std::optional<GenerationEvent> event = generation_->poll();
    if (!event) return;
    if (auto* delta = std::get_if<ChoiceDelta>(&*event)) {
      clock_->on_tokens(service_.metrics(), delta->tokens.size(), service_.engine().now());
      answer_.on_delta(*delta, events);
    } else if (auto* finished = std::get_if<ChoiceFinished>(&*event)) {
      on_end(finished->reason, finished->usage, events);
    } else if (auto* failed = std::get_if<ChoiceFailed>(&*event)) {
      clock_->on_end(service_.metrics(), failed->usage, "error", service_.engine().now());
      failed_ = to_api_error(failed->error);
      answer_.on_failed(*failed_, failed->usage, events);
    } else if (auto* refused = std::get_if<GenerationRefused>(&*event)) {
      refused_ = to_api_error(refused->error);
      ended_ = true;
    } else if (std::holds_alternative<GenerationAccepted>(*event)) {
      answer_.start(events);
    } else {
      ended_ = true;
    }
  }
  enlisted_.reset();
}

void ResponseRun::on_end(FinishReason reason, const Usage& usage, std::vector<ResponseEvent>& events) {
  const bool cancelled = reason == FinishReason::kCancelled;
  const std::string_view word = cancelled ? "abort" : reason == FinishReason::kLength ? "length" : "stop";
  clock_->on_end(service_.metrics(), usage, word, service_.engine().now());
  const bool prepared = !request_.generate && !cancelled;
  // Before its last event: who reads that one may continue it at once.
  if (!cancelled && (request_.store || connection_ != 0)) {
    if (!prepared) messages_.push_back({"assistant", answer_.text()});
    service_.conversations().put(id(), principal_, request_.store ? 0 : connection_, std::move(messages_));
  }
  if (prepared) {
    answer_.on_prepared(usage, service_.now_s(), events);
  } else {
    answer_.on_finished(reason, usage, service_.now_s(), events);
  }
}

}  // namespace spillway::net
