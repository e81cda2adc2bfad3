// SPDX-License-Identifier: Apache-2.0
#pragma once

// What only some actors have: a name, a supervisor, the means to start again. Owned by the actor's cell.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/executor.hpp"
#include "runtime/supervision.hpp"

namespace spillway::runtime::detail {

struct ActorExtras {
  std::string name;
  SupervisorPolicy policy;
  std::unique_ptr<FrameFactory> factory;
  std::vector<TimePoint> failures;  // within the policy's window, oldest first
  std::uint32_t restarts = 0;
};

}  // namespace spillway::runtime::detail
