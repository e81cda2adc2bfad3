// SPDX-License-Identifier: Apache-2.0
#pragma once

// A run as one HTML page that needs nothing else: plots are inline SVG, there is no script, and it follows
// the reader's dark or light theme.

#include <span>
#include <string>

#include "net/load/metrics.hpp"
#include "net/load/result_json.hpp"

namespace spillway::net::load {

[[nodiscard]] std::string html_report(const RunLabel& label, const Metrics& metrics,
                                      std::span<const Timeline> lines, const Goodput& goodput);

}  // namespace spillway::net::load
