// SPDX-License-Identifier: Apache-2.0
#include "gpu/ranks/group_device.hpp"

#include <atomic>
#include <chrono>
#include <deque>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "gpu/ranks/lost_word.hpp"

namespace spillway::gpu::ranks {
namespace {

constexpr std::chrono::milliseconds kSpin{2};  // a rank without work looks for it so long before it sleeps

/// Plans for one rank's thread, in order.
class PlanQueue {
 public:
  struct Look {};  // at what else there is
  struct Stop {};
  using Item = std::variant<StepPlan, CopyPlan, Look, Stop>;

  void push(Item item) {
    {
      const std::lock_guard lock(mutex_);
      items_.push_back(std::move(item));
      waiting_.store(true, std::memory_order_release);
    }
    came_.notify_one();
  }
  /// `busy` is called while nothing has come.
  template <class F>
  Item pop(F&& busy) {
    const auto until = std::chrono::steady_clock::now() + kSpin;
    while (!waiting_.load(std::memory_order_acquire) &&
           (busy() || std::chrono::steady_clock::now() < until)) {
    }
    std::unique_lock lock(mutex_);
    came_.wait(lock, [this] { return !items_.empty(); });
    Item item = std::move(items_.front());
    items_.pop_front();
    waiting_.store(!items_.empty(), std::memory_order_release);
    return item;
  }

 private:
  std::mutex mutex_;
  std::condition_variable came_;
  std::deque<Item> items_;
  std::atomic<bool> waiting_{false};
};

/// Takes a follower's results off its hands.
class ResultDrain final : public CompletionSink {
 public:
  void on_step_complete(Ticket ticket) noexcept override { done.store(ticket, std::memory_order_release); }
  void on_copy_complete(Ticket) noexcept override {}
  std::atomic<Ticket> done{0};
};

/// A rank beside the leader, driven by its own thread.
class Follower {
 public:
  PlanQueue plans;
  std::thread thread;

  [[nodiscard]] bool failed() const noexcept { return failed_.load(std::memory_order_acquire); }
  [[nodiscard]] const std::string& why() const noexcept { return why_; }  // once it failed
  /// Another rank failed: this one shall wait for it no more.
  void end(const Error& why) {
    ended_.set(why);
    plans.push(PlanQueue::Look{});
  }

  void run(std::unique_ptr<RankDevice> device) {
    device->set_sink(&drain_);
    const auto busy = [&] { return look(*device); };
    while (true) {
      PlanQueue::Item item = plans.pop(busy);
      if (std::holds_alternative<PlanQueue::Stop>(item)) return;
      if (std::holds_alternative<PlanQueue::Look>(item)) {
        (void)busy();
        continue;
      }
      while (!failed()) {
        const Result<Ticket> ticket = std::holds_alternative<StepPlan>(item)
                                          ? device->submit(std::get<StepPlan>(item))
                                          : device->copy(std::get<CopyPlan>(item));
        if (ticket.ok()) break;
        if (ticket.error().code != Errc::kQueueFull) fail(ticket.error().message);
        (void)busy();
      }
    }
  }

 private:
  bool look(RankDevice& device) {
    if (const Error* ended = ended_.get(); ended != nullptr && !told_) {
      told_ = true;
      device.fail(*ended);
      fail(ended->message);
    }
    const bool under_way = device.poll();
    while (taken_ < drain_.done.load(std::memory_order_acquire)) {
      const StepResult result = device.take(++taken_);
      if (result.failed) fail(result.message);
    }
    return under_way;
  }
  void fail(std::string why) {
    if (failed()) return;
    why_ = std::move(why);
    failed_.store(true, std::memory_order_release);
  }

  ResultDrain drain_;  // outlives the device
  Ticket taken_ = 0;
  LostWord ended_;
  bool told_ = false;  // the device, of ended_
  std::string why_;    // before failed_ is set
  std::atomic<bool> failed_{false};
};

class GroupDevice final : public Device {
 public:
  explicit GroupDevice(RankPeers* peers) : peers_(peers) {}
  ~GroupDevice() override {
    look_for_failures();  // what hangs with a rank that is gone must not be waited for
    if (leads() && leader_ != nullptr) peers_->end();
    for (auto& follower : followers_) follower->plans.push(PlanQueue::Stop{});
    leader_.reset();
    for (auto& follower : followers_)
      if (follower->thread.joinable()) follower->thread.join();
  }

  [[nodiscard]] Result<void> start(const GroupArgs& args) {
    GroupId id{};
    if (args.range.leads()) {
      const Result<GroupId> made = args.make_id();
      if (!made && peers_ != nullptr) peers_->give_up(made.error());
      if (!made) return made.error();
      id = *made;
    }
    if (peers_ != nullptr && !peers_->share(id)) return *peers_->lost();
    if (Result<void> done = make_ranks(args, id); !done) return done;
    info_ = leader_->info();
    info_.kv_block_bytes *= args.range.size;
    info_.name = std::to_string(args.range.size) + " x " + info_.name;
    if (peers_ != nullptr) peers_->started();
    return {};
  }

