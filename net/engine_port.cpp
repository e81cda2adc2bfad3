// SPDX-License-Identifier: Apache-2.0
#include "net/engine_port.hpp"

#include <boost/asio/post.hpp>
#include <iterator>

namespace spillway::net {

/// `port` is read and written by the I/O thread only; the actor passes the pointer along.
struct EnginePort::Shared {
  boost::asio::any_io_executor executor;
  EnginePort* port = nullptr;
};

Generation::~Generation() {
  if (ended_) return;
  port_.open_.erase(tag_);
  if (id_) port_.abandon(*id_);
  // Without an id yet: its answer finds nobody, and the port cancels it then.
}

std::optional<GenerationEvent> Generation::poll() {
  if (events_.empty()) return std::nullopt;
  GenerationEvent event = std::move(events_.front().event);
  taken_ += events_.front().deltas;
  events_.pop_front();
  if (taken_ >= (port_.credits_ + 3) / 4 && id_) port_.grant(*id_, std::exchange(taken_, 0));
  if (std::holds_alternative<GenerationRefused>(event) || std::holds_alternative<RequestDone>(event)) {
    ended_ = true;
    port_.open_.erase(tag_);
  }
  return event;
}

void Generation::file(GenerationEvent event) {
  constexpr std::size_t kJoinedBytesMax = 4096;
  auto* delta = std::get_if<ChoiceDelta>(&event);
  if (delta != nullptr && !events_.empty()) {
    auto* last = std::get_if<ChoiceDelta>(&events_.back().event);
    if (last != nullptr && last->choice == delta->choice && last->text.size() < kJoinedBytesMax) {
      last->text += delta->text;
      last->tokens.insert(last->tokens.end(), std::make_move_iterator(delta->tokens.begin()),
                          std::make_move_iterator(delta->tokens.end()));
      ++events_.back().deltas;
      return;
    }
  }
  const std::uint32_t deltas = delta != nullptr ? 1 : 0;
  events_.push_back({std::move(event), deltas});
}

void Generation::cancel() {
  if (std::exchange(cancelled_, true)) return;
  if (id_) port_.cancel(*id_);
}

EnginePort::EnginePort(Engine& engine, boost::asio::any_io_executor executor, std::uint32_t credits)
    : engine_(engine), credits_(credits), shared_(std::make_shared<Shared>()) {
  shared_->executor = std::move(executor);
  shared_->port = this;
  actor_ = engine_.start_client(&EnginePort::collect, shared_);
}

EnginePort::~EnginePort() { shared_->port = nullptr; }

/// Moves mail over, all that is there at a time.
runtime::Task<void> EnginePort::collect(runtime::ActorContext<actors::ClientMessage>& self,
                                        std::shared_ptr<Shared> shared) {
  while (auto message = co_await self.receive()) {
    Batch batch;
    do {
      batch.push_back(std::move(*message));
      message = self.try_receive();
    } while (message);
    boost::asio::post(shared->executor, [shared, batch = std::move(batch)]() mutable {
      if (shared->port != nullptr) shared->port->handle(batch);
    });
  }
}

std::unique_ptr<Generation> EnginePort::generate(GenerationRequest request, std::function<void()> on_event,
                                                 actors::PrefixHash salt) {
  const std::uint64_t tag = ++last_tag_;
  auto generation = std::make_unique<Generation>(*this, tag, std::move(on_event));
  open_.emplace(tag, generation.get());
  engine_.router().post(actors::SubmitRequest{
      .reply = runtime::reply_to<actors::RequestId>(
          actor_, [tag](Result<actors::RequestId> id) { return actors::RequestAnswered{tag, std::move(id)}; }),
      .tag = tag,
      .client = actor_,
      .prompt = std::move(request.prompt),
      .params = std::move(request.params),
      .credits = credits_,
      .salt = salt});
  return generation;
}

void EnginePort::snapshot(bool blocks, OnSnapshot on_snapshot) {
  const std::uint64_t tag = ++last_tag_;
  snapshots_.emplace(tag, std::move(on_snapshot));
  engine_.request_snapshot(actor_, tag, blocks);
}

void EnginePort::cancel(actors::RequestId id) { engine_.router().send_urgent(actors::CancelRequest{id}); }
void EnginePort::abandon(actors::RequestId id) {
  cancel(id);
  grant(id, 1U << 30);
}
void EnginePort::grant(actors::RequestId id, std::uint32_t credits) {
  engine_.router().post(actors::GrantCredits{id, credits});
}

void EnginePort::handle(Batch& batch) {
  // Deltas are filed first and told of afterwards: on_event may look at any of them.
  std::vector<std::uint64_t> touched;
  struct Filing {
    EnginePort& port;
    std::vector<std::uint64_t>& touched;
    void file(std::uint64_t tag, GenerationEvent event) {
      const auto open = port.open_.find(tag);
      if (open == port.open_.end()) return;
      if (open->second->events_.empty()) touched.push_back(tag);
      open->second->file(std::move(event));
    }
    void operator()(ChoiceDelta& event) { file(event.tag, std::move(event)); }
    void operator()(ChoiceFinished& event) { file(event.tag, event); }
    void operator()(ChoiceFailed& event) { file(event.tag, std::move(event)); }
    void operator()(RequestDone& event) { file(event.tag, event); }
    void operator()(actors::StopSession&) {}
    void operator()(actors::RequestAnswered& event) {
      const auto open = port.open_.find(event.tag);
      if (open == port.open_.end()) {
        if (event.id) port.abandon(*event.id);  // its Generation was dropped meanwhile
      } else if (!event.id) {
        file(event.tag, GenerationRefused{std::move(event.id).error()});
      } else {
        open->second->id_ = *event.id;
        if (open->second->cancelled_) port.cancel(*event.id);
        file(event.tag, GenerationAccepted{});
      }
    }
    void operator()(actors::EngineSnapshot& event) {
      if (auto waiting = port.snapshots_.extract(event.tag); !waiting.empty()) waiting.mapped()(event);
    }
  };
  for (actors::ClientMessage& message : batch) std::visit(Filing{*this, touched}, message);
  for (const std::uint64_t tag : touched) {
    const auto open = open_.find(tag);
    if (open != open_.end()) open->second->on_event_();
  }
}

}  // namespace spillway::net
