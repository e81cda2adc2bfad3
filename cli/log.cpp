// SPDX-License-Identifier: Apache-2.0
#include "cli/log.hpp"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <array>

namespace spillway::cli {
namespace {

constexpr std::array<std::string_view, 6> kLevels = {"debug", "info", "warn", "error", "critical", "off"};
constexpr std::array kSpdlogLevels = {spdlog::level::debug, spdlog::level::info,     spdlog::level::warn,
                                      spdlog::level::err,   spdlog::level::critical, spdlog::level::off};

}  // namespace

void start_log() {
  auto logger = spdlog::stderr_color_mt("spillway");
  logger->set_pattern("%H:%M:%S.%e %^%l%$ %v");
  logger->set_level(spdlog::level::warn);
  spdlog::set_default_logger(std::move(logger));
}

std::span<const std::string_view> log_levels() { return kLevels; }

bool set_log_level(std::string_view level) {
  for (std::size_t i = 0; i < kLevels.size(); ++i) {
    if (kLevels[i] != level) continue;
    spdlog::set_level(kSpdlogLevels[i]);
    return true;
  }
  return false;
}

void log_info(std::string_view message) { spdlog::info("{}", message); }
void log_warning(std::string_view message) { spdlog::warn("{}", message); }

}  // namespace spillway::cli
