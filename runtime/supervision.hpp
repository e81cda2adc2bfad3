// SPDX-License-Identifier: Apache-2.0
#pragma once

// What happens when an exception reaches an actor's root. Its frame and its mail are destroyed in any case (so leases
// and replies in them fire: whoever asked is answered with an error); then the policy decides.

#include <cstdint>
#include <functional>
#include <string>

#include "runtime/address.hpp"
#include "runtime/result.hpp"
#include "runtime/time.hpp"

namespace spillway::runtime {

struct DeathNotice {
  std::string actor;             // SpawnOptions::name
  std::uint64_t actor_id = 0;    // order of spawning, unique in its executor
  Error error;                   // kInternal with what() of the exception
  bool restarted = false;        // a new frame runs behind the same address
  std::uint32_t restarts = 0;    // so far
};

/// By default an actor that fails is gone, and the executor counts it (Executor::failure_count).
struct SupervisorPolicy {
  std::uint32_t max_restarts = 0;        // within `window`; 0: never restart
  Duration window = std::chrono::seconds(10);
  std::function<void(DeathNotice)> notify;  // runs on the failed actor's worker; set by notify_to

  static SupervisorPolicy stop() { return {}; }

  /// A new frame behind the same address, from copies of the arguments given to spawn. When more than
  /// `max_restarts` failures fall into `window`, the actor ends as with stop().
  static SupervisorPolicy restart(std::uint32_t max_restarts_in, Duration window_in = std::chrono::seconds(10)) {
    SupervisorPolicy policy;
    policy.max_restarts = max_restarts_in;
    policy.window = window_in;
    return policy;
  }

  /// Tells `supervisor` of every failure, restarted or not, by urgent mail `make(DeathNotice)`.
  template <class M, class Make>
  SupervisorPolicy notify_to(Address<M> supervisor, Make make) && {
    notify = [supervisor, make = std::move(make)](DeathNotice notice) {
      (void)supervisor.send_urgent(M(make(std::move(notice))));
    };
    return std::move(*this);
  }
};

}  // namespace spillway::runtime
