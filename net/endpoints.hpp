// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the server answers, by path. Each endpoint is a coroutine of the connection that asked.

#include "net/http_exchange.hpp"
#include "net/service.hpp"
#include "net/text_answer.hpp"

namespace spillway::net {

class WebSocketSession;

/// Any HTTP request that is no upgrade.
asio::awaitable<void> answer_http(HttpExchange& exchange, Service& service);

asio::awaitable<void> answer_text(HttpExchange& exchange, Service& service, TextApi api);
asio::awaitable<void> answer_response(HttpExchange& exchange, Service& service);

/// /v1/responses as a WebSocket, until it closes. `principal`: number of the API key.
asio::awaitable<void> serve_responses(WebSocketSession& socket, Service& service, std::uint32_t principal);
/// /v1/live: the engine's state, a few times a second.
asio::awaitable<void> serve_live(WebSocketSession& socket, Service& service);

}  // namespace spillway::net
