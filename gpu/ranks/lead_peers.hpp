// SPDX-License-Identifier: Apache-2.0
#pragma once

// LeadPeers: the other nodes as node 0 sees them. It waits for all of them, then each is a link on which
// plans go out. While the device starts, its threads receive; once it has started, a thread of LeadPeers
// listens, and finds out who failed, who closed the connection, and who is silent (kSilenceMax).

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gpu/ranks/handshake.hpp"
#include "gpu/ranks/lost_word.hpp"
#include "gpu/ranks/rank_peers.hpp"

namespace spillway::gpu::ranks {

struct LeadOptions {
  std::string host = "127.0.0.1";
  std::uint16_t port = 29501;                  // 0: any free one
  std::string key;                             // empty: only followers of this host are let in
  std::chrono::milliseconds timeout{600'000};  // for all to come, and for each part of their start
  std::function<void(const std::string&)>
      on_note;  // what the start waits for, who came, who was refused; may be empty
};

class LeadPeers final : public RankPeers {
 public:
  /// Errors: kIo when the address cannot be listened on, kInvalidArgument when others could reach it and
  /// there is no key.
  [[nodiscard]] static Result<std::unique_ptr<LeadPeers>> listen(LeadOptions options);
  ~LeadPeers() override;

  /// Waits for all nodes and tells each what it must know. Errors: kDeadlineExceeded names who is missing,
  /// and who was refused.
  [[nodiscard]] Result<void> gather(const Welcome& welcome);
  [[nodiscard]] std::uint16_t port() const noexcept { return port_; }

  [[nodiscard]] RankRange range() const noexcept override { return range_; }
  [[nodiscard]] bool share(std::span<char> bytes) override;
  [[nodiscard]] bool agree(std::uint64_t& value) override;
  void started() override;
  void send(const StepPlan& plan) override { send_plan(Message::kStep, plan); }
  void send(const CopyPlan& plan) override { send_plan(Message::kCopy, plan); }
  void end() override;
  void give_up(const Error& why) override;
  [[nodiscard]] const Error* lost() const noexcept override { return lost_.get(); }

 private:
  struct Node {
    std::unique_ptr<Link> link;  // null: has not come
    Clock::duration silent{};  // since it was heard of, while this process ran
    bool arrived = false;  // in agree()
  };

  LeadPeers(LeadOptions options, std::unique_ptr<Listener> listener)
      : options_(std::move(options)), listener_(std::move(listener)), port_(listener_->port()) {}

  void let_in(std::unique_ptr<Link> link, const Welcome& welcome, Clock::time_point deadline);
  void tell_all(Message kind, std::span<const std::byte> body);
  template <class Plan>
  void send_plan(Message kind, const Plan& plan);
  void hear_value(std::size_t index, std::uint64_t& least);
  void listen_to_all();
  void hear(std::size_t index, Clock::duration passed);
  void lose(std::size_t index, const Error& why);
  [[nodiscard]] std::string name(std::size_t index) const;
  [[nodiscard]] std::string missing() const;
  void note(const std::string& text) const {
    if (options_.on_note) options_.on_note(text);
  }

  const LeadOptions options_;
  std::unique_ptr<Listener> listener_;  // until all have come
  const std::uint16_t port_;
  RankRange range_;
  std::vector<Node> nodes_;  // of node 1, 2, ...
  std::string last_refused_;
  LostWord lost_;
  WireWriter plan_;
  std::atomic<bool> over_{false};  // the others know that it is
  std::thread listening_;
};

}  // namespace spillway::gpu::ranks
