// SPDX-License-Identifier: Apache-2.0
#pragma once

// ActorFixture: tests of actors one message at a time, under the simulation's virtual clock.
//
//   ActorFixture f;
//   f.expect<Ping>().from(a).to(b);                                     // b handles this message now, and no other
//   f.expect<Pong>().from(b).to(a).with([](const Pong& p) { return p.value == 1; });
//   f.expect_none(a);
//
// An expectation is checked, and the message handled, at the end of its statement. A failure is reported by Catch2
// and the statement handles nothing.

#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

#include "runtime/actor.hpp"
#include "runtime/sim_executor.hpp"
#include "tests/support/catch.hpp"

namespace spillway::runtime {

template <class T>
class Expectation {
 public:
  explicit Expectation(SimExecutor& sim) noexcept : sim_(sim) {}
  Expectation(const Expectation&) = delete;
  Expectation& operator=(const Expectation&) = delete;
  ~Expectation() {
    const std::string problem = check_ ? check_() : "an expectation needs to(...)";
    INFO("expected " << type_name<T>());
    if (problem.empty()) {
      SUCCEED();
    } else {
      FAIL_CHECK(problem);
    }
  }

  template <class Sender>
  Expectation& from(Address<Sender> sender) {
    sender_ = sender.cell();
    any_sender_ = false;
    return *this;
  }
  /// From the test itself, a timer's owner apart.
  Expectation& from_outside() {
    sender_ = nullptr;
    any_sender_ = false;
    return *this;
  }
  /// A predicate on the message, or a value it must equal.
  template <class Condition>
  Expectation& with(Condition condition) {
    if constexpr (std::is_invocable_r_v<bool, Condition, const T&>) {
      condition_ = std::move(condition);
    } else {
      condition_ = [value = std::move(condition)](const T& message) { return message == value; };
    }
    return *this;
  }
  template <class M>
  Expectation& to(Address<M> receiver) {
    check_ = [this, receiver] { return handle(receiver); };
    return *this;
  }

 private:
  template <class M>
  std::string handle(Address<M> receiver) {
    const detail::ActorCell* sender = nullptr;
    const M* next = sim_.peek(receiver, &sender);
    if (next == nullptr) return receiver.alive() ? "the receiver has no mail" : "the receiver has ended";
    const T* message = nullptr;
    if constexpr (std::is_same_v<T, M>) {
      message = next;
    } else {
      message = std::get_if<T>(next);
    }
    if (message == nullptr) return "its next message is a " + std::string(name_of(*next));
    if (!any_sender_ && sender != sender_) return "it was sent by somebody else";
    if (condition_ && !condition_(*message)) return "its content is not as expected";
    while (sim_.peek(receiver) == next) {  // an actor may need a turn to begin, or to come back to its receive
      if (!sim_.step(receiver)) return "the receiver does not take it: it waits for something else";
    }
    return {};
  }

  SimExecutor& sim_;
  const detail::ActorCell* sender_ = nullptr;
  bool any_sender_ = true;
  std::function<bool(const T&)> condition_;
  std::function<std::string()> check_;
};

class ActorFixture {
 public:
  explicit ActorFixture(SimOptions options = {}) : sim(std::move(options)) {}

  template <class T>
  [[nodiscard]] Expectation<T> expect() {
    return Expectation<T>(sim);
  }
  template <class M>
  void expect_none(Address<M> receiver) {
    const M* next = sim.peek(receiver);
    INFO("its next message is a " << (next != nullptr ? name_of(*next) : "none"));
    CHECK(next == nullptr);
  }
  /// Lets `actor` begin, or go on after something other than mail.
  template <class M>
  void turn(Address<M> actor) {
    CHECK(sim.step(actor));
  }

  SimExecutor sim;
};

}  // namespace spillway::runtime
