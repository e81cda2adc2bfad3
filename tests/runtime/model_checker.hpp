// SPDX-License-Identifier: Apache-2.0
#pragma once

// A small stateless model checker for the runtime's lock-free protocols. It runs the real code, with its atomics
// replaced by ModelWord, in fibers, and walks through every interleaving of their atomic operations and every value
// that a load may see. Memory follows the release/acquire fragment of C++11 in its operational form (Kang et al.,
// "A promising semantics for relaxed-memory concurrency", POPL 2017, without promises): each location keeps its
// history, each thread a view of how new its knowledge of each location is; a load may read anything not older than
// the view, an acquiring load takes over the view that was released with the value.

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

namespace spillway::runtime::model {

using View = std::map<const void*, std::size_t>;

inline void join(View& into, const View& from) {
  for (const auto& [location, index] : from) into[location] = std::max(into[location], index);
}

/// How strong the code's orders are taken to be.
enum class Orders { kAcquireRelease, kRelaxed };

class Checker {
 public:
  static Checker& current() { return *instance(); }

  struct Outcome {
    std::uint64_t executions = 0;
    std::uint64_t failures = 0;      // executions that ended with a sleeper and an unread message
    std::uint64_t too_long = 0;      // executions cut at the step limit
  };

  /// Runs `make_threads()` (fresh state for each execution) under all schedules with at most `preemptions_max` switches
  /// away from a thread that could go on. `failed()` judges the final state.
  Outcome explore(Orders orders, const std::function<std::vector<std::function<void()>>()>& make_threads,
                  const std::function<bool()>& failed, std::size_t preemptions_max) {
    instance() = this;
    preemptions_max_ = preemptions_max;
    orders_ = orders;
    Outcome outcome;
    choices_.clear();
    do {
      run_once(make_threads());
      ++outcome.executions;
      outcome.too_long += cut_ ? 1 : 0;
      if (!cut_ && failed()) ++outcome.failures;
    } while (next_branch());
    return outcome;
  }

  /// One of `options` alternatives, each of which will be tried.
  std::size_t choose(std::size_t options) {
    if (options <= 1) return 0;
    if (depth_ == choices_.size()) choices_.push_back({0, options});
    return choices_[depth_++].taken;
  }

  /// Every atomic operation begins here: any thread may run now.
  void interleave() { switch_to_scheduler(); }
  void block() {
    blocked_[running_] = true;
    switch_to_scheduler();
  }
  void unblock(std::size_t thread) { blocked_[thread] = false; }
  [[nodiscard]] std::size_t running() const { return running_; }
  [[nodiscard]] View& view() { return views_[running_]; }
  [[nodiscard]] Orders orders() const { return orders_; }
  [[nodiscard]] bool finished(std::size_t thread) const { return finished_[thread]; }

 private:
  struct Choice {
    std::size_t taken;
    std::size_t options;
  };
  static constexpr std::size_t kStackBytes = 64 * 1024;
  static constexpr std::size_t kStepsMax = 400;

  static Checker*& instance() {
    static Checker* checker = nullptr;
    return checker;
  }

  static void trampoline() {
    Checker& self = current();
    self.threads_[self.running_]();
    self.finished_[self.running_] = true;
    self.switch_to_scheduler();
  }

  void run_once(std::vector<std::function<void()>> threads) {
    threads_ = std::move(threads);
    const std::size_t count = threads_.size();
    contexts_.assign(count, {});
    while (stacks_.size() < count) stacks_.push_back(std::make_unique<char[]>(kStackBytes));
    finished_.assign(count, false);
    blocked_.assign(count, false);
    views_.assign(count, {});
    depth_ = 0;
    cut_ = false;
    for (std::size_t t = 0; t < count; ++t) {
      getcontext(&contexts_[t]);
      contexts_[t].uc_stack.ss_sp = stacks_[t].get();
      contexts_[t].uc_stack.ss_size = kStackBytes;
      contexts_[t].uc_link = nullptr;
      makecontext(&contexts_[t], &Checker::trampoline, 0);
    }
    std::size_t preemptions = 0;
    std::vector<std::size_t> ready;
    for (std::size_t steps = 0;; ++steps) {
      const bool can_go_on = steps > 0 && !finished_[running_] && !blocked_[running_];
      ready.clear();
      if (can_go_on) ready.push_back(running_);
      for (std::size_t t = 0; t < count && !(can_go_on && preemptions == preemptions_max_); ++t) {
        if (!finished_[t] && !blocked_[t] && !(can_go_on && t == running_)) ready.push_back(t);
      }
      if (ready.empty()) return;
      if (steps == kStepsMax) {
        cut_ = true;
        return;
      }
      const std::size_t next = ready[choose(ready.size())];
      if (can_go_on && next != running_) ++preemptions;
      running_ = next;
      swapcontext(&scheduler_, &contexts_[running_]);
    }
  }

  void switch_to_scheduler() { swapcontext(&contexts_[running_], &scheduler_); }

