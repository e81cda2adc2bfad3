// SPDX-License-Identifier: Apache-2.0
// POST /v1/chat/completions and /v1/completions.

#include "net/endpoints.hpp"

namespace spillway::net {
namespace {

/// One request: its prompts' generations and the answer that grows from them.
class TextRun {
 public:
  TextRun(HttpExchange& exchange, Service& service, TextRequest request, TextApi api)
      : exchange_(exchange),
        service_(service),
        request_(std::move(request)),
        choices_each_(static_cast<std::size_t>(request_.params.n)),
        answer_({.api = api,
                 .id = service.new_id(api == TextApi::kChat ? "chatcmpl-" : "cmpl-"),
                 .model = request_.model.empty() ? service.model_name() : request_.model,
                 .created_s = service.now_s(),
                 .logprobs = request_.params.logprobs >= 0,
                 .include_usage = request_.include_usage,
                 .continuous_usage = request_.continuous_usage,
                 .tokenizer = service.engine().tokenizer()},
                request_.prompts.size() * choices_each_, echoes()) {}

  TextRun(const TextRun&) = delete;
  TextRun& operator=(const TextRun&) = delete;
  ~TextRun() {
    for (const ChoiceClock& clock : clocks_) {
      if (!clock.ended() && !failure_) service_.metrics().count_abandoned();
    }
  }

  [[nodiscard]] std::size_t choices() const { return request_.prompts.size() * choices_each_; }

  std::optional<ApiError> submit() {
    for (std::size_t p = 0; p < request_.prompts.size(); ++p) {
      Result<std::vector<model::TokenId>> tokens = service_.encode(request_.prompts[p], request_.add_special_tokens);
      if (!tokens) return to_api_error(tokens.error());
      GenerationRequest generation{.prompt = *std::move(tokens), .params = request_.params};
      service_.complete_params(generation.params, generation.prompt.size(), request_.max_tokens_given,
                               request_.seed_given);
      answer_.add_prompt_tokens(generation.prompt.size());
      const runtime::TimePoint now = service_.engine().now();
      for (std::size_t j = 0; j < choices_each_; ++j) clocks_.emplace_back(now);
      generations_.push_back(service_.port().generate(std::move(generation), [this] { exchange_.bell().ring(); },
                                                      service_.salt_of(exchange_.request.principal)));
    }
    return std::nullopt;
  }

  [[nodiscard]] const std::string& id() const { return answer_.id(); }

  void cancel() {
    for (auto& generation : generations_) generation->cancel();
  }

  /// Until every choice has ended, or the client has gone.
  asio::awaitable<void> run() {
    while (ended_ < generations_.size()) {
      pump();
      if (failure_) break;
      if (!out_.empty()) {
        if (!streaming_) {
          streaming_ = true;
          const bool begun = co_await exchange_.begin_stream("text/event-stream");
          if (!begun) co_return;
        }
        const bool written = co_await exchange_.write(out_);
        if (!written) co_return;
        out_.clear();
      } else if (ended_ < generations_.size()) {
        co_await exchange_.bell().wait();
        if (exchange_.gone()) co_return;
      }
    }
    co_await finish();
  }

 private:
  [[nodiscard]] std::vector<std::string> echoes() const {
    std::vector<std::string> echoes;
    if (!request_.echo) return echoes;
    for (const Prompt& prompt : request_.prompts) {
      std::string text;
      if (const auto* words = std::get_if<std::string>(&prompt)) text = *words;
      const model::Tokenizer* tokenizer = service_.engine().tokenizer();
      if (const auto* ids = std::get_if<std::vector<model::TokenId>>(&prompt); ids != nullptr && tokenizer != nullptr)
        text = tokenizer->decode(*ids);
      for (std::size_t j = 0; j < choices_each_; ++j) echoes.push_back(text);
    }
    return echoes;
  }

  void chunk(std::string_view json) {
    if (json.empty()) return;
    out_ += "data: ";
    out_ += json;
    out_ += "\n\n";
  }

