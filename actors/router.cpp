// SPDX-License-Identifier: Apache-2.0
#include "actors/router.hpp"

#include <optional>
#include <unordered_map>

#include "actors/choice_text.hpp"

namespace spillway::actors {
namespace {

class Router {
 public:
  Router(runtime::ActorContext<RouterMessage>& self, RouterConfig config)
      : self_(self), config_(std::move(config)) {}

  /// Also runs when the actor is cut or fails: nobody is left waiting.
  ~Router() { fail_all({Errc::kClosed, "the engine is shutting down"}); }

  void handle(SubmitRequest& message) {
    ++stats_.submitted;
    if (std::optional<Error> wrong = wrong_with(message)) {
      ++stats_.refused;
      message.reply.fail(std::move(*wrong));
      return;
    }
    message.params.sparse_kv = *sparse_of(message);
    const RequestId id{++last_request_};
    const auto choices = static_cast<std::uint32_t>(message.params.n);
    Request request{
        .tag = message.tag, .client = message.client, .credits = message.credits, .open = choices};
    AddRequest add{
        .request = id, .prompt = std::move(message.prompt), .params = message.params, .salt = message.salt};
    for (std::uint32_t choice = 0; choice < choices; ++choice) {
      const SequenceId sequence{++last_sequence_};
      add.sequences.push_back(sequence);
      places_.emplace(sequence, Place{id, choice});
      request.choices.emplace_back(sequence, ChoiceText(config_.tokenizer, message.params.stop));
      request.choices.back().pending.tag = message.tag;
      request.choices.back().pending.choice = choice;
    }
    message.reply.send(id);
    requests_.emplace(id, std::move(request));
    config_.scheduler.post(std::move(add));
  }

  void handle(CancelRequest& message) {
    if (Request* request = find(message.id)) cancel(*request);
  }

  void handle(GrantCredits& message) {
    Request* request = find(message.id);
    if (request == nullptr) return;
    request->credits += message.credits;
    deliver(message.id, *request);
  }

  void handle(TokensProduced& message) {
    for (TokensProduced::Item& item : message.items) {
      const auto place = places_.find(item.sequence);
      if (place == places_.end()) continue;
      const auto [id, choice_index] = place->second;
      Request& request = *find(id);
      Choice& choice = request.choices[choice_index];
      if (choice.ending) continue;  // computed before the scheduler heard of the end
      ++choice.tokens_taken;
      choice.pending.text += choice.text.push(item.token.token);
      choice.pending.tokens.push_back(std::move(item.token));
      if (choice.text.stopped()) end(choice, FinishReason::kStop);
      deliver(id, request);
    }
  }

  void handle(SequenceEnded& message) {
    const auto place = places_.find(message.sequence);
    if (place == places_.end()) return;
    const auto [id, choice_index] = place->second;
    places_.erase(place);
    Request& request = *find(id);
    Choice& choice = request.choices[choice_index];
    // Tokens that came after our order to end were dropped: whatever the scheduler saw last, that order ended
    // it.
    if (choice.ending) {
      message.reason = choice.end_reason;
      message.failed = false;
    }
    choice.pending.text += choice.text.finish();
    choice.ended = std::move(message);
    deliver(id, request);
  }

  void handle(StallCheck& message) {
    Request* request = find(message.id);
    if (request == nullptr) return;
    request->stall_timer = false;
    if (!behind(*request)) return;
    if (request->deltas_sent != message.deltas_sent) return watch(message.id, *request);
    ++stats_.cut;
    request->cut = Error{Errc::kDeadlineExceeded, "the client took no output for " + limit_text()};
    for (Choice& choice : request->choices) end(choice, FinishReason::kCancelled);
    deliver(message.id, *request);
  }

  void handle(EngineLost& message) {
    lost_ = message.error;
    fail_all(message.error);
  }

  void publish_stats() {
    stats_.open = static_cast<std::uint32_t>(requests_.size());
    if (config_.stats != nullptr) *config_.stats = stats_;
  }

 private:
  struct Choice {
    Choice(SequenceId id, ChoiceText choice_text) : sequence(id), text(std::move(choice_text)) {}
    SequenceId sequence{};
    ChoiceText text;
    ChoiceDelta pending;
    std::uint32_t tokens_taken = 0;
    bool ending = false;  // the scheduler was told to end it, for end_reason
    FinishReason end_reason = FinishReason::kCancelled;
    bool held = false;
    bool closed = false;  // the client has its last word
    std::optional<SequenceEnded> ended;
  };
  struct Request {
    std::uint64_t tag = 0;
    ClientAddress client;
    std::uint32_t credits = 0;
    std::uint32_t open = 0;  // choices not closed
    std::uint64_t deltas_sent = 0;
    bool stall_timer = false;
    std::optional<Error> cut;
    std::vector<Choice> choices;
  };
  struct Place {
    RequestId request{};
    std::uint32_t choice = 0;
  };