  /// Depth first: the last choice that has an alternative left takes it.
  bool next_branch() {
    while (!choices_.empty() && choices_.back().taken + 1 == choices_.back().options) choices_.pop_back();
    if (choices_.empty()) return false;
    ++choices_.back().taken;
    return true;
  }

  Orders orders_ = Orders::kAcquireRelease;
  std::vector<Choice> choices_;
  std::size_t depth_ = 0;
  bool cut_ = false;
  std::size_t preemptions_max_ = 0;
  std::vector<std::function<void()>> threads_;
  std::vector<ucontext_t> contexts_;
  std::vector<std::unique_ptr<char[]>> stacks_;
  std::vector<bool> finished_;
  std::vector<bool> blocked_;
  std::vector<View> views_;
  ucontext_t scheduler_{};
  std::size_t running_ = 0;
};

/// An atomic word with a history.
class ModelWord {
 public:
  std::uint32_t load() { return read(choose_visible([](std::uint32_t) { return true; })); }

  void store(std::uint32_t value) {
    Checker::current().interleave();
    append(value, false);
  }

  std::uint32_t fetch_add(std::uint32_t x) {
    return modify([x](std::uint32_t v) { return v + x; });
  }
  std::uint32_t fetch_and(std::uint32_t x) {
    return modify([x](std::uint32_t v) { return v & x; });
  }
  std::uint32_t fetch_or(std::uint32_t x) {
    return modify([x](std::uint32_t v) { return v | x; });
  }

  /// Strong: fails only by reading another value, but that may be an old one.
  bool compare_exchange(std::uint32_t expected, std::uint32_t desired) {
    Checker& checker = Checker::current();
    checker.interleave();
    std::vector<std::size_t> options;
    const std::size_t last = history_.size() - 1;
    for (std::size_t i = checker.view()[this]; i <= last; ++i) {
      if (history_[i].value != expected || i == last) options.push_back(i);
    }
    const std::size_t index = options[checker.choose(options.size())];
    const bool matches = history_[index].value == expected;
    read(index);
    if (matches) append(desired, true);
    return matches;
  }

  // futex: the kernel compares with the newest value.
  void wait(std::uint32_t expected) {
    Checker& checker = Checker::current();
    checker.interleave();
    if (history_.back().value != expected) return;
    sleepers_.push_back(checker.running());
    checker.block();
  }
  void wake() {
    Checker& checker = Checker::current();
    checker.interleave();
    for (const std::size_t thread : sleepers_) checker.unblock(thread);
    sleepers_.clear();
  }

 private:
  struct Message {
    std::uint32_t value = 0;
    View released;
  };

  template <class Predicate>
  std::size_t choose_visible(Predicate predicate) {
    Checker& checker = Checker::current();
    checker.interleave();
    std::vector<std::size_t> options;
    for (std::size_t i = checker.view()[this]; i < history_.size(); ++i) {
      if (predicate(history_[i].value)) options.push_back(i);
    }
    return options[checker.choose(options.size())];
  }

  std::uint32_t read(std::size_t index) {
    Checker& checker = Checker::current();
    checker.view()[this] = std::max(checker.view()[this], index);
    if (checker.orders() == Orders::kAcquireRelease) join(checker.view(), history_[index].released);
    return history_[index].value;
  }

  /// A read-modify-write continues the release sequence of what it read.
  void append(std::uint32_t value, bool continues) {
    Checker& checker = Checker::current();
    Message message{value, {}};
    if (continues) message.released = history_.back().released;
    checker.view()[this] = history_.size();
    if (checker.orders() == Orders::kAcquireRelease) join(message.released, checker.view());
    history_.push_back(std::move(message));
  }

  template <class F>
  std::uint32_t modify(F change) {
    Checker::current().interleave();
    const std::uint32_t old = read(history_.size() - 1);
    append(change(old), true);
    return old;
  }

  std::vector<Message> history_{Message{}};
  std::vector<std::size_t> sleepers_;
};

struct ModelAtomics {
  using Word = ModelWord;
  static void wait(Word& word, std::uint32_t expected, std::int64_t) { word.wait(expected); }
  static void wake(Word& word) { word.wake(); }
};

/// What an inbox promises: one counter a producer, stored with release, read with acquire. It may be seen late.
class ModelInbox {
 public:
  explicit ModelInbox(std::size_t producers) {
    for (std::size_t p = 0; p < producers; ++p) tails_.push_back(std::make_unique<ModelWord>());
    taken_.assign(producers, 0);
    pushed_.assign(producers, 0);
  }

  void push(std::size_t producer) { tails_[producer]->store(++pushed_[producer]); }

  /// Takes all it can see; the number taken.
  std::uint32_t drain() {
    std::uint32_t count = 0;
    for (std::size_t p = 0; p < tails_.size(); ++p) {
      const std::uint32_t tail = tails_[p]->load();
      count += tail - taken_[p];
      taken_[p] = tail;
    }
    return count;
  }

 private:
  std::vector<std::unique_ptr<ModelWord>> tails_;
  std::vector<std::uint32_t> taken_;   // the consumer's
  std::vector<std::uint32_t> pushed_;  // each producer's own
};

}  // namespace spillway::runtime::model
