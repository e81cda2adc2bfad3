// SPDX-License-Identifier: Apache-2.0
#include "net/access_log.hpp"

#include <spdlog/spdlog.h>

#include "net/json_text.hpp"

namespace spillway::net {

void log_access(const HttpRequest& request, int status, runtime::Duration took) {
  if (!spdlog::should_log(spdlog::level::info)) return;
  spdlog::info("request={} method={} path={} status={} ms={:.1f} key={}", request.request_id, request.method,
               json_string(std::string_view(request.path).substr(0, 200)), status,
               std::chrono::duration<double, std::milli>(took).count(), request.principal);
}

void log_event(std::string_view what) { spdlog::info("{}", what); }

}  // namespace spillway::net
