// SPDX-License-Identifier: Apache-2.0
#pragma once

// HttpExchange: one HTTP request and its answer, as endpoints see it. The connection behind it is http_connection.cpp.

#include <cstdint>
#include <string>
#include <string_view>

#include "net/api_error.hpp"
#include "net/bell.hpp"

namespace spillway::net {

struct HttpRequest {
  std::string method;
  std::string path;  // without the query
  std::string body;
  std::string request_id;  // the client's own, if it is fit to be repeated; else ours
  std::uint32_t principal = 0;  // number of the API key
  bool head = false;
};

class HttpExchange {
 public:
  virtual ~HttpExchange() = default;

  HttpRequest request;
  int status = 0;  // of the answer, once it began

  /// Rung when the client has gone, and by whatever the endpoint lets ring it.
  [[nodiscard]] virtual Bell& bell() = 0;
  /// The client closed the connection. Known only while the endpoint waits or writes.
  [[nodiscard]] virtual bool gone() const = 0;

  [[nodiscard]] virtual asio::awaitable<void> respond(int status, std::string_view content_type,
                                                      std::string_view body, std::string_view more_headers = {}) = 0;
  [[nodiscard]] asio::awaitable<void> json(std::string body) { return respond_json(200, std::move(body)); }
  [[nodiscard]] asio::awaitable<void> fail(ApiError error) {
    std::string headers;
    if (error.retry_after_s) headers = "Retry-After: " + std::to_string(*error.retry_after_s) + "\r\n";
    const int code = error.status;
    co_await respond(code, "application/json", error_body(error), headers);
  }

  /// A body of unknown length. False when the client has gone.
  [[nodiscard]] virtual asio::awaitable<bool> begin_stream(std::string_view content_type) = 0;
  [[nodiscard]] virtual asio::awaitable<bool> write(std::string_view data) = 0;
  [[nodiscard]] virtual asio::awaitable<void> end_stream() = 0;

 private:
  asio::awaitable<void> respond_json(int code, std::string body) {
    co_await respond(code, "application/json", body);
  }
};

}  // namespace spillway::net
