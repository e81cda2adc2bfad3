// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gpu/device.hpp"

namespace spillway::gpu::ranks {

/// A device that is one rank of several, or all there is.
class RankDevice : public Device {
 public:
  /// Why submit or copy would refuse this now.
  [[nodiscard]] virtual Result<void> admits(const StepPlan& plan) const = 0;
  [[nodiscard]] virtual Result<void> admits(const CopyPlan& plan) const = 0;
  /// Everything under way, and whatever comes, fails for this reason; nothing waits for another rank any
  /// more.
  virtual void fail(const Error& why) = 0;
};

}  // namespace spillway::gpu::ranks