  [[nodiscard]] Request* find(RequestId id) {
    const auto found = requests_.find(id);
    return found == requests_.end() ? nullptr : &found->second;
  }

  [[nodiscard]] std::optional<Error> wrong_with(const SubmitRequest& message) const {
    if (lost_) return *lost_;
    if (requests_.size() >= config_.requests_max) {
      return Error{Errc::kQueueFull,
                   std::to_string(requests_.size()) + " requests are open, the most allowed; try later"};
    }
    if (Result<void> valid = model::validate(message.params); !valid.ok()) return std::move(valid).error();
    auto refuse = [](std::string text) { return Error{Errc::kInvalidArgument, std::move(text)}; };
    const auto& params = message.params;
    if (static_cast<std::uint32_t>(params.n) > config_.choices_max) {
      return refuse("n is " + std::to_string(params.n) + "; at most " + std::to_string(config_.choices_max));
    }
    if (params.logprobs > config_.logprobs_max) {
      return refuse("logprobs is " + std::to_string(params.logprobs) + "; at most " +
                    std::to_string(config_.logprobs_max));
    }
    const std::size_t length = message.prompt.size();
    if (length == 0) return refuse("the prompt is empty: it has no tokens");
    for (const TokenId token : message.prompt) {
      if (token < 0 || token >= config_.vocab_size) {
        return refuse("token id " + std::to_string(token) + " is not in the vocabulary: 0 to " +
                      std::to_string(config_.vocab_size - 1));
      }
    }
    if (const Result<model::SparseKvParams> sparse = sparse_of(message); !sparse.ok()) return sparse.error();
    const std::size_t room = params.max_tokens > 0 ? 1 : 0;  // for the first output token
    if (length + room > config_.max_model_len) {
      return refuse("the prompt has " + std::to_string(length) + " tokens; with --max-model-len " +
                    std::to_string(config_.max_model_len) + " at most " +
                    std::to_string(config_.max_model_len - room) + " fit");
    }
    if (length + room > config_.kv_capacity_tokens) {
      return Error{Errc::kOutOfMemory, "the prompt has " + std::to_string(length) +
                                           " tokens, but the KV cache holds " +
                                           std::to_string(config_.kv_capacity_tokens) +
                                           "; raise --kv-cache-memory-bytes or shorten the prompt"};
    }
    return std::nullopt;
  }

  /// What sparsification means for this prompt, within what is allowed.
  [[nodiscard]] Result<model::SparseKvParams> sparse_of(const SubmitRequest& message) const {
    model::SparseKvParams params = message.params.sparse_kv.value_or(config_.sparse_default);
    if (!params.on()) return params;
    if (!config_.sparse_kv) {
      return Error{Errc::kUnsupported,
                   "sparse_kv_cache: this engine was started without sparsification; start it with "
                   "--sparse-kv-cache-method or --sparse-kv-cache-per-request"};
    }
    if (params.rotate_to_cache && !config_.rotates_to_cache) {
      return Error{Errc::kUnsupported,
                   "sparse_kv_cache: positions 'cache' needs a model with rotary positions on the "
                   "host device"};
    }
    params.seed = message.params.seed;
    Result<model::SparseKvParams> resolved =
        model::resolve(params, static_cast<std::uint32_t>(message.prompt.size()));
    if (resolved.ok() && params.budget_fraction > 0 && resolved->budget < config_.sparse_budget_min) {
      params.budget = config_.sparse_budget_min;  // a share of a short prompt
      params.budget_fraction = 0;
      return model::resolve(params, static_cast<std::uint32_t>(message.prompt.size()));
    }
    if (resolved.ok() && resolved->budget < config_.sparse_budget_min) {
      return Error{Errc::kInvalidArgument,
                   "sparse_kv_cache: the budget is " + std::to_string(resolved->budget) +
                       " tokens, the least allowed is " + std::to_string(config_.sparse_budget_min)};
    }
    return resolved;
  }

