// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "actors/engine.hpp"

namespace spillway::cli {

/// Engine::create, with a line in the log about what it made. Without `keep_stall_limit` answers may wait for their
/// reader as long as he likes.
[[nodiscard]] Result<std::unique_ptr<Engine>> start_engine(EngineOptions options, bool keep_stall_limit = false);

}  // namespace spillway::cli
