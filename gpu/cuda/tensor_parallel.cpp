// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/tensor_parallel.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "gpu/cuda/cuda_device.hpp"

namespace spillway::gpu::cuda {
namespace {

constexpr std::chrono::milliseconds kSpin{2};  // a rank without work looks for it so long before it sleeps

/// Plans for one rank's thread, in order.
class PlanQueue {
 public:
  struct Stop {};
  using Item = std::variant<StepPlan, CopyPlan, Stop>;

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
    while (!waiting_.load(std::memory_order_acquire) && (busy() || std::chrono::steady_clock::now() < until)) {
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
  void on_step_complete(Ticket ticket) noexcept override { done = ticket; }
  void on_copy_complete(Ticket) noexcept override {}
  Ticket done = 0;
};

class TensorParallelDevice final : public Device {
 public:
  ~TensorParallelDevice() override {
    for (auto& follower : followers_) follower->plans.push(PlanQueue::Stop{});
    leader_.reset();
    for (auto& follower : followers_)
      if (follower->thread.joinable()) follower->thread.join();
  }

  [[nodiscard]] Result<void> start(const CreateArgs& args) {
    const int size = static_cast<int>(args.cuda->tensor_parallel_size);
    const Result<GroupId> id = Collective::make_id();
    if (!id) return id.error();
    RankGroup group(size, *id);
    std::vector<Result<void>> started(static_cast<std::size_t>(size));
    std::atomic<int> starting{size - 1};
    for (int rank = 1; rank < size; ++rank) {
      auto follower = std::make_unique<Follower>();
      Follower* own = follower.get();
      own->options = *args.cuda;
      own->options.ordinal += rank;
      own->options.on_span = nullptr;
      own->options.on_logits = nullptr;
      followers_.push_back(std::move(follower));
      own->thread = std::thread([this, own, rank, size, &args, &group, &started, &starting] {
        CreateArgs mine = args;
        mine.cuda = &own->options;
        mine.on_uploaded = nullptr;
        Result<std::unique_ptr<RankDevice>> device = create_rank_device(mine, {{rank, size}, &group});
        const bool good = device.ok();
        if (!good) started[static_cast<std::size_t>(rank)] = device.error();
        starting.fetch_sub(1);
        starting.notify_one();
        if (good) follow(*own, std::move(*device));  // the start's arguments are gone by now
      });
    }
    Result<std::unique_ptr<RankDevice>> leader = create_rank_device(args, {{0, size}, &group});
    for (int left = starting.load(); left > 0; left = starting.load()) starting.wait(left);
    // Who failed first knows why; the others only that somebody did.
    const auto worse = [](const Error& e) { return e.code != Errc::kCancelled; };
    for (const Result<void>& result : started)
      if (!result && worse(result.error())) return result.error();
    if (!leader) return leader.error();
    leader_ = std::move(*leader);
    info_ = leader_->info();
    info_.kv_block_bytes *= static_cast<std::size_t>(size);
    info_.name = std::to_string(size) + " x " + info_.name;
    return {};
  }

  const DeviceInfo& info() const noexcept override { return info_; }
  void set_sink(CompletionSink* sink) noexcept override { leader_->set_sink(sink); }
  StepResult take(Ticket ticket) override { return leader_->take(ticket); }

  Result<Ticket> submit(StepPlan plan) override {
    if (Result<void> good = leader_->admits(plan); !good) return good.error();
    // The others first: the leader's launches may wait for theirs.
    for (auto& follower : followers_) follower->plans.push(plan);
    return leader_->submit(std::move(plan));
  }
  Result<Ticket> copy(CopyPlan plan) override {
    if (Result<void> good = leader_->admits(plan); !good) return good.error();
    for (auto& follower : followers_) follower->plans.push(plan);
    return leader_->copy(std::move(plan));
  }
  bool poll() noexcept override {
    for (auto& follower : followers_) {
      if (!follower->failed.load(std::memory_order_acquire) || lost_) continue;
      lost_ = true;
      leader_->fail({Errc::kDeviceFailed, follower->why});
    }
    return leader_->poll();
  }

 private:
  struct Follower {
    CudaOptions options;
    PlanQueue plans;
    std::atomic<bool> failed{false};
    std::string why;  // before failed is set
    std::thread thread;
  };

  static void follow(Follower& self, std::unique_ptr<RankDevice> device) {
    ResultDrain drain;
    device->set_sink(&drain);
    Ticket taken = 0;
    const auto fail = [&](std::string why) {
      if (self.failed.load()) return;
      self.why = std::move(why);
      self.failed.store(true, std::memory_order_release);
    };
    const auto busy = [&] {
      const bool under_way = device->poll();
      while (taken < drain.done) {
        const StepResult result = device->take(++taken);
        if (result.failed) fail(result.message);
      }
      return under_way;
    };
    while (true) {
      PlanQueue::Item item = self.plans.pop(busy);
      if (std::holds_alternative<PlanQueue::Stop>(item)) return;
      while (!self.failed.load()) {
        const Result<Ticket> ticket = std::holds_alternative<StepPlan>(item)
                                          ? device->submit(std::get<StepPlan>(item))
                                          : device->copy(std::get<CopyPlan>(item));
        if (ticket.ok()) break;
        if (ticket.error().code != Errc::kQueueFull) fail(ticket.error().message);
        (void)busy();
      }
    }
  }

  std::unique_ptr<RankDevice> leader_;
  std::vector<std::unique_ptr<Follower>> followers_;
  DeviceInfo info_;
  bool lost_ = false;
};

}  // namespace

Result<std::unique_ptr<Device>> create_tensor_parallel_device(const CreateArgs& args) {
  if (Result<void> good = check_shards(*args.spec, static_cast<int>(args.cuda->tensor_parallel_size)); !good) return good.error();
  auto device = std::make_unique<TensorParallelDevice>();
  if (Result<void> started = device->start(args); !started) return started.error();
  return std::unique_ptr<Device>(std::move(device));
}

}  // namespace spillway::gpu::cuda