  const DeviceInfo& info() const noexcept override { return info_; }
  void set_sink(CompletionSink* sink) noexcept override { leader_->set_sink(sink); }
  StepResult take(Ticket ticket) override {
    StepResult result = leader_->take(ticket);
    if (result.failed) end_all({Errc::kDeviceFailed, result.message});
    return result;
  }
  Result<Ticket> submit(StepPlan plan) override {
    if (Result<void> good = give_out(plan); !good) return good.error();
    return given_out(leader_->submit(std::move(plan)));
  }
  Result<Ticket> copy(CopyPlan plan) override {
    if (Result<void> good = give_out(plan); !good) return good.error();
    return given_out(leader_->copy(std::move(plan)));
  }
  bool poll() noexcept override {
    look_for_failures();
    return leader_->poll();
  }

 private:
  [[nodiscard]] bool leads() const { return peers_ != nullptr && peers_->range().leads(); }

  Result<void> make_ranks(const GroupArgs& args, const GroupId& id) {
    RankGroup group(args.range.count, id, peers_);
    std::vector<Result<void>> started(args.range.count);
    starting_ = args.range.count - 1;
    const auto make = [&](std::uint32_t index) {
      Result<std::unique_ptr<RankDevice>> device = args.make_rank(args.range.first + index, group);
      if (!device) {
        started[index] = device.error();
        group.give_up(device.error());
      }
      return device;
    };
    for (std::uint32_t index = 1; index < args.range.count; ++index) {
      followers_.push_back(std::make_unique<Follower>());
      Follower* own = followers_.back().get();
      own->thread = std::thread([this, own, index, &make] {
        Result<std::unique_ptr<RankDevice>> device = make(index);
        std::unique_ptr<RankDevice> good = device.ok() ? std::move(*device) : nullptr;
        starting_.fetch_sub(1);
        starting_.notify_one();
        if (good != nullptr) own->run(std::move(good));  // the start's arguments are gone by now
      });
    }
    Result<std::unique_ptr<RankDevice>> leader = make(0);
    for (std::uint32_t left = starting_.load(); left > 0; left = starting_.load()) starting_.wait(left);
    if (leader.ok()) leader_ = std::move(*leader);
    // Who failed first knows why; the others only that somebody did.
    for (const Result<void>& result : started)
      if (!result && result.error().code != Errc::kCancelled) return result.error();
    if (peers_ != nullptr && peers_->lost() != nullptr) return *peers_->lost();
    for (const Result<void>& result : started)
      if (!result) return result.error();
    return {};
  }

  /// The others first: the leader's launches may wait for theirs.
  template <class Plan>
  Result<void> give_out(const Plan& plan) {
    look_for_failures();
    if (Result<void> good = leader_->admits(plan); !good) return good;
    if (leads()) {
      peers_->send(plan);
      if (const Error* lost = peers_->lost(); lost != nullptr) {
        end_all(*lost);
        return leader_->admits(plan);
      }
    }
    for (auto& follower : followers_) follower->plans.push(plan);
    return {};
  }

  /// The others have the plan; without the leader they would compute it alone.
  Result<Ticket> given_out(Result<Ticket> ticket) {
    if (!ticket) end_all(ticket.error());
    return ticket;
  }

  void look_for_failures() {
    if (ended_ || leader_ == nullptr) return;
    for (auto& follower : followers_)
      if (follower->failed()) return end_all({Errc::kDeviceFailed, follower->why()});
    if (peers_ == nullptr) return;
    if (const Error* lost = peers_->lost(); lost != nullptr) end_all(*lost);
  }

  void end_all(const Error& why) {
    if (ended_) return;
    ended_ = true;
    if (peers_ != nullptr) peers_->give_up(why);
    for (auto& follower : followers_) follower->end(why);
    leader_->fail({Errc::kDeviceFailed, why.message});
  }

  RankPeers* const peers_;
  std::unique_ptr<RankDevice> leader_;
  std::vector<std::unique_ptr<Follower>> followers_;
  DeviceInfo info_;
  std::atomic<std::uint32_t> starting_{0};
  bool ended_ = false;
};

}  // namespace

Result<std::unique_ptr<Device>> create_group_device(const GroupArgs& args) {
  auto device = std::make_unique<GroupDevice>(args.peers);
  if (Result<void> started = device->start(args); !started) return started.error();
  return std::unique_ptr<Device>(std::move(device));
}

}  // namespace spillway::gpu::ranks
