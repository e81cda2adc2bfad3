// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "actors/engine.hpp"

namespace spillway::cli {

/// Engine::create, with a line in the log about what it made.
[[nodiscard]] Result<std::unique_ptr<Engine>> start_engine(EngineOptions options);

}  // namespace spillway::cli