  void pump() {
    for (std::size_t p = 0; p < generations_.size(); ++p) {
      while (std::optional<GenerationEvent> event = generations_[p]->poll()) {
        if (auto* delta = std::get_if<ChoiceDelta>(&*event)) {
          const std::size_t choice = p * choices_each_ + delta->choice;
          clocks_[choice].on_tokens(service_.metrics(), delta->tokens.size(), service_.engine().now());
          chunk(answer_.on_delta(choice, *delta, request_.stream));
        } else if (auto* finished = std::get_if<ChoiceFinished>(&*event)) {
          const std::size_t choice = p * choices_each_ + finished->choice;
          const bool cancelled = finished->reason == FinishReason::kCancelled;
          clocks_[choice].on_end(service_.metrics(), finished->usage,
                                 cancelled ? "abort" : finish_reason_text(finished->reason), service_.engine().now());
          if (cancelled) {
            failure_ = to_api_error({Errc::kCancelled, {}});
          } else {
            chunk(answer_.on_finished(choice, *finished, request_.stream));
          }
        } else if (auto* failed = std::get_if<ChoiceFailed>(&*event)) {
          clocks_[p * choices_each_ + failed->choice].on_end(service_.metrics(), failed->usage, "error",
                                                             service_.engine().now());
          failure_ = to_api_error(failed->error);
        } else if (auto* refused = std::get_if<GenerationRefused>(&*event)) {
          failure_ = to_api_error(refused->error);
          ++ended_;
        } else if (std::holds_alternative<RequestDone>(*event)) {
          ++ended_;
        }
      }
    }
  }

  asio::awaitable<void> finish() {
    if (failure_ && !streaming_) {
      co_await exchange_.fail(*failure_);
      co_return;
    }
    if (!request_.stream) {
      co_await exchange_.json(answer_.whole());
      co_return;
    }
    if (failure_) {
      chunk(error_body(*failure_));
    } else {
      if (request_.include_usage) chunk(answer_.usage_chunk());
      chunk("[DONE]");
    }
    if (!streaming_) {
      const bool begun = co_await exchange_.begin_stream("text/event-stream");
      if (!begun) co_return;
    }
    const bool written = co_await exchange_.write(out_);
    if (written) co_await exchange_.end_stream();
  }

  HttpExchange& exchange_;
  Service& service_;
  TextRequest request_;
  std::size_t choices_each_;
  TextAnswer answer_;
  std::vector<std::unique_ptr<Generation>> generations_;
  std::vector<ChoiceClock> clocks_;  // by choice
  std::string out_;                  // chunks not written yet
  std::size_t ended_ = 0;
  std::optional<ApiError> failure_;
  bool streaming_ = false;
};

}  // namespace

asio::awaitable<void> answer_text(HttpExchange& exchange, Service& service, TextApi api) {
  if (auto refusal = service.refusal({})) {
    co_await exchange.fail(*std::move(refusal));
    co_return;
  }
  auto parsed = api == TextApi::kChat ? parse_chat_request(exchange.request.body, service.rules())
                                      : parse_completion_request(exchange.request.body, service.rules());
  std::optional<ApiError> wrong;
  if (auto* error = std::get_if<ApiError>(&parsed)) wrong = std::move(*error);
  if (!wrong) wrong = service.refusal(std::get<TextRequest>(parsed).model);
  if (!wrong) {
    const TextRequest& request = std::get<TextRequest>(parsed);
    wrong = service.queue_refusal(request.prompts.size() * static_cast<std::size_t>(request.params.n));
  }
  if (wrong) {
    co_await exchange.fail(*std::move(wrong));
    co_return;
  }
  exchange.request.body = {};
  TextRun run(exchange, service, std::get<TextRequest>(std::move(parsed)), api);
  const Enlisted enlisted(service, run.id(), exchange.request.principal, run.choices(), [&run] { run.cancel(); });
  wrong = run.submit();
  if (wrong) {
    co_await exchange.fail(*std::move(wrong));
    co_return;
  }
  co_await run.run();
}

}  // namespace spillway::net
