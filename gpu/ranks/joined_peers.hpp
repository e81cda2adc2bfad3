// SPDX-License-Identifier: Apache-2.0
#pragma once

// JoinedPeers: the leader as a follower sees it. While the device starts, its threads receive; then follow()
// does, on the caller's thread, which drives the device too.

#include <atomic>
#include <chrono>
#include <memory>
#include <string>

#include "gpu/ranks/handshake.hpp"
#include "gpu/ranks/lost_word.hpp"
#include "gpu/ranks/rank_peers.hpp"

namespace spillway::gpu::ranks {

struct JoinOptions {
  std::string host = "127.0.0.1";
  std::uint16_t port = 29501;
  std::uint32_t node = 1;
  std::string key;
  std::chrono::milliseconds timeout{600'000};  // for the leader to be there, and for each part of the start
};

class JoinedPeers final : public RankPeers {
 public:
  /// Errors: kDeadlineExceeded when no leader is there in time; what it refused.
  [[nodiscard]] static Result<std::unique_ptr<JoinedPeers>> join(JoinOptions options);

  [[nodiscard]] const Welcome& welcome() const noexcept { return welcome_; }

  /// Runs the leader's plans on this node's ranks until it ends; drops what comes out. Errors: why it is over
  /// before: a rank here failed (the leader has been told), or the leader said so or is gone.
  [[nodiscard]] Result<void> follow(std::unique_ptr<Device> device);

  [[nodiscard]] RankRange range() const noexcept override;
  [[nodiscard]] bool share(std::span<char> bytes) override;
  [[nodiscard]] bool agree(std::uint64_t& value) override;
  void started() override {}
  void send(const StepPlan&) override {}
  void send(const CopyPlan&) override {}
  void end() override {}
  void give_up(const Error& why) override;
  [[nodiscard]] const Error* lost() const noexcept override { return lost_.get(); }

 private:
  class Following;

  JoinedPeers(JoinOptions options, std::unique_ptr<Link> link, const Welcome& welcome)
      : options_(std::move(options)), link_(std::move(link)), welcome_(welcome) {}
  /// The leader's next word of the start, as many bytes as asked for.
  [[nodiscard]] bool expect(Message kind, std::span<std::byte> bytes);
  /// By the leader, or with its connection.
  void lose(const Error& why);

  const JoinOptions options_;
  std::unique_ptr<Link> link_;
  const Welcome welcome_;
  LostWord lost_;
  std::atomic<bool> told_{false};
};

}  // namespace spillway::gpu::ranks
