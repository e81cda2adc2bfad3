// SPDX-License-Identifier: Apache-2.0
#pragma once

// One client connection: reads its requests one after another, hands each to its endpoint, becomes a WebSocket when
// asked to. Every wait has a limit, so a client that sends its header byte by byte, or takes no answer, is cut.

#include <boost/asio/awaitable.hpp>

#include "net/access.hpp"
#include "net/net_stream.hpp"
#include "net/service.hpp"

namespace spillway::net {

/// Until the connection has ended.
asio::awaitable<void> serve_connection(NetStream stream, Service& service, const Access& access);

}  // namespace spillway::net
