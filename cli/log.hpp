// SPDX-License-Identifier: Apache-2.0
#pragma once

// The log: one line an event on stderr, through spdlog.

#include <span>
#include <string_view>

namespace spillway::cli {

/// Sets the process's logger up; level warn.
void start_log();
[[nodiscard]] std::span<const std::string_view> log_levels();
/// False if there is no such level.
[[nodiscard]] bool set_log_level(std::string_view level);

void log_info(std::string_view message);
void log_warning(std::string_view message);

}  // namespace spillway::cli
