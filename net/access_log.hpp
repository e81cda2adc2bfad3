// SPDX-License-Identifier: Apache-2.0
#pragma once

// One line a request, as key=value pairs: never a body, a key or a prompt.

#include "net/http_exchange.hpp"
#include "runtime/time.hpp"

namespace spillway::net {

void log_access(const HttpRequest& request, int status, runtime::Duration took);
void log_event(std::string_view what);

}  // namespace spillway::net
