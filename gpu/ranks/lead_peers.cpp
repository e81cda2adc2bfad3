// SPDX-License-Identifier: Apache-2.0
#include "gpu/ranks/lead_peers.hpp"

#include <poll.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "gpu/plan_wire.hpp"

namespace spillway::gpu::ranks {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kGreeting{3000};  // for a stranger to show the key; others wait meanwhile
constexpr milliseconds kLook{200};       // between two looks at the clock, or at what else is going on
constexpr milliseconds kTurn{5};         // for one node to be heard while others are waited for too

std::string seconds(milliseconds time) {
  const auto ms = time.count();
  return ms % 1000 == 0 ? std::to_string(ms / 1000) + " s" : std::to_string(ms) + " ms";
}

}  // namespace

Result<std::unique_ptr<LeadPeers>> LeadPeers::listen(LeadOptions options) {
  Result<std::unique_ptr<Listener>> listener = Listener::open(options.host, options.port);
  if (!listener) return Error{listener.error().code, "--master-addr: " + listener.error().message};
  if (options.key.empty() && !(*listener)->on_loopback()) {
    return Error{Errc::kInvalidArgument,
                 "--master-addr " + options.host +
                     " is reached from other hosts, and who joins gets every prompt: give all nodes the "
                     "same --master-key-file"};
  }
  return std::unique_ptr<LeadPeers>(new LeadPeers(std::move(options), std::move(*listener)));
}

LeadPeers::~LeadPeers() {
  end();
  if (listening_.joinable()) listening_.join();
}

std::string LeadPeers::name(std::size_t index) const {
  return "node " + std::to_string(index + 1) + " (" + nodes_[index].link->peer() + ")";
}

std::string LeadPeers::missing() const {
  std::string text;
  for (std::size_t i = 0; i < nodes_.size(); ++i)
    if (nodes_[i].link == nullptr) text += (text.empty() ? "node " : ", node ") + std::to_string(i + 1);
  return text;
}

Result<void> LeadPeers::gather(const Welcome& welcome) {
  nodes_ = std::vector<Node>(welcome.options.nodes - 1);
  range_ = {0, welcome.options.tensor_parallel_size / welcome.options.nodes,
            welcome.options.tensor_parallel_size};
  const std::string here = options_.host + ":" + std::to_string(port_);
  const Clock::time_point deadline = Clock::now() + options_.timeout;
  for (std::string waited_for; !missing().empty();) {
    if (missing() != waited_for) {
      waited_for = missing();
      note("waiting for " + waited_for + " at " + here);
    }
    if (Clock::now() >= deadline) {
      Error late{Errc::kDeadlineExceeded, waited_for + " of " + std::to_string(welcome.options.nodes) +
                                              " did not come to " + here + " within " +
                                              seconds(options_.timeout) + " (--nodes-timeout)"};
      if (!last_refused_.empty()) late.message += "; refused was " + last_refused_;
      give_up(late);
      return late;
    }
    if (std::unique_ptr<Link> link = listener_->accept(kLook); link != nullptr)
      let_in(std::move(link), welcome, std::min(deadline, Clock::now() + kGreeting));
  }
  listener_.reset();
  return {};
}

void LeadPeers::let_in(std::unique_ptr<Link> link, const Welcome& welcome, Clock::time_point deadline) {
  const auto refused = [&](const std::string& why) {
    last_refused_ = link->peer() + ": " + why;
    note("refused " + last_refused_);
  };
  const Result<std::uint32_t> node = greet_follower(*link, welcome.options.nodes, options_.key, deadline);
  if (!node) return refused(node.error().message);
  Node& place = nodes_[*node - 1];
  if (place.link != nullptr) {
    const std::string why = "node " + std::to_string(*node) + " has come already, from " + place.link->peer();
    send_give_up(*link, why);
    return refused(why);
  }
  if (Result<void> sent = send_welcome(*link, welcome); !sent) return refused(sent.error().message);
  place.link = std::move(link);
  note(name(*node - 1) + " has come");
}

void LeadPeers::tell_all(Message kind, std::span<const std::byte> body) {
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i].link == nullptr) continue;
    if (Result<void> sent = send_message(*nodes_[i].link, kind, body); !sent && !over_.load())
      lose(i, sent.error());
  }
}

