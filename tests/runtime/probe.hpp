// SPDX-License-Identifier: Apache-2.0
#pragma once

// A small actor vocabulary shared by the runtime's tests.

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/actor.hpp"
#include "runtime/sim_executor.hpp"
#include "runtime/thread_executor.hpp"

namespace spillway::runtime::probe {

/// Counts how often values of it are destroyed holding something; shows that dropped mail is destroyed.
struct Token {
  explicit Token(int* counter_in = nullptr) noexcept : counter(counter_in) {}
  Token(Token&& other) noexcept : counter(std::exchange(other.counter, nullptr)) {}
  Token& operator=(Token&& other) noexcept {
    if (this != &other) {
      if (counter != nullptr) ++*counter;
      counter = std::exchange(other.counter, nullptr);
    }
    return *this;
  }
  ~Token() {
    if (counter != nullptr) ++*counter;
  }
  int* counter;
};

struct Put {
  int value = 0;
};
struct Get {
  int value = 0;
  Reply<int> reply;
};
struct Hold {
  Token token;
};
struct Throw {
  std::string what;
};
struct Quit {};

using ProbeMessage = std::variant<Put, Get, Hold, Throw, Quit>;

/// What an actor under test has seen, owned by the test and read when the executor stands still.
struct Log {
  std::vector<int> values;
  int started = 0;
  int ended = 0;
};

struct CountEnd {
  Log* log;
  ~CountEnd() { ++log->ended; }
};

/// Logs Put values, answers Get with twice the value, throws when told to.
inline Task<void> recorder(ActorContext<ProbeMessage>& self, Log* log) {
  ++log->started;
  const CountEnd end{log};
  while (auto message = co_await self.receive()) {
    if (auto* put = std::get_if<Put>(&*message)) {
      log->values.push_back(put->value);
    } else if (auto* get = std::get_if<Get>(&*message)) {
      get->reply.send(get->value * 2);
    } else if (auto* thrown = std::get_if<Throw>(&*message)) {
      throw std::runtime_error(thrown->what);
    } else if (std::holds_alternative<Quit>(*message)) {
      co_return;
    }
  }
}

inline auto make_get(int value) {
  return [value](Reply<int> reply) { return ProbeMessage{Get{value, std::move(reply)}}; };
}

inline std::vector<int> range(int from, int to) {
  std::vector<int> values;
  for (int i = from; i < to; ++i) values.push_back(i);
  return values;
}

}  // namespace spillway::runtime::probe
