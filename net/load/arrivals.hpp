// SPDX-License-Identifier: Apache-2.0
#pragma once

// Arrival times of an open loop: absolute, made before the run, independent of what the server does.

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "runtime/random.hpp"
#include "runtime/result.hpp"

namespace spillway::net::load {

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct RampUp {
  enum class Strategy { kLinear, kExponential } strategy = Strategy::kLinear;
  double start_per_s = 0, end_per_s = 0;
};

struct ArrivalOptions {
  double rate_per_s = kInfinity;  // infinite: all at once
  /// Shape of the Gamma distribution of the gaps: 1 is Poisson, below 1 burstier (the gaps' coefficient of
  /// variation is 1/sqrt(burstiness)), infinite is a constant gap.
  double burstiness = 1;
  std::optional<RampUp> ramp_up;  // the rate then goes from one value to the other over the requests
};

/// Errors: kInvalidArgument, naming the option.
[[nodiscard]] Result<void> validate(const ArrivalOptions& options);

/// `count` times in ascending order, ns from the start. Without a ramp the gaps are scaled so that the last
/// request is due at exactly count / rate: the offered load does not depend on the seed.
[[nodiscard]] std::vector<std::int64_t> arrival_times(const ArrivalOptions& options, std::size_t count,
                                                      runtime::Random& random);

/// Standard normal and Gamma(shape, scale 1) variates, the same on every machine for a seed.
[[nodiscard]] double normal_variate(runtime::Random& random);
[[nodiscard]] double gamma_variate(double shape, runtime::Random& random);

}  // namespace spillway::net::load
