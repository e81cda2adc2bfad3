// SPDX-License-Identifier: Apache-2.0
#include "net/load/arrivals.hpp"

#include <cmath>
#include <numbers>

namespace spillway::net::load {
namespace {

double rate_at(const ArrivalOptions& options, std::size_t index, std::size_t count) {
  if (!options.ramp_up) return options.rate_per_s;
  const RampUp& ramp = *options.ramp_up;
  const double progress = static_cast<double>(index) / static_cast<double>(count > 1 ? count - 1 : 1);
  return ramp.strategy == RampUp::Strategy::kLinear
             ? ramp.start_per_s + (ramp.end_per_s - ramp.start_per_s) * progress
             : ramp.start_per_s * std::pow(ramp.end_per_s / ramp.start_per_s, progress);
}

}  // namespace

Result<void> validate(const ArrivalOptions& options) {
  const auto wrong = [](const char* what) { return Error{Errc::kInvalidArgument, what}; };
  if (!(options.rate_per_s > 0)) return wrong("--request-rate must be over 0, or inf");
  if (!(options.burstiness > 0)) return wrong("--burstiness must be over 0, or inf");
  if (!options.ramp_up) return {};
  const RampUp& ramp = *options.ramp_up;
  if (std::isfinite(options.rate_per_s))
    return wrong("--ramp-up-strategy sets the rate; leave --request-rate out");
  if (!(ramp.start_per_s > 0) || !(ramp.end_per_s > 0) || !std::isfinite(ramp.start_per_s) ||
      !std::isfinite(ramp.end_per_s))
    return wrong("--ramp-up-start-rps and --ramp-up-end-rps are both needed, each over 0");
  return {};
}

double normal_variate(runtime::Random& random) {  // Box and Muller 1958
  const double radius = std::sqrt(-2 * std::log(1 - random.uniform()));
  return radius * std::cos(2 * std::numbers::pi * random.uniform());
}

double gamma_variate(double shape, runtime::Random& random) {  // Marsaglia and Tsang 2000
  if (shape < 1) {
    const double power = std::pow(1 - random.uniform(), 1 / shape);
    return gamma_variate(shape + 1, random) * power;
  }
  const double d = shape - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  for (;;) {
    const double x = normal_variate(random), v = std::pow(1 + c * x, 3);
    if (v > 0 && std::log(1 - random.uniform()) < x * x / 2 + d - d * v + d * std::log(v)) return d * v;
  }
}

std::vector<std::int64_t> arrival_times(const ArrivalOptions& options, std::size_t count,
                                        runtime::Random& random) {
  std::vector<double> times_s(count, 0.0);
  double now_s = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const double rate = rate_at(options, i, count);
    if (std::isfinite(rate)) {
      now_s += std::isinf(options.burstiness)
                   ? 1 / rate
                   : gamma_variate(options.burstiness, random) / (rate * options.burstiness);
    }
    times_s[i] = now_s;
  }
  double scale = 1;
  if (!options.ramp_up && now_s > 0) scale = static_cast<double>(count) / options.rate_per_s / now_s;
  std::vector<std::int64_t> times_ns;
  times_ns.reserve(count);
  for (const double time_s : times_s) times_ns.push_back(static_cast<std::int64_t>(time_s * scale * 1e9));
  return times_ns;
}

}  // namespace spillway::net::load