  [[nodiscard]] std::string limit_text() const {
    return std::to_string(
               std::chrono::duration_cast<std::chrono::milliseconds>(config_.stall_limit).count()) +
           " ms";
  }

  void end(Choice& choice, FinishReason reason) {
    if (choice.ending || choice.ended) return;
    choice.ending = true;
    choice.end_reason = reason;
    // Not urgent: it must not overtake the AddRequest that it ends.
    config_.scheduler.post(EndSequence{choice.sequence, reason});
  }

  void cancel(Request& request) {
    ++stats_.cancelled;
    for (Choice& choice : request.choices) end(choice, FinishReason::kCancelled);
  }

  [[nodiscard]] static bool behind(const Request& request) {
    for (const Choice& choice : request.choices) {
      if (!choice.closed && !(choice.pending.tokens.empty() && choice.pending.text.empty())) return true;
    }
    return false;
  }

  void watch(RequestId id, Request& request) {
    if (request.stall_timer) return;
    request.stall_timer = true;
    self_.send_after(config_.stall_limit, StallCheck{id, request.deltas_sent});
  }

  /// Sends what credits allow; closes what is over; holds what the client does not take.
  void deliver(RequestId id, Request& request) {
    if (!request.client.alive()) {
      // Nobody listens: end the sequences, and count every delta as taken.
      for (Choice& choice : request.choices) end(choice, FinishReason::kCancelled);
      request.credits = ~0u;
    }
    if (request.cut) request.credits = ~0u;
    for (Choice& choice : request.choices) {
      if (choice.closed) continue;
      const bool has_delta = !choice.pending.tokens.empty() || !choice.pending.text.empty();
      if (has_delta && request.credits > 0) {
        --request.credits;
        ++request.deltas_sent;
        request.client.post(ChoiceDelta{choice.pending.tag, choice.pending.choice,
                                        std::move(choice.pending.text), std::move(choice.pending.tokens)});
        choice.pending.text.clear();
        choice.pending.tokens.clear();
      }
      const bool sent = choice.pending.tokens.empty() && choice.pending.text.empty();
      if (choice.ended && sent) close(request, choice);
      hold(choice, !choice.ended && choice.pending.tokens.size() >= config_.tokens_behind_max);
    }
    if (request.open == 0) {
      request.client.post(RequestDone{request.tag});
      ++stats_.done;
      requests_.erase(id);
    } else if (behind(request)) {
      watch(id, request);
    }
  }

  void close(Request& request, Choice& choice) {
    choice.closed = true;
    --request.open;
    SequenceEnded& ended = *choice.ended;
    ended.usage.completion_tokens = choice.tokens_taken;
    if (request.cut && ended.reason == FinishReason::kCancelled && !ended.failed) {
      ended.failed = true;
      ended.error = *request.cut;
    }
    if (ended.failed) {
      request.client.post(
          ChoiceFailed{request.tag, choice.pending.choice, std::move(ended.error), ended.usage});
    } else {
      request.client.post(ChoiceFinished{request.tag, choice.pending.choice, ended.reason, ended.usage});
    }
  }

  void hold(Choice& choice, bool held) {
    if (choice.held == held) return;
    choice.held = held;
    if (!choice.ended) config_.scheduler.post(HoldSequence{choice.sequence, held});
  }

  void fail_all(const Error& error) {
    for (auto& [id, request] : requests_) {
      for (Choice& choice : request.choices) {
        if (choice.closed) continue;
        if (!choice.pending.tokens.empty() || !choice.pending.text.empty())
          request.client.post(std::move(choice.pending));
        Usage usage{.completion_tokens = choice.tokens_taken};
        request.client.post(ChoiceFailed{
            request.tag, static_cast<std::uint32_t>(&choice - request.choices.data()), error, usage});
      }
      request.client.post(RequestDone{request.tag});
    }
    requests_.clear();
    places_.clear();
  }

  runtime::ActorContext<RouterMessage>& self_;
  RouterConfig config_;
  std::unordered_map<RequestId, Request> requests_;
  std::unordered_map<SequenceId, Place> places_;
  std::optional<Error> lost_;
  std::uint64_t last_request_ = 0, last_sequence_ = 0;
  RouterStats stats_;
};

}  // namespace

runtime::Task<void> router(runtime::ActorContext<RouterMessage>& self, RouterConfig config) {
  Router router(self, std::move(config));
  while (auto message = co_await self.receive()) {
    std::visit([&](auto& body) { router.handle(body); }, *message);
    router.publish_stats();
  }
}

}  // namespace spillway::actors
