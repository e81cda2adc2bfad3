// SPDX-License-Identifier: Apache-2.0
// ws_echo PORT: sends every WebSocket message back, on the server's own session code. What conformance suites
// (Autobahn's fuzzing client, kosoku) are pointed at.

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "net/websocket_session.hpp"

namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using spillway::net::NetStream;
using spillway::net::WebSocketSession;

asio::awaitable<void> echo(tcp::socket socket) {
  WebSocketSession session(NetStream(std::move(socket)), {.message_bytes_max = std::size_t{64} << 20, .deflate_bytes_min = 0});
  const bool accepted = co_await session.accept();
  if (!accepted) co_return;
  while (auto message = co_await session.read()) {
    const bool written = co_await session.write(message->data, message->binary);
    if (!written) break;
  }
  co_await session.linger();
}

asio::awaitable<void> accept_all(tcp::acceptor acceptor) {
  while (true) {
    tcp::socket socket = co_await acceptor.async_accept(asio::use_awaitable);
    socket.set_option(tcp::no_delay(true));
    asio::co_spawn(acceptor.get_executor(), echo(std::move(socket)), asio::detached);
  }
}

}  // namespace

int main(int argc, char** argv) {
  char* end = nullptr;
  const unsigned long port = argc == 2 ? std::strtoul(argv[1], &end, 10) : 0;
  if (port == 0 || port > 65535 || *end != '\0') {
    std::fprintf(stderr, "usage: ws_echo PORT\n");
    return 2;
  }
  try {
    asio::io_context io(1);
    tcp::acceptor acceptor(io, {asio::ip::make_address("127.0.0.1"), static_cast<std::uint16_t>(port)});
    asio::co_spawn(io, accept_all(std::move(acceptor)), asio::detached);
    io.run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ws_echo: %s\n", error.what());
    return 1;
  }
}
