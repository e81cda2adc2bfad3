// SPDX-License-Identifier: Apache-2.0
#pragma once

// The one table from the house's errors to what a client sees: HTTP status, OpenAI's error type and code. An answer
// never carries a path, an address or a stack: only what the client sent and what would be right.

#include <optional>
#include <string>
#include <string_view>

#include "runtime/result.hpp"

namespace spillway::net {

struct ApiError {
  int status = 500;
  std::string type = "server_error";
  std::string code;     // empty: null
  std::string message;
  std::string param;    // empty: null
  std::optional<int> retry_after_s;
};

/// What the engine or a parser said, as an answer. kBadFile, kIo and kInternal keep their words to themselves: they
/// may name files of the server.
[[nodiscard]] ApiError to_api_error(const Error& error);

[[nodiscard]] ApiError invalid_request(std::string message, std::string param = {}, std::string code = {});
[[nodiscard]] ApiError unsupported_parameter(std::string_view param, std::string_view why);
[[nodiscard]] ApiError model_not_found(std::string_view name);
[[nodiscard]] ApiError queue_full();
[[nodiscard]] ApiError draining();

/// {"error":{"message","type","param","code"}}: an HTTP body, or `data:` of a stream that has begun.
[[nodiscard]] std::string error_body(const ApiError& error);
/// The nested form of the WebSocket: {"type":"error","status",...}. `stream_id` empty: the default lane.
[[nodiscard]] std::string error_event(const ApiError& error, std::string_view stream_id);

}  // namespace spillway::net
