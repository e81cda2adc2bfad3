// SPDX-License-Identifier: Apache-2.0
#include "actors/session.hpp"

namespace spillway::actors {

Stream::~Stream() {
  if (session_ == nullptr) return;
  const auto open = session_->open_.find(tag_);
  if (open == session_->open_.end()) return;
  session_->router_.send_urgent(CancelRequest{open->second.id});
  session_->open_.erase(open);
}

void Stream::cancel() {
  const auto open = session_->open_.find(tag_);
  if (open != session_->open_.end()) session_->router_.send_urgent(CancelRequest{open->second.id});
}

runtime::Task<std::optional<StreamEvent>> Stream::next() {
  for (;;) {
    const auto open = session_->open_.find(tag_);
    if (open == session_->open_.end()) co_return std::nullopt;
    if (!open->second.events.empty()) {
      StreamEvent event = session_->take(open);
      if (std::holds_alternative<RequestDone>(event)) co_return std::nullopt;
      co_return event;
    }
    const bool more = co_await session_->pump();
    if (!more) co_return std::nullopt;
  }
}

runtime::Task<Result<Stream>> Session::generate(GenerationRequest request) {
  if (stopped_) co_return Error{Errc::kCancelled, "the session was stopped"};
  if (!router_.alive()) co_return Error{Errc::kClosed, "the engine has shut down"};
  const StreamTag tag = ++last_tag_;
  open_.try_emplace(tag);
  // A question, so that a router that dies with it in its mailbox still answers. Events wait in our mailbox.
  Result<RequestId> id = co_await runtime::ask<RequestId>(router_, [&](runtime::Reply<RequestId> reply) {
    return RouterMessage(SubmitRequest{.reply = std::move(reply),
                                       .tag = tag,
                                       .client = self_.address(),
                                       .prompt = std::move(request.prompt),
                                       .params = std::move(request.params),
                                       .credits = credits_});
  });
  if (!id.ok()) {
    open_.erase(tag);
    co_return std::move(id).error();
  }
  open_[tag].id = *id;
  co_return Stream(this, tag);
}

runtime::Task<std::optional<std::pair<StreamTag, StreamEvent>>> Session::next_event() {
  for (;;) {
    while (!ready_.empty()) {
      const StreamTag tag = ready_.front();
      ready_.pop_front();
      const auto open = open_.find(tag);
      if (open != open_.end() && !open->second.events.empty()) co_return std::pair(tag, take(open));
    }
    if (open_.empty()) co_return std::nullopt;
    const bool more = co_await pump();
    if (!more) co_return std::nullopt;
  }
}

StreamEvent Session::take(std::map<StreamTag, Open>::iterator open) {
  StreamEvent event = std::move(open->second.events.front());
  open->second.events.pop_front();
  if (std::holds_alternative<ChoiceDelta>(event) && ++open->second.taken >= (credits_ + 3) / 4) {
    router_.post(GrantCredits{open->second.id, std::exchange(open->second.taken, 0)});
  }
  if (std::holds_alternative<RequestDone>(event)) open_.erase(open);
  return event;
}

runtime::Task<bool> Session::pump() {
  std::optional<ClientMessage> message = co_await self_.receive();
  if (!message) co_return false;
  struct Filing {
    Session& session;
    void operator()(StopSession&) { session.cancel_all(); }
    void operator()(ChoiceDelta& event) { file(event.tag, StreamEvent(std::move(event))); }
    void operator()(ChoiceFinished& event) { file(event.tag, StreamEvent(event)); }
    void operator()(ChoiceFailed& event) { file(event.tag, StreamEvent(std::move(event))); }
    void operator()(RequestDone& event) { file(event.tag, StreamEvent(event)); }
    void operator()(RequestAnswered&) {}  // a session awaits its answers
    void operator()(EngineSnapshot&) {}   // and asks for no snapshots
    void file(StreamTag tag, StreamEvent event) {
      const auto open = session.open_.find(tag);
      if (open == session.open_.end()) return;  // its Stream was dropped
      open->second.events.push_back(std::move(event));
      session.ready_.push_back(tag);
    }
  };
  std::visit(Filing{*this}, *message);
  co_return true;
}

void Session::cancel_all() {
  stopped_ = true;
  for (const auto& [tag, open] : open_) router_.send_urgent(CancelRequest{open.id});
}

}  // namespace spillway::actors
