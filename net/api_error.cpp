// SPDX-License-Identifier: Apache-2.0
#include "net/api_error.hpp"

#include "net/json_text.hpp"

namespace spillway::net {
namespace {

struct Row {
  Errc code;
  int status;
  std::string_view type;
  std::string_view api_code;
  std::string_view words;  // empty: the error's own
};

constexpr Row kTable[] = {
    {Errc::kInvalidArgument, 400, "invalid_request_error", "", ""},
    {Errc::kNotFound, 404, "invalid_request_error", "not_found", ""},
    {Errc::kBadFile, 500, "server_error", "server_error", "The server could not read a file of its own."},
    {Errc::kUnsupported, 400, "invalid_request_error", "unsupported", ""},
    {Errc::kOutOfMemory, 400, "invalid_request_error", "context_length_exceeded", ""},
    {Errc::kQueueFull, 429, "rate_limit_error", "rate_limit_exceeded", "The queue is full; try again later."},
    {Errc::kCancelled, 499, "invalid_request_error", "cancelled", "The request was cancelled."},
    {Errc::kDeadlineExceeded, 408, "invalid_request_error", "timeout", ""},
    {Errc::kDeviceFailed, 500, "server_error", "server_error", "The device failed while it computed this request."},
    {Errc::kClosed, 503, "server_error", "unavailable", "The server is shutting down."},
    {Errc::kIo, 500, "server_error", "server_error", "The server could not read or write."},
    {Errc::kInternal, 500, "server_error", "server_error", "The server failed on this request."},
};

void append_members(std::string& out, const ApiError& error) {
  out += R"("message":)";
  append_quoted(out, error.message);
  out += R"(,"type":)";
  append_quoted(out, error.type);
  out += R"(,"param":)";
  append_quoted_or_null(out, error.param);
  out += R"(,"code":)";
  append_quoted_or_null(out, error.code);
}

}  // namespace

ApiError to_api_error(const Error& error) {
  for (const Row& row : kTable) {
    if (row.code != error.code) continue;
    ApiError api{.status = row.status,
                 .type = std::string(row.type),
                 .code = std::string(row.api_code),
                 .message = row.words.empty() ? error.message : std::string(row.words)};
    if (row.code == Errc::kQueueFull) api.retry_after_s = 1;
    return api;
  }
  return {.message = "The server failed on this request."};
}

ApiError invalid_request(std::string message, std::string param, std::string code) {
  return {.status = 400,
          .type = "invalid_request_error",
          .code = std::move(code),
          .message = std::move(message),
          .param = std::move(param)};
}

ApiError unsupported_parameter(std::string_view param, std::string_view why) {
  return invalid_request("'" + std::string(param) + "' is not supported: " + std::string(why), std::string(param),
                         "unsupported_parameter");
}

ApiError model_not_found(std::string_view name) {
  return {.status = 404,
          .type = "invalid_request_error",
          .code = "model_not_found",
          .message = "The model `" + std::string(name) + "` does not exist.",
          .param = "model"};
}

ApiError queue_full() { return to_api_error({Errc::kQueueFull, {}}); }
ApiError draining() { return to_api_error({Errc::kClosed, {}}); }

std::string error_body(const ApiError& error) {
  std::string out = R"({"error":{)";
  append_members(out, error);
  return out + "}}";
}

std::string error_event(const ApiError& error, std::string_view stream_id) {
  std::string out = R"({"type":"error","status":)" + std::to_string(error.status);
  if (!stream_id.empty()) {
    out += R"(,"stream_id":)";
    append_quoted(out, stream_id);
  }
  out += R"(,"error":{)";
  append_members(out, error);
  if (error.retry_after_s) {
    out += R"(,"headers":{"retry-after":")" + std::to_string(*error.retry_after_s) + R"("})";
  }
  return out + "}}";
}

}  // namespace spillway::net