bool LeadPeers::share(std::span<char> bytes) {
  if (lost() == nullptr) tell_all(Message::kShare, std::as_bytes(bytes));
  return lost() == nullptr;
}

void LeadPeers::hear_value(std::size_t index, std::uint64_t& least) {
  const Result<std::optional<Frame>> frame = nodes_[index].link->receive(kTurn);
  if (!frame) return lose(index, frame.error());
  if (!*frame) return;
  std::uint64_t value = 0;
  const auto kind = static_cast<Message>((*frame)->kind);
  if (kind == Message::kGiveUp) return lose(index, {Errc::kDeviceFailed, text_of((*frame)->body)});
  if (kind != Message::kValue || (*frame)->body.size() != sizeof value)
    return lose(index, {Errc::kInvalidArgument, "it does not speak as a node does"});
  std::memcpy(&value, (*frame)->body.data(), sizeof value);
  least = std::min(least, value);
  nodes_[index].arrived = true;
}

bool LeadPeers::agree(std::uint64_t& value) {
  const Clock::time_point deadline = Clock::now() + options_.timeout;
  for (Node& node : nodes_) node.arrived = false;
  for (bool all = false; !all && lost() == nullptr;) {
    all = true;
    for (std::size_t i = 0; i < nodes_.size() && lost() == nullptr; ++i) {
      if (nodes_[i].arrived) continue;
      all = false;
      hear_value(i, value);
      if (!nodes_[i].arrived && lost() == nullptr && Clock::now() >= deadline)
        lose(i, {Errc::kDeadlineExceeded,
                 "no word from its start for " + seconds(options_.timeout) + " (--nodes-timeout)"});
    }
  }
  if (lost() == nullptr) tell_all(Message::kAgreed, std::as_bytes(std::span(&value, 1)));
  return lost() == nullptr;
}

void LeadPeers::started() {
  listening_ = std::thread([this] { listen_to_all(); });
}

template <class Plan>
void LeadPeers::send_plan(Message kind, const Plan& plan) {
  plan_.clear();
  encode(plan, plan_);
  tell_all(kind, plan_.bytes());
}

void LeadPeers::listen_to_all() {
  std::vector<pollfd> links;
  for (const Node& node : nodes_) links.push_back({.fd = node.link->fd(), .events = POLLIN, .revents = 0});
  for (Clock::time_point looked = Clock::now(); !over_.load();) {
    (void)::poll(links.data(), links.size(), static_cast<int>(kLook.count()));
    // A process that was stopped for a while has not listened, so that nobody was silent.
    const Clock::duration passed = std::min<Clock::duration>(Clock::now() - looked, 2 * kLook);
    looked = Clock::now();
    for (std::size_t i = 0; i < nodes_.size() && !over_.load(); ++i) hear(i, passed);
  }
}

void LeadPeers::hear(std::size_t index, Clock::duration passed) {
  Node& node = nodes_[index];
  const Result<std::optional<Frame>> frame = node.link->receive(milliseconds(0));
  if (!frame) return lose(index, frame.error());
  if (*frame && (*frame)->kind == static_cast<std::uint8_t>(Message::kGiveUp))
    return lose(index, {Errc::kDeviceFailed, text_of((*frame)->body)});
  node.silent = *frame ? Clock::duration::zero() : node.silent + passed;
  if (node.silent > kSilenceMax)
    lose(index, {Errc::kDeadlineExceeded, "nothing was heard of it for " + seconds(kSilenceMax)});
}

void LeadPeers::lose(std::size_t index, const Error& why) {
  if (over_.load()) return;
  const std::string gone = why.code == Errc::kClosed ? " is gone: " : ": ";
  lost_.set({Errc::kDeviceFailed, name(index) + gone + why.message});
  give_up(*lost_.get());
}

void LeadPeers::give_up(const Error& why) {
  if (!over_.exchange(true)) tell_all(Message::kGiveUp, std::as_bytes(std::span(why.message)));
}

void LeadPeers::end() {
  if (!over_.exchange(true)) tell_all(Message::kEnd, {});
}

}  // namespace spillway::gpu::ranks
