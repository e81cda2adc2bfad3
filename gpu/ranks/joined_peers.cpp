// SPDX-License-Identifier: Apache-2.0
#include "gpu/ranks/joined_peers.hpp"

#include <cstring>
#include <deque>
#include <utility>
#include <variant>

#include "gpu/plan_wire.hpp"

namespace spillway::gpu::ranks {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kSpin{2};     // without work it is looked for so long before the thread sleeps
constexpr milliseconds kSleep{500};  // at most
constexpr milliseconds kRetry{1};    // a device that takes no more, and needs no polling
constexpr std::chrono::seconds kAliveEvery{1};

}  // namespace

Result<std::unique_ptr<JoinedPeers>> JoinedPeers::join(JoinOptions options) {
  const Clock::time_point deadline = Clock::now() + options.timeout;
  Result<std::unique_ptr<Link>> link = Link::connect(options.host, options.port, deadline);
  if (!link) return Error{link.error().code, "there is no leader at " + link.error().message};
  Result<Welcome> welcome = greet_leader(**link, options.node, options.key, deadline);
  if (!welcome)
    return Error{welcome.error().code, "the leader at " + (*link)->peer() + ": " + welcome.error().message};
  const SharedOptions& shared = welcome->options;
  if (shared.nodes <= options.node || shared.tensor_parallel_size % shared.nodes != 0)
    return Error{Errc::kInvalidArgument,
                 "the leader at " + (*link)->peer() + " shares its ranks in a way that cannot be"};
  return std::unique_ptr<JoinedPeers>(new JoinedPeers(std::move(options), std::move(*link), *welcome));
}

RankRange JoinedPeers::range() const noexcept {
  const std::uint32_t count = welcome_.options.tensor_parallel_size / welcome_.options.nodes;
  return {options_.node * count, count, welcome_.options.tensor_parallel_size};
}

void JoinedPeers::lose(const Error& why) {
  const bool gone = why.code == Errc::kClosed || why.code == Errc::kIo;
  lost_.set(
      {Errc::kDeviceFailed, "the leader at " + link_->peer() + (gone ? " is gone: " : ": ") + why.message});
}

void JoinedPeers::give_up(const Error& why) {
  if (lost() == nullptr && !told_.exchange(true)) send_give_up(*link_, why.message);
}

bool JoinedPeers::expect(Message kind, std::span<std::byte> bytes) {
  if (lost() != nullptr) return false;
  const Result<Frame> frame = link_->receive_by(Clock::now() + options_.timeout);
  if (!frame) {
    lose(frame.error());
  } else if (frame->kind == static_cast<std::uint8_t>(Message::kGiveUp)) {
    lose({Errc::kDeviceFailed, text_of(frame->body)});
  } else if (frame->kind != static_cast<std::uint8_t>(kind) || frame->body.size() != bytes.size()) {
    lose({Errc::kInvalidArgument, "it does not speak as a leader does"});
  } else {
    std::memcpy(bytes.data(), frame->body.data(), bytes.size());
  }
  return lost() == nullptr;
}

bool JoinedPeers::share(std::span<char> bytes) {
  return expect(Message::kShare, std::as_writable_bytes(bytes));
}

bool JoinedPeers::agree(std::uint64_t& value) {
  if (Result<void> sent = send_message(*link_, Message::kValue, std::as_bytes(std::span(&value, 1))); !sent)
    lose(sent.error());
  return expect(Message::kAgreed, std::as_writable_bytes(std::span(&value, 1)));
}

/// One follower's loop: plans come from the link, wait for the device to take them, and end there.
class JoinedPeers::Following final : public CompletionSink {
 public:
  Following(JoinedPeers& peers, std::unique_ptr<Device> device) : peers_(peers), device_(std::move(device)) {
    device_->set_sink(this);
  }
  void on_step_complete(Ticket ticket) noexcept override { done_.store(ticket, std::memory_order_release); }
  void on_copy_complete(Ticket) noexcept override {}

  Result<void> run() {
    Clock::time_point alive = Clock::now(), worked = alive;
    while (true) {
      const bool busy = device_->poll();
      if (Result<void> good = take_results(); !good) return good;
      if (Result<void> good = submit_waiting(); !good) return good;
      if (ended_ && waiting_.empty()) return {};
      const Clock::time_point now = Clock::now();
      if (busy || !waiting_.empty()) worked = now;
      if (now - alive >= kAliveEvery) {
        (void)send_message(*peers_.link_, Message::kAlive);
        alive = now;
      }
      if (Result<bool> heard = hear(busy, now - worked < kSpin); !heard) {
        return heard.error();
      } else if (*heard) {
        worked = now;
      }
    }
  }

 private:
  using Plan = std::variant<StepPlan, CopyPlan>;

  Result<void> take_results() {
    while (taken_ < done_.load(std::memory_order_acquire)) {
      const StepResult result = device_->take(++taken_);
      if (result.failed) return give_up({Errc::kDeviceFailed, result.message});
    }
    return {};
  }

  Result<void> submit_waiting() {
    for (; !waiting_.empty(); waiting_.pop_front()) {
      auto* step = std::get_if<StepPlan>(&waiting_.front());
      // A step that is refused for now comes again, so the device gets a copy.
      const Result<Ticket> ticket =
          step != nullptr ? device_->submit(*step) : device_->copy(std::get<CopyPlan>(waiting_.front()));
      if (ticket.ok()) continue;
      if (ticket.error().code == Errc::kQueueFull) return {};
      return give_up(ticket.error());
    }
    return {};
  }

  /// True: a plan came.
  Result<bool> hear(bool busy, bool spins) {
    if (ended_) return false;
    const milliseconds wait = busy                ? milliseconds(0)
                              : !waiting_.empty() ? kRetry
                              : spins             ? milliseconds(0)
                                                  : kSleep;
    const Result<std::optional<Frame>> frame = peers_.link_->receive(wait);
    if (!frame) return lose(frame.error());
    if (!*frame) return false;
    switch (static_cast<Message>((*frame)->kind)) {
      case Message::kStep:
        return put(decode_step((*frame)->body));
      case Message::kCopy:
        return put(decode_copy((*frame)->body));
      case Message::kEnd:
        ended_ = true;
        return false;
      case Message::kGiveUp:
        return lose({Errc::kDeviceFailed, text_of((*frame)->body)});
      default:
        return lose({Errc::kInvalidArgument, "it does not speak as a leader does"});
    }
  }

  template <class P>
  Result<bool> put(Result<P> plan) {
    if (!plan) return give_up(plan.error()).error();
    waiting_.push_back(std::move(*plan));
    return true;
  }

  Result<void> give_up(const Error& why) {
    if (peers_.lost() != nullptr) return *peers_.lost();  // the device failed because of it
    peers_.give_up(why);
    return why;
  }
  Error lose(const Error& why) {
    peers_.lose(why);
    (void)device_->poll();  // it sees that its peers are lost, and waits for them no more
    return *peers_.lost();
  }

  JoinedPeers& peers_;
  std::atomic<Ticket> done_{0};
  Ticket taken_ = 0;
  std::deque<Plan> waiting_;
  bool ended_ = false;
  std::unique_ptr<Device> device_;  // last: gone before what its sink touches
};

Result<void> JoinedPeers::follow(std::unique_ptr<Device> device) {
  return Following(*this, std::move(device)).run();
}

}  // namespace spillway::gpu::ranks
